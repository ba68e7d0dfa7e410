import json
import os
import stat
import threading

import pytest

from p2psync.errors import NotFoundError, StoreError, TrustError, UnknownSignerError, UsageError
from p2psync.manifest import Reference, SigningKey
from p2psync.trust import TrustEntry, TrustStore, accept
from tests.manifests import NOW_S, PUBLISHER, STRANGER, digest_of, payload_of, sample_head, signed

KEY, OTHER = PUBLISHER.verify_key, STRANGER.verify_key
THIRD = SigningKey.from_bytes(bytes(32)).verify_key


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "home" / "trust"


@pytest.fixture
def trust(folder):
    return TrustStore(folder)


# Who speaks for what --------------------------------------------------------------------------------------------------


def test_namespace_is_bound_to_its_publisher(trust):
    """A pattern with a star covers every name that starts so; others are unknown."""
    trust.add("acme/*", KEY)
    assert trust.key_for("acme/wan") == trust.key_for("acme/a/b/c") == KEY
    for name in ("acm/wan", "acmes/wan", "acme2/wan", "Acme/wan", "other/acme"):
        with pytest.raises(UnknownSignerError):
            trust.key_for(name)


def test_longest_pattern_wins(trust):
    """The most exact binding decides, in whatever order they were made."""
    trust.add("acme/wan", THIRD)
    trust.add("acme/*", KEY)
    trust.add("acme/wan*", OTHER)
    assert trust.key_for("acme/wan") == THIRD
    assert trust.key_for("acme/wan2") == OTHER
    assert trust.key_for("acme/other") == KEY


def test_bindings_are_kept(trust, folder):
    """What was bound is there for whoever opens the home next; binding it again changes nothing."""
    trust.add("acme/*", KEY)
    trust.add("acme/*", KEY)
    trust.add("beta/x", OTHER)
    assert TrustStore(folder).entries() == [TrustEntry("acme/*", KEY), TrustEntry("beta/x", OTHER)]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_second_owner_is_refused(trust):
    """A pattern has one owner until somebody removes it on purpose."""
    trust.add("acme/*", KEY)
    with pytest.raises(TrustError) as caught:
        trust.add("acme/*", OTHER)
    assert caught.value.exit_code == 4
    assert "trust rm 'acme/*'" in caught.value.hint
    assert trust.key_for("acme/x") == KEY
    trust.remove("acme/*")
    trust.add("acme/*", OTHER)
    assert trust.key_for("acme/x") == OTHER


def test_removed_binding(trust):
    """A binding that was removed covers nothing; one that is not there cannot be removed."""
    trust.add("acme/*", KEY)
    trust.remove("acme/*")
    assert trust.entries() == []
    with pytest.raises(UnknownSignerError):
        trust.key_for("acme/x")
    with pytest.raises(NotFoundError):
        trust.remove("acme/*")


def test_nothing_is_trusted_at_first(trust, folder):
    """An empty home trusts nobody, and looking makes no files."""
    assert trust.entries() == []
    assert trust.floor("acme/wan", "latest") is None
    with pytest.raises(UnknownSignerError):
        trust.key_for("acme/wan")
    assert not folder.exists()


@pytest.mark.parametrize(
    "pattern",
    ["", "*", "acme", "acme*", "acme/", "acme/**", "*/wan", "acme/*/x", "acme//*", "../*", "acme/w n", "a/" + "b" * 99],
)
def test_pattern_that_spans_namespaces_is_refused(trust, pattern):
    """A pattern lies within one namespace and is a name, or the start of one and a star."""
    with pytest.raises(UsageError):
        trust.add(pattern, KEY)


@pytest.mark.parametrize("pattern", ["acme/*", "acme/wan", "acme/wan*", "acme/a/b", "acme/a/*", "acme/wan-2.*"])
def test_patterns(trust, pattern):
    """Names, starts of names and whole namespaces are patterns."""
    trust.add(pattern, KEY)
    assert [entry.pattern for entry in trust.entries()] == [pattern]


