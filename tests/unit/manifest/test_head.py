import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import p2psync
from p2psync.errors import BadSignatureError, MalformedError, UnsupportedVersionError
from p2psync.limits import HEAD_BYTES_MAX, NAME_CHARS_MAX, TAG_CHARS_MAX, VERSION_MAX
from p2psync.manifest import Head, open_head, peek_head, peek_key_hint, sign_head
from p2psync.manifest.head import MINIMUM, RELEASE
from tests.manifests import NOW_S, PUBLISHER, STRANGER, digest_of, payload_of, sample_head, signed

BASES = tuple(digest_of(f"base {i}") for i in range(4))
KEY = PUBLISHER.verify_key

HEADS = st.builds(
    Head,
    name=st.sampled_from(["a/b", "acme/wan2.2-t2v-a14b", "a/" + "b" * (NAME_CHARS_MAX - 2)]),
    tag=st.sampled_from(["latest", "v1", "t" * TAG_CHARS_MAX]),
    version=st.integers(0, VERSION_MAX),
    root=st.binary(min_size=32, max_size=32).map(digest_of("").__class__),
    size=st.integers(0, (1 << 63) - 1),
    created=st.integers(0, VERSION_MAX),
    expires=st.one_of(st.none(), st.integers(0, VERSION_MAX)),
    refresh_after_s=st.integers(0, VERSION_MAX),
    bases=st.integers(0, 3).map(lambda n: BASES[:n]),
    extra=st.dictionaries(st.sampled_from(["later", "zzz"]), st.one_of(st.integers(), st.none(), st.booleans())),
)


@given(HEADS)
@settings(deadline=None)
def test_head_round_trips(head):
    """What was signed opens as what was said, but for bases that did not fit into 1 KiB."""
    envelope = sign_head(head, PUBLISHER)
    opened = open_head(envelope, KEY)
    assert len(envelope) <= HEAD_BYTES_MAX
    assert opened.bases == head.bases[: len(opened.bases)]
    assert sign_head(opened, PUBLISHER) == envelope
    assert [getattr(opened, f) for f in Head.__slots__ if f != "bases"] == [
        getattr(head, f) for f in Head.__slots__ if f != "bases"
    ]


def test_typical_head_has_room_for_three_bases():
    """A head with a usual name, three bases and an expiry stays under 1 KiB."""
    head = sample_head(name="acme/wan2.2-t2v-a14b", bases=BASES[:3], expires=NOW_S)
    assert len(sign_head(head, PUBLISHER)) <= HEAD_BYTES_MAX
    assert open_head(sign_head(head, PUBLISHER), KEY) == head


def test_longest_names_fit():
    """A name and a tag at their caps fit beside the largest numbers; bases give way."""
    head = sample_head(
        name="n" * 47 + "/" + "m" * 48,
        tag="t" * TAG_CHARS_MAX,
        version=VERSION_MAX,
        size=(1 << 63) - 1,
        created=VERSION_MAX,
        expires=VERSION_MAX,
        bases=BASES,
    )
    opened = open_head(sign_head(head, PUBLISHER), KEY)
    assert opened.name == head.name
    assert 1 <= len(opened.bases) < 3


def test_no_more_than_three_bases():
    """Bases past the third stand in the root only."""
    assert open_head(sign_head(sample_head(bases=BASES), PUBLISHER), KEY).bases == BASES[:3]


def test_head_without_room_is_not_signed():
    """Where even a head without bases is longer than 1 KiB, nothing is signed."""
    with pytest.raises(MalformedError, match="more than 1024"):
        sign_head(sample_head(extra={"later": "x" * 600}), PUBLISHER)


@pytest.mark.parametrize(
    "changed",
    [
        {"version": -1},
        {"version": VERSION_MAX + 1},
        {"version": True},
        {"version": 1.0},
        {"size": 1 << 63},
        {"created": -1},
        {"expires": -1},
        {"refresh_after_s": "1"},
        {"name": "wan"},
        {"tag": "a b"},
        {"bases": (BASES[0], BASES[0])},
        {"minimum": "1"},
        {"extra": {"tag": "other"}},
        {"extra": {"later": 1.5}},
        {"extra": {"later": "\ud800"}},
        {"extra": {"later": [[[[[[[[[1]]]]]]]]]}},
    ],
)
def test_what_no_reader_accepts_is_not_signed(changed):
    """A head that readers would refuse never gets a signature."""
    with pytest.raises(MalformedError):
        sign_head(sample_head(**changed), PUBLISHER)


def test_newer_head_is_not_signed_by_an_older_program():
    """A head that this p2psync could not read back is not signed by it."""
    with pytest.raises(UnsupportedVersionError):
        sign_head(sample_head(minimum="999.0.0"), PUBLISHER)


def test_unknown_fields_survive():
    """A field of a newer minor version is kept, and stays signed when the head is signed again."""
    opened = open_head(signed(payload_of(channel={"name": "stable", "ttl": [1, None]})), KEY)
    assert opened.extra == {"channel": {"name": "stable", "ttl": [1, None]}}
    assert open_head(sign_head(opened, PUBLISHER), KEY) == opened


def test_newer_program_needed():
    """A head that needs a newer p2psync says which, before anything else in it is judged."""
    with pytest.raises(UnsupportedVersionError, match=r"0\.10\.0"):
        open_head(signed(payload_of(minimum="0.10.0", version="new form")), KEY)


def test_release_is_this_package():
    """What this p2psync says it reads is what it is."""
    assert p2psync.__version__ == RELEASE
    assert sample_head().minimum == MINIMUM


def test_peeking_needs_no_key():
    """Whoever signed it, a head can be shown; the key id says who claims to have."""
    envelope = signed(payload_of(), key=STRANGER)
    assert peek_head(envelope).name == "acme/wan"
    assert peek_key_hint(envelope) == STRANGER.verify_key.key_id
    with pytest.raises(BadSignatureError, match=STRANGER.verify_key.key_id):
        open_head(envelope, KEY)


def test_payload_is_not_parsed_before_its_signature_holds():
    """Garbage that nobody signed is a bad signature, not a malformed head."""
    value = json.loads(signed(b"garbage"))
    value["signatures"][0]["sig"] = json.loads(signed(b"other"))["signatures"][0]["sig"]
    envelope = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(BadSignatureError):
        open_head(envelope, KEY)


@given(st.binary(max_size=300))
def test_garbage_is_refused(data):
    """Any bytes are refused by name."""
    with pytest.raises(MalformedError):
        peek_head(data)
