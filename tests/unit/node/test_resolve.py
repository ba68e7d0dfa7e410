"""Of what several sources say of a reference, only what is signed counts, and of that the highest version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from p2psync.content import Digest
from p2psync.errors import (
    BadSignatureError,
    ExpiredError,
    ModelNotFoundError,
    NetworkError,
    P2PSyncError,
    RollbackError,
    SourceUnreachableError,
    UnknownSignerError,
    WrongHeadError,
)
from p2psync.manifest import Head, Reference, SigningKey, sign_head
from p2psync.node import resolve as module
from p2psync.node.resolve import EtagMemory, Resolved, resolve, selector_of
from p2psync.transport import HeadReply
from p2psync.trust import TrustStore
from tests.stores import KEY, NOW_S
from tests.unit.node.fakes import FakeSource

REFERENCE = Reference.parse("acme/model")
STRANGER = SigningKey.generate(bytes(32))


def head(version: int, *, tag: str = "latest", expires: int | None = None) -> Head:
    return Head("acme/model", tag, version, Digest.of(b"%d" % version), 1, NOW_S, expires)


def said(version: int, key: SigningKey = KEY, **fields: object) -> bytes:
    return sign_head(head(version, **fields), key)


@pytest.fixture
def trust(tmp_path: Path) -> TrustStore:
    """Trusts the publisher of acme/*."""
    store = TrustStore(tmp_path / "trust")
    store.add("acme/*", KEY.verify_key)
    return store


@pytest.fixture
def etags(tmp_path: Path) -> EtagMemory:
    """A memory without entries."""
    return EtagMemory(tmp_path / "etags.json")


async def ask(
    sources: Sequence[FakeSource], trust: TrustStore, etags: EtagMemory, known: bytes | None = None
) -> Resolved:
    return await resolve(REFERENCE, sources, trust, known, etags, NOW_S)


async def test_highest_version_wins(trust: TrustStore, etags: EtagMemory) -> None:
    """Whatever the order of the sources, the newest head is taken."""
    sources = [FakeSource(f"s{v}", envelope=said(v)) for v in (2, 10, 9)]
    found = await ask(sources, trust, etags)
    assert found.head.version == 10
    assert found.envelope == said(10)
    assert not found.unchanged
    assert found.failures == {}


async def test_two_contents_under_one_version(trust: TrustStore, etags: EtagMemory) -> None:
    """A publisher who signs two contents as the same version is not followed to either of them."""
    other = replace(head(2), root=Digest.of(b"another"))
    sources = [FakeSource("http://a", envelope=said(2)), FakeSource("http://b", envelope=sign_head(other, KEY))]
    with pytest.raises(RollbackError, match="version 2 of acme/model:latest"):
        await ask(sources, trust, etags)


async def test_bad_signature_beside_a_good_one(trust: TrustStore, etags: EtagMemory) -> None:
    """A stranger's head of a higher version is a fault of its source; the good head is taken."""
    sources = [FakeSource("forger", envelope=said(99, STRANGER)), FakeSource("good", envelope=said(3))]
    found = await ask(sources, trust, etags)
    assert found.head.version == 3
    assert list(found.failures) == ["forger"]
    assert isinstance(found.failures["forger"], BadSignatureError)


@pytest.mark.parametrize(
    ("envelope", "kind"),
    [
        (said(5, STRANGER), BadSignatureError),
        (said(5, tag="other"), WrongHeadError),
        (said(5, expires=NOW_S), ExpiredError),
        (said(1), RollbackError),
    ],
)
async def test_trust_outranks_network(
    trust: TrustStore, etags: EtagMemory, envelope: bytes, kind: type[P2PSyncError]
) -> None:
    """When nobody has an acceptable head, what was signed wrongly is told before who was not reached."""
    trust.raise_floor(head(2))
    sources = [
        FakeSource("gone", error=SourceUnreachableError("gone")),
        FakeSource("liar", envelope=envelope),
        FakeSource("empty"),
    ]
    with pytest.raises(kind) as caught:
        await ask(sources, trust, etags)
    assert caught.value.exit_code == 4


async def test_network_outranks_not_found(trust: TrustStore, etags: EtagMemory) -> None:
    """A source that was not reached might have had it."""
    with pytest.raises(SourceUnreachableError):
        await ask([FakeSource("empty"), FakeSource("gone", error=SourceUnreachableError("gone"))], trust, etags)


async def test_reference_that_nobody_knows(trust: TrustStore, etags: EtagMemory) -> None:
    """Not found names everybody who was asked."""
    with pytest.raises(ModelNotFoundError, match=r"acme/model.* is not at a, b"):
        await ask([FakeSource("b"), FakeSource("a")], trust, etags)


async def test_nobody_to_ask(trust: TrustStore, etags: EtagMemory) -> None:
    """Without a source the hint says how to name one."""
    with pytest.raises(NetworkError) as caught:
        await ask([], trust, etags)
    assert "--from URL" in (caught.value.hint or "")


async def test_untrusted_name_says_whom_to_trust(tmp_path: Path, etags: EtagMemory) -> None:
    """A home that trusts nobody refuses with the command that would bind a key."""
    with pytest.raises(UnknownSignerError) as caught:
        await ask([FakeSource("a", envelope=said(1))], TrustStore(tmp_path / "none"), etags)
    assert "p2psync trust add 'acme/*'" in (caught.value.hint or "")


async def test_nothing_is_written_by_looking(trust: TrustStore, etags: EtagMemory) -> None:
    """Resolving raises no floor; that is for whoever acts upon it."""
    await ask([FakeSource("a", envelope=said(7))], trust, etags)
    assert trust.floor("acme/model", "latest") is None


async def test_remembered_etag_spares_the_envelope(trust: TrustStore, etags: EtagMemory, tmp_path: Path) -> None:
    """The tag that came with the envelope that is here is sent; the head is then the same one."""
    source = FakeSource("a", envelope=said(4), etag='"e4"')
    first = await ask([source], trust, etags)
    etags.save()
    again = await ask([source], trust, EtagMemory(tmp_path / "etags.json"), first.envelope)
    assert source.etags == [None, '"e4"']
    assert again.unchanged
    assert again.head == first.head


async def test_not_modified_is_judged_anew(trust: TrustStore, etags: EtagMemory) -> None:
    """A source that says "not modified" of a head below the floor is refused like one that sends it."""
    source = FakeSource("a", envelope=said(4), etag='"e4"')
    await ask([source], trust, etags)
    trust.raise_floor(head(5))
    with pytest.raises(RollbackError):
        await ask([source], trust, etags, said(4))
    assert source.etags[-1] == '"e4"'


def test_etag_of_another_envelope_is_not_sent(etags: EtagMemory) -> None:
    """An entry counts only for its url, its reference and exactly its envelope bytes."""
    etags.learn("a", REFERENCE, HeadReply(said(4), '"e4"'))
    assert etags.recall("a", REFERENCE, said(4)) == '"e4"'
    assert etags.recall("a", REFERENCE, said(5)) is None
    assert etags.recall("a", REFERENCE, None) is None
    assert etags.recall("b", REFERENCE, said(4)) is None
    assert etags.recall("a", Reference.parse("acme/model:v2"), said(4)) is None


def test_answers_without_a_tag_teach_nothing(etags: EtagMemory) -> None:
    """A reply without an entity tag, or without an envelope, changes no entry."""
    etags.learn("a", REFERENCE, HeadReply(said(4), '"e4"'))
    etags.learn("a", REFERENCE, HeadReply(None, '"other"'))
    etags.learn("a", REFERENCE, HeadReply(said(5), None))
    assert etags.recall("a", REFERENCE, said(4)) == '"e4"'


@pytest.mark.parametrize(
    "garbled", [b"", b"\xff\x00", b"[]", b"3", b'{"a": 1}', b'{"a": []}', b'{"a": ["x"]}', b"[" * 100_000]
)
def test_garbled_memory_is_an_empty_one(tmp_path: Path, garbled: bytes) -> None:
    """A file that holds anything else costs its entries and no more; the next save replaces it."""
    path = tmp_path / "etags.json"
    path.write_bytes(garbled)
    memory = EtagMemory(path)
    assert memory.recall("a", REFERENCE, said(4)) is None
    memory.learn("a", REFERENCE, HeadReply(said(4), '"e4"'))
    memory.save()
    assert EtagMemory(path).recall("a", REFERENCE, said(4)) == '"e4"'


def test_memory_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its bound the memory forgets what it learned first."""
    monkeypatch.setattr(module, "ETAGS_MAX", 2)
    memory = EtagMemory(tmp_path / "etags.json")
    for url in ("a", "b", "c", "a"):
        memory.learn(url, REFERENCE, HeadReply(said(4), f'"{url}"'))
    memory.save()
    kept = EtagMemory(tmp_path / "etags.json")
    assert [kept.recall(url, REFERENCE, said(4)) for url in "abc"] == ['"a"', None, '"c"']


def test_memory_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    """Saving into a folder that is not there does nothing."""
    memory = EtagMemory(tmp_path / "gone" / "etags.json")
    memory.learn("a", REFERENCE, HeadReply(said(4), '"e4"'))
    memory.save()
    assert not (tmp_path / "gone").exists()


def test_selector_is_the_digest_where_there_is_one() -> None:
    """A source is asked by digest where the reference names one, else by tag."""
    digest = Digest.of(b"x")
    assert selector_of(Reference.parse("acme/model:v2")) == "v2"
    assert selector_of(Reference.parse(f"acme/model:v2@{digest}")) == str(digest)
