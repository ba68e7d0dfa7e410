"""The signed heads of a home, filed by name: which version each tag names, and the head of each version.

``heads/<name>/tags/<tag>.json`` and ``heads/<name>/digests/<hex>.json`` hold envelopes. Beside a version's head,
``<hex>.pin`` says that it was asked for by its digest, and ``<hex>.source`` where an in-place version stands. These
files are what is true; nothing of them is in the index.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest
from p2psync.errors import MalformedError, P2PSyncError
from p2psync.manifest import Head, Reference, peek_head
from p2psync.store.home import Home, disk_errors, read_file


class Heads:
    """The heads of one home. Safe from any thread: each file changes by one rename."""

    def __init__(self, home: Home) -> None:
        self._top = home.heads

    def by_tag(self, name: str, tag: str) -> bytes | None:
        """The envelope that a tag holds."""
        return read_file(self._top / name / "tags" / f"{tag}.json")

    def by_digest(self, name: str, root: Digest) -> bytes | None:
        """The envelope of a version."""
        return read_file(self._digest_path(name, root, "json"))

    def tags(self, name: str) -> dict[str, Head]:
        """What each tag of a name says. A file that is no head is passed over."""
        found = {}
        for path in _files(self._top / name / "tags", ".json"):
            head = _peek(path)
            if head is not None and head.name == name and head.tag == path.stem:
                found[head.tag] = head
        return found

    def versions(self, name: str) -> dict[Digest, Head]:
        """The head of each version of a name that has one."""
        found = {}
        for path in _files(self._top / name / "digests", ".json"):
            head = _peek(path)
            if head is not None and head.name == name and head.root.hex() == path.stem:
                found[head.root] = head
        return found

    def names(self) -> list[str]:
        """Every name that has a head, sorted."""
        found = set()
        for folder, folders, _ in os.walk(self._top):
            if "digests" in folders or "tags" in folders:
                found.add(str(Path(folder).relative_to(self._top)))
            folders[:] = [f for f in folders if f not in ("digests", "tags")]
        return sorted(found)

    def highest_version(self, name: str, tag: str) -> int:
        """The highest version number that a head here gives ``name:tag``; 0 when there is none."""
        heads = [*self.tags(name).values(), *self.versions(name).values()]
        return max((h.version for h in heads if h.tag == tag), default=0)

    def put_digest(self, envelope: bytes, head: Head) -> None:
        """File the head of a version. The head that is filed already stays unless its own tag brings a later one."""
        before = self.versions_head(head.name, head.root)
        if before is None or (before.tag == head.tag and before.version < head.version):
            with disk_errors(self._top):
                disk.write_durably(self._digest_path(head.name, head.root, "json"), envelope)

    def put_tag(self, envelope: bytes, head: Head) -> None:
        """Let a tag name the head's version, unless it names the same or a later one already."""
        before = self.tags(head.name).get(head.tag)
        if before is None or before.version < head.version:
            with disk_errors(self._top):
                disk.write_durably(self._top / head.name / "tags" / f"{head.tag}.json", envelope)

    def versions_head(self, name: str, root: Digest) -> Head | None:
        """What the head of one version says."""
        return _peek(self._digest_path(name, root, "json"))

    def remove_tag(self, name: str, tag: str) -> None:
        """Let a tag name nothing."""
        with disk_errors(self._top):
            disk.remove_durably(self._top / name / "tags" / f"{tag}.json")

    def remove_version(self, name: str, root: Digest) -> None:
        """Forget the head of a version, its pin and its source."""
        with disk_errors(self._top):
            for kind in ("pin", "source", "json"):
                disk.remove_durably(self._digest_path(name, root, kind))

    def pin(self, name: str, root: Digest) -> None:
        """Keep a version that no tag names."""
        with disk_errors(self._top):
            disk.write_durably(self._digest_path(name, root, "pin"), b"")

    def pinned(self, name: str, root: Digest) -> bool:
        """Whether a version was asked for by its digest."""
        return self._digest_path(name, root, "pin").exists()

    def put_source(self, name: str, root: Digest, source: Path) -> None:
        """Remember where an in-place version stands."""
        with disk_errors(self._top):
            disk.write_durably(self._digest_path(name, root, "source"), os.fsencode(source))

    def source(self, name: str, root: Digest) -> Path | None:
        """Where an in-place version stands; None for one of ours."""
        data = read_file(self._digest_path(name, root, "source"))
        return Path(os.fsdecode(data)) if data else None

    def drop_source(self, name: str, root: Digest) -> None:
        """A version that stood in place has a copy here now."""
        with disk_errors(self._top):
            disk.remove_durably(self._digest_path(name, root, "source"))

    def kept(self, name: str, root: Digest) -> bool:
        """Whether a tag names the version or it is pinned: what ``prune`` leaves alone."""
        return self.pinned(name, root) or any(head.root == root for head in self.tags(name).values())

    def _digest_path(self, name: str, root: Digest, kind: str) -> Path:
        return self._top / name / "digests" / f"{root.hex()}.{kind}"


def resolve(heads: Heads, reference: Reference) -> bytes | None:
    """The envelope that a reference means here: by its digest where it has one, else by its tag."""
    if reference.digest is not None:
        return heads.by_digest(reference.name, reference.digest)
    return heads.by_tag(reference.name, reference.tag)


def selector_digest(selector: str) -> Digest | None:
    """The digest in a selector ``b3:..``; None when the selector is a tag."""
    if not selector.startswith("b3:"):
        return None
    try:
        return Digest.parse(selector)
    except MalformedError:
        return None


def _files(folder: Path, suffix: str) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from (folder / name for name in names if name.endswith(suffix) and not name.startswith("."))


def _peek(path: Path) -> Head | None:
    data = read_file(path)
    if data is None:
        return None
    try:
        return peek_head(data)
    except P2PSyncError:
        # A torn or garbled file says nothing; whoever signed it can be asked again.
        return None