def test_bindings_made_at_once_are_all_kept(trust, folder):
    """Several writers at once lose nothing."""
    threads = [threading.Thread(target=TrustStore(folder).add, args=(f"ns{i}/*", KEY)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trust.entries()) == 12


# How far each tag has come --------------------------------------------------------------------------------------------


def test_floor_only_rises(trust):
    """A lower or equal version never lowers the floor or swaps its root."""
    trust.add("acme/*", KEY)
    trust.raise_floor(sample_head(version=5, root=digest_of("5")))
    trust.raise_floor(sample_head(version=4, root=digest_of("4")))
    trust.raise_floor(sample_head(version=5, root=digest_of("other")))
    floor = trust.floor("acme/wan", "latest")
    assert (floor.version, floor.root) == (5, digest_of("5"))
    trust.raise_floor(sample_head(version=6, root=digest_of("6")))
    assert trust.floor("acme/wan", "latest").version == 6


def test_floors_are_apart(trust):
    """Each name and tag has a floor of its own."""
    trust.add("acme/*", KEY)
    trust.raise_floor(sample_head(version=5))
    assert trust.floor("acme/wan", "stable") is None
    assert trust.floor("acme/wan2", "latest") is None


def test_equal_head_writes_nothing(trust, folder):
    """Accepting what is known touches no file."""
    trust.add("acme/*", KEY)
    trust.raise_floor(sample_head())
    before = (folder / "floors.json").stat()
    trust.raise_floor(sample_head())
    after = (folder / "floors.json").stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_floor_outlives_its_binding(trust):
    """Removing and adding a key again does not let an old version in."""
    trust.add("acme/*", KEY)
    trust.raise_floor(sample_head(version=5))
    trust.remove("acme/*")
    trust.add("acme/*", KEY)
    assert trust.floor("acme/wan", "latest").version == 5


def test_floors_raised_at_once_are_all_kept(trust, folder):
    """Several writers at once lose no floor."""
    trust.add("acme/*", KEY)
    heads = [sample_head(tag=f"t{i}", version=i + 1) for i in range(12)]
    threads = [threading.Thread(target=TrustStore(folder).raise_floor, args=(head,)) for head in heads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [trust.floor("acme/wan", head.tag).version for head in heads] == [head.version for head in heads]


# Files that are not what they were ------------------------------------------------------------------------------------

GARBLED = {
    "empty": b"",
    "half": b'{"floors": {"acme/wan:latest": [3,',
    "not JSON": b"\x00\xff",
    "deep": b"[" * 100_000,
    "array": b"[]",
    "another object": b'{"format": 1}',
    "a field too many": b'{"floors": {}, "entries": {}, "format": 1}',
    "later format": b'{"floors": {}, "format": 2}',
    "a floor that is a number": b'{"floors": {"a/b:c": 3}, "format": 1}',
    "a version that is text": b'{"floors": {"a/b:c": ["3", "b3:' + b"0" * 64 + b'"]}, "format": 1}',
    "a version that is true": b'{"floors": {"a/b:c": [true, "b3:' + b"0" * 64 + b'"]}, "format": 1}',
    "a root that is none": b'{"floors": {"a/b:c": [3, "b3:00"]}, "format": 1}',
    "a floor twice": b'{"floors": {}, "floors": {}, "format": 1}',
}


@pytest.mark.parametrize("damage", GARBLED)
def test_garbled_floors_ask_the_operator(trust, folder, damage):
    """Floors that cannot be read are never taken for none: nothing is accepted, and the hint says what to do."""
    trust.add("acme/*", KEY)
    trust.raise_floor(sample_head(version=5))
    (folder / "floors.json").write_bytes(GARBLED[damage])
    for act in (
        lambda: accept(signed(payload_of()), Reference("acme/wan"), trust, NOW_S),
        lambda: trust.floor("acme/wan", "latest"),
        lambda: trust.raise_floor(sample_head(version=9)),
    ):
        with pytest.raises(StoreError, match="is garbled") as caught:
            act()
        assert str(folder / "floors.json") in caught.value.hint
    assert (folder / "floors.json").read_bytes() == GARBLED[damage]


def test_lost_floors_ask_the_operator(trust, folder):
    """A file of floors that is gone is lost, not new; a digest, which needs no floor, is still accepted."""
    trust.add("acme/*", KEY)
    (folder / "floors.json").unlink()
    with pytest.raises(StoreError, match="is gone"):
        accept(signed(payload_of()), Reference("acme/wan"), trust, NOW_S)
    trust.add("beta/*", KEY)
    with pytest.raises(StoreError, match="is gone"):
        trust.floor("acme/wan", "latest")
    assert accept(signed(payload_of()), Reference("acme/wan").at(digest_of("root")), trust, NOW_S)


def test_hint_for_lost_floors_works(trust, folder):
    """The command in the hint starts afresh."""
    trust.add("acme/*", KEY)
    (folder / "floors.json").unlink()
    with pytest.raises(StoreError) as caught:
        trust.floor("acme/wan", "latest")
    before = os.umask(0o022)
    try:
        assert os.system(caught.value.hint.partition("run: ")[2]) == 0
    finally:
        os.umask(before)
    assert accept(signed(payload_of()), Reference("acme/wan"), trust, NOW_S).version == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"entries": [], "format": 1}',
        b'{"entries": {"acme/*": 3}, "format": 1}',
        b'{"entries": {"acme/*": "ed25519:00"}, "format": 1}',
        json.dumps({"entries": {"*": str(KEY)}, "format": 1}).encode(),
        json.dumps({"entries": {"acme/*": str(KEY)}, "format": 2}).encode(),
        f'{{"entries": {{"acme/*": "{KEY}", "acme/*": "{OTHER}"}}, "format": 1}}'.encode(),
    ],
)
def test_garbled_bindings(trust, folder, content):
    """Bindings that cannot be read, or that give a pattern two owners, trust nobody."""
    trust.add("acme/*", KEY)
    (folder / "trust.json").write_bytes(content)
    for act in (trust.entries, lambda: trust.key_for("acme/x"), lambda: trust.add("acme/y", KEY)):
        with pytest.raises(StoreError, match="is garbled"):
            act()


@pytest.mark.parametrize("name", ["trust.json", "floors.json"])
def test_files_that_others_can_write_are_refused(trust, folder, name):
    """Who can write the files can speak for everybody, so they are not read."""
    trust.add("acme/*", KEY)
    (folder / name).chmod(0o622)
    with pytest.raises(StoreError, match="others may write") as caught:
        accept(signed(payload_of()), Reference("acme/wan"), trust, NOW_S)
    assert caught.value.hint == f"chmod go-rwx {folder / name}"


def test_endless_file(trust, folder):
    """A file larger than any of ours is refused without being read whole."""
    trust.add("acme/*", KEY)
    with open(folder / "trust.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreError, match="more than"):
        trust.entries()
