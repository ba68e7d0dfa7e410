from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.errors import InvalidReferenceError
from p2psync.limits import NAME_CHARS_MAX, TAG_CHARS_MAX
from p2psync.manifest import Reference
from tests.manifests import digest_of

DIGEST = digest_of("x")

PARTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True).filter(
    lambda part: part not in {"tags", "digests"} and not part.endswith(".json")
)
TEXTS = st.builds(
    lambda parts, tag, digest: "/".join(parts) + (f":{tag}" if tag else "") + (f"@{digest}" if digest else ""),
    st.lists(PARTS, min_size=2, max_size=4),
    st.one_of(st.none(), PARTS),
    st.sampled_from([None, DIGEST]),
)


@given(TEXTS)
def test_reference_prints_as_it_was_written(text):
    """A reference, with or without tag and digest, prints back the same and reads back equal."""
    reference = Reference.parse(text)
    assert str(reference) == text
    assert Reference.parse(str(reference)) == reference


def test_parts_of_a_reference():
    """Name, tag, digest and namespace come apart; the tag is ``latest`` where none is written."""
    full = Reference.parse(f"acme/wan/small:v1@{DIGEST}")
    assert (full.name, full.tag, full.digest, full.namespace) == ("acme/wan/small", "v1", DIGEST, "acme")
    plain = Reference.parse("acme/wan")
    assert (plain.tag, plain.digest) == ("latest", None)
    assert plain == Reference("acme/wan") == Reference.parse("acme/wan:latest")


def test_reference_can_be_fixed_to_a_version():
    """The same reference with a digest keeps how its tag was written."""
    assert str(Reference.parse("acme/wan").at(DIGEST)) == f"acme/wan@{DIGEST}"
    assert str(Reference("acme/wan").at(DIGEST)) == f"acme/wan:latest@{DIGEST}"


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_refused(text):
    """Nothing else than InvalidReferenceError comes out of any text."""
    try:
        reference = Reference.parse(text)
    except InvalidReferenceError:
        return
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wan",
        "acme/",
        "/wan",
        "acme//wan",
        "a/b/c/d/e",
        "acme/../wan",
        "acme/.wan",
        "acme/-wan",
        "acme/wan:",
        "acme/wan:-x",
        "acme/wan:a:b",
        "acme/wan:a/b",
        "acme/wan@",
        "acme/wan@sha256:00",
        "acme/wan@b3:00",
        f"acme/wan@{str(DIGEST).upper()}",
        f"acme/wan@{DIGEST}@{DIGEST}",
        "acme/wan\n",
        "acme/wän",
        "acme/wan:\u0661",
        "acme/tags/x",
        "acme/digests",
        "acme/x.json",
        f"acme/{DIGEST.hex()}",
        "a/" + "b" * (NAME_CHARS_MAX - 1),
        "a/b:" + "t" * (TAG_CHARS_MAX + 1),
    ],
)
def test_what_is_no_reference_is_refused(text):
    """Everything outside the grammar is refused, and so are parts that a home or an origin tree uses itself."""
    with pytest.raises(InvalidReferenceError):
        Reference.parse(text)


def test_longest_name_and_tag_are_accepted():
    """The caps themselves are inside."""
    reference = Reference("a/" + "b" * (NAME_CHARS_MAX - 2), "t" * TAG_CHARS_MAX)
    assert Reference.parse(str(reference)) == reference


def test_reference_is_checked_however_it_is_made():
    """A reference that would not parse cannot be constructed either."""
    with pytest.raises(InvalidReferenceError):
        Reference("../etc")
    with pytest.raises(InvalidReferenceError):
        replace(Reference("a/b"), tag="a b")
