import os
import stat
import threading

import pytest

from p2psync.errors import NotFoundError, StoreError, StoreUnwritableError, UsageError
from p2psync.trust import Keyring

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "home" / "keys"


@pytest.fixture
def ring(folder):
    return Keyring(folder)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_new_key_signs_and_verifies(ring):
    """A new key is kept: its secret half signs what its public half verifies."""
    key = ring.new("acme-release")
    assert ring.verify_key("acme-release") == key
    key.verify(b"x", ring.signing_key("acme-release").sign(b"x"))


def test_two_keys_differ(ring):
    """Keys are drawn at random, and listed by name."""
    assert ring.new("b") != ring.new("a")
    assert ring.names() == ["a", "b"]


def test_secrets_are_private(ring, folder):
    """The file is 0600 in a 0700 folder, whatever the umask says; the home above is not changed."""
    folder.parent.mkdir()
    folder.parent.chmod(0o755)
    before = os.umask(0)
    try:
        ring.new("a")
    finally:
        os.umask(before)
    assert [mode(path) for path in (folder.parent, folder, folder / "a.key")] == [0o755, 0o700, 0o600]
    assert sorted(os.listdir(folder)) == ["a.key"]


def test_open_folder_is_closed(ring, folder):
    """A folder that others may look into is closed to them when a key is made."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    ring.new("a")
    assert mode(folder) == 0o700


def test_key_is_never_overwritten(ring):
    """A second key of one name is refused, and the first one stays."""
    key = ring.new("a")
    with pytest.raises(UsageError, match="named a"):
        ring.new("a")
    assert ring.verify_key("a") == key


def test_one_of_many_makers_wins(ring):
    """Of several threads that make a key of one name, one succeeds, and its key is the one that stays."""
    made, refused = [], []

    def make():
        try:
            made.append(ring.new("a"))
        except UsageError:
            refused.append(1)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [ring.verify_key("a")]
    assert len(refused) == 7


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_key_that_others_can_read_is_refused(ring, folder, bits):
    """A secret that others may read or write is not used; the hint closes it."""
    ring.new("a")
    (folder / "a.key").chmod(bits)
    with pytest.raises(StoreError) as caught:
        ring.signing_key("a")
    assert caught.value.hint == f"chmod go-rwx {folder / 'a.key'}"


def test_key_in_a_folder_that_others_can_write_is_refused(ring, folder):
    """Who can write the folder can swap the key."""
    ring.new("a")
    folder.chmod(0o770)
    with pytest.raises(StoreError, match="others may write"):
        ring.signing_key("a")


@pytest.mark.parametrize("name", ["", "A", "a/b", "../a", ".a", "a b", "a\n", "ä", "x" * 65])
def test_names_that_could_be_paths_are_refused(ring, name):
    """A key's name is a plain file name in lower case."""
    for act in (ring.new, ring.verify_key, ring.signing_key):
        with pytest.raises(UsageError, match="key name"):
            act(name)


def test_no_such_key(ring):
    """A name without a key says how to make one; an empty home has no keys."""
    assert ring.names() == []
    with pytest.raises(NotFoundError) as caught:
        ring.signing_key("a")
    assert caught.value.hint == "p2psync key new a"


@pytest.mark.parametrize("content", [b"", b"p2psync-secret-ed25519:00\n", b"x" * 100])
def test_garbled_key(ring, folder, content):
    """A file that holds no key is named, and no secret is shown."""
    ring.new("a")
    (folder / "a.key").write_bytes(content)
    with pytest.raises(StoreError, match="holds no key"):
        ring.signing_key("a")


def test_fifo_in_the_place_of_a_key(ring, folder):
    """A FIFO is refused at once instead of waited for."""
    ring.new("b")
    os.mkfifo(folder / "a.key", 0o600)
    with pytest.raises(StoreError, match="no plain file"):
        ring.signing_key("a")


def test_other_files_are_no_keys(ring, folder):
    """What is left behind by a crash, or put there by hand, is not listed."""
    ring.new("a")
    (folder / ".a.key.00.new").write_bytes(b"")
    (folder / "README").write_bytes(b"")
    assert ring.names() == ["a"]


def test_home_that_is_a_file(tmp_path):
    """Where no folder can be, making, reading and listing keys say that this disk refused."""
    (tmp_path / "home").write_bytes(b"")
    ring = Keyring(tmp_path / "home" / "keys")
    with pytest.raises(StoreUnwritableError):
        ring.new("a")
    with pytest.raises(StoreError, match="cannot read"):
        ring.signing_key("a")
    with pytest.raises(StoreError, match="cannot read"):
        ring.names()


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_read_only_home(ring, folder):
    """A home that refuses writes ends in an error, and its keys can still be read."""
    key = ring.new("a")
    folder.chmod(0o500)
    try:
        with pytest.raises(StoreUnwritableError):
            ring.new("b")
        assert ring.verify_key("a") == key
    finally:
        folder.chmod(0o700)


def test_failed_write_leaves_nothing(ring, folder, monkeypatch):
    """When the disk refuses to keep the file, there is no key and no half file."""

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    folder.mkdir(parents=True)
    with pytest.raises(StoreUnwritableError, match="No space left"):
        ring.new("a")
    assert os.listdir(folder) == []
