"""Publish a directory: read every file once, and commit all of it or nothing.

A snapshot stands in a staging directory until it is whole. The order of commit is: nodes, the head of the version,
the files (one rename), the tag, the index. A crash before the rename leaves nothing that anybody names; after it,
opening the home finds the files and finishes.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from p2psync import disk
from p2psync.content import Digest, Layout, file_layout
from p2psync.errors import InvalidReferenceError, ModelNotFoundError, UsageError
from p2psync.manifest import (
    Blob,
    Chunk,
    File,
    Head,
    Manifest,
    Reference,
    SigningKey,
    Tree,
    build_tree,
    chunk_table,
    peek_head,
    sign_head,
)
from p2psync.store import linux, origin_tree
from p2psync.store.forms import Forms, make_forms
from p2psync.store.hashing import ShortReadError, TwoThreads, blobs_from_cut, cut_file, find_equal
from p2psync.store.heads import resolve
from p2psync.store.home import Identity, disk_errors
from p2psync.store.index import FileRow, unpack_cut
from p2psync.store.opened import OpenHome
from p2psync.store.records import file_facts, identities, install_row, installed, move_in
from p2psync.store.scan import OpenSource, Source, SourceFile, changed_error, scan
from p2psync.store.settings import choose_files
from p2psync.store.snap import Snapper
from p2psync.store.values import Meter, Progress, Published, PublishOptions

_MODE = 0o444


def publish(
    opened: OpenHome,
    folder: Path,
    reference: Reference,
    key: SigningKey,
    options: PublishOptions,
    progress: Progress,
) -> Published:
    """Make a signed version of what stands in ``folder``. See ``Store.publish``."""
    if reference.digest is not None:
        raise InvalidReferenceError(f"{reference} names a digest, and publishing makes a new one")
    folder = folder.resolve()
    _require_apart(opened, folder, options)
    bases = tuple(dict.fromkeys(_base(opened, base) for base in options.bases))
    source = scan(folder)
    if options.snap is not None and (options.in_place or not bases):
        raise UsageError(
            "a snap changes a copy of the files, against a base", hint="name a base, and publish no files in place"
        )
    snapper = Snapper(opened, bases, options.snap) if options.snap is not None else None
    work = _Work(opened, source, progress, snapper)
    with disk_errors(opened.home.staging, needed_bytes=source.size):
        staging = Path(tempfile.mkdtemp(dir=opened.home.staging))
    pack = staging.with_name(f"{staging.name}.forms")
    try:
        files = work.read_in_place() if options.in_place else work.snapshot(staging)
        variants = choose_files(source.variants, [file.path for file in files])
        manifest = Manifest(tuple(files), variants, bases)
        forms = _forms(opened, work, manifest, staging, pack, progress) if options.forms else None
        if forms is not None:
            manifest = replace(manifest, forms=forms.top, encoded=forms.encoded)
        tree = build_tree(manifest)
        if forms is not None:
            tree.nodes.update(forms.nodes)
        new_bytes = sum(c.length for c in chunk_table(manifest) if not opened.index.spots(c.digest))
        with opened.own, disk_errors(opened.home.path):
            before = opened.heads.tags(reference.name).get(reference.tag)
            head = _head(opened, reference, tree.root, manifest, options)
            envelope = sign_head(head, key)
            version = _Version(manifest, tree, head, envelope, pack if manifest.encoded else None)
            _commit(opened, work, staging, version, in_place=options.in_place)
    finally:
        with disk_errors(staging):
            with suppress(FileNotFoundError):
                disk.unlink(pack)
            opened.delete_folder(staging)
    signed = peek_head(envelope)
    origin = None
    if options.origin_tree is not None:
        origin = origin_tree.write(opened, options.origin_tree, manifest, tree, signed, envelope)
    unchanged = before is not None and before.root == tree.root
    sets = opened.packs.reader(manifest).sets if manifest.forms is not None else ()
    snapped = tuple(snapper.done) if snapper is not None else ()
    return Published(signed, envelope, len(files), new_bytes, unchanged, origin, sets, snapped)


@dataclass(frozen=True, slots=True)
class _Version:
    manifest: Manifest
    tree: Tree
    head: Head
    envelope: bytes
    pack: Path | None


def _forms(opened: OpenHome, work: _Work, manifest: Manifest, staging: Path, pack: Path, progress: Progress) -> Forms:
    """Encode what was read, from where it stands now."""

    def read(chunk: Chunk) -> bytes:
        place = chunk.places[0]
        with open(work.standing(staging, manifest.files[place.file].path), "rb", buffering=0) as file:
            return os.pread(file.fileno(), chunk.length, place.offset)

    with disk_errors(pack, needed_bytes=manifest.size):
        return make_forms(opened, manifest, read, pack, progress)


def _commit(opened: OpenHome, work: _Work, staging: Path, version: _Version, *, in_place: bool) -> None:
    head, manifest = version.head, version.manifest
    every = range(len(manifest.files))
    if version.pack is not None:
        opened.packs.publish(version.pack, head.root)
    opened.manifests.put(version.tree, manifest)
    # Its tree may have been here, from a pull that did not need its forms.
    opened.manifests.add(head.root, version.tree.nodes)
    opened.packs.admit(head.root)
    opened.heads.put_digest(version.envelope, head)
    facts = file_facts(manifest, every)
    if installed(opened, head.name, head.root, every) is not None:
        opened.heads.put_tag(version.envelope, head)
        return
    source = work.source.folder if in_place else None
    where = source or opened.home.version(head.name, head.root)
    if source is not None:
        opened.heads.put_source(head.name, head.root, source)
        if opened.home.version(head.name, head.root).exists():
            # A damaged copy of ours that the directory now stands in for.
            disk.rename(opened.home.version(head.name, head.root), staging / "replaced")
    else:
        move_in(opened, staging, where, [file.path for file in manifest.files], whole=True)
    opened.heads.put_tag(version.envelope, head)
    opened.index.add(install_row(head.name, head.root, manifest, source), identities(opened, where, facts, work.proved))
    if source is None:
        opened.heads.drop_source(head.name, head.root)
    opened.index.checkpoint()


def _head(opened: OpenHome, reference: Reference, root: Digest, manifest: Manifest, options: PublishOptions) -> Head:
    known = opened.heads.highest_version(reference.name, reference.tag)
    if options.origin_tree is not None:
        known = max(known, origin_tree.highest_version(options.origin_tree, reference.name, reference.tag))
    return Head(
        reference.name,
        reference.tag,
        known + 1,
        root,
        manifest.size,
        options.now_unix_s,
        expires=None if options.expires_s is None else options.now_unix_s + options.expires_s,
        bases=manifest.bases,
    )


def _base(opened: OpenHome, reference: Reference) -> Digest:
    if reference.digest is not None:
        return reference.digest
    envelope = resolve(opened.heads, reference)
    if envelope is None:
        raise ModelNotFoundError(f"the base {reference} is not in this home", hint="p2psync ls")
    return peek_head(envelope).root


def _require_apart(opened: OpenHome, folder: Path, options: PublishOptions) -> None:
    """A home must not publish itself, nor call its own files somebody else's."""
    home = opened.home.path.resolve()
    if home == folder or folder in home.parents:
        raise UsageError(f"{folder} holds the home {home} itself", hint="use --home elsewhere, or publish less")
    tree = options.origin_tree.resolve() if options.origin_tree is not None else None
    if tree is not None and (tree == folder or folder in tree.parents):
        raise UsageError(f"the origin tree {tree} is inside {folder}", hint="write the tree elsewhere")
    if options.in_place and home in folder.parents:
        raise UsageError(f"{folder} is inside the home {home}", hint="publish it without --in-place")


class _Work:
    """One reading of a source. ``proved`` has each file's identity when its bytes were hashed."""

    def __init__(self, opened: OpenHome, source: Source, progress: Progress, snapper: Snapper | None) -> None:
        self.opened = opened
        self.source = source
        self._snapper = snapper
        self.proved: dict[int, Identity] = {}
        self._in_place = False
        self._meter = Meter(progress, source.size)

    def standing(self, staging: Path, path: str) -> Path:
        """Where a file that was read stands until it is committed."""
        return (self.source.folder if self._in_place else staging) / path

    def read_in_place(self) -> list[File]:
        """Hash every file where it is."""
        self._in_place = True
        files = []
        with TwoThreads() as threads:
            for number, entry in enumerate(self.source.files):
                with OpenSource(self.source.folder, entry.path) as source:
                    layout = self._layout(entry, source)
                    known = self._known(source, entry, layout, mine=False)
                    files.append(known[1] if known else self._hash(threads, source, entry, layout, None))
                    source.require_unchanged()
                    self.proved[number] = source.identity
        self._meter.tell()
        return files

    def snapshot(self, staging: Path) -> list[File]:
        """Copy every file to ``staging``: a link to an equal file of ours, else shared blocks, else a copy."""
        files = []
        with TwoThreads() as threads:
            for number, entry in enumerate(self.source.files):
                target = staging / entry.path
                with (
                    disk_errors(staging, needed_bytes=entry.size),
                    OpenSource(self.source.folder, entry.path) as source,
                ):
                    disk.make_folder(target.parent)
                    layout = self._layout(entry, source)
                    # An equal file of ours was perhaps not snapped.
                    plain = not entry.external and self._snapper is None
                    known = self._known(source, entry, layout, mine=True) if plain else None
                    linked = self._link(known[0], target) if known else None
                    if known is not None and linked is not None:
                        files.append(known[1])
                        self.proved[number] = linked
                    else:
                        files.append(self._copy(threads, source, entry, layout, target))
                        self.proved[number] = Identity.of(os.lstat(target))
                    source.require_unchanged()
        self._meter.tell()
        return files

    def _layout(self, entry: SourceFile, source: OpenSource) -> Layout:
        return file_layout(entry.path, source.identity.size, source.read_at, entry.external)

    def _known(
        self, source: OpenSource, entry: SourceFile, layout: Layout, *, mine: bool
    ) -> tuple[FileRow, File] | None:
        """An installed file with the same bytes. Costs one chunk of reading where none begins alike."""
        rows: list[FileRow] = []
        cuts: list[list[tuple[Digest, int]]] = []
        for row, packed in self.opened.index.alike(source.identity.size, entry.path):
            cut = list(unpack_cut(packed))
            same_lengths = not cuts or [n for _, n in cut] == [n for _, n in cuts[0]]
            if same_lengths and self.opened.proved(row) and not (mine and row.install.source):
                rows.append(row)
                cuts.append(cut)
        blobs = blobs_from_cut(layout, cuts[0]) if cuts else None
        if blobs is None:
            return None
        before = self._meter.done
        try:
            found = find_equal(source.fd, cuts, self._meter.advance)
        except ShortReadError:
            found = None
        if found is None:
            self._meter.done = before
            return None
        blobs = blobs_from_cut(layout, cuts[found])
        return (rows[found], self._file(entry, layout, blobs, rows[found].sha256)) if blobs is not None else None

    def _link(self, row: FileRow, target: Path) -> Identity | None:
        kept = self.opened.borrow(row)
        if kept is None:
            return None
        try:
            return self.opened.link(row, kept.fd, target)
        except OSError:
            # Too many links, or a file system without them: a copy does.
            return None
        finally:
            self.opened.descriptors.release(kept)

    def _copy(self, threads: TwoThreads, source: OpenSource, entry: SourceFile, layout: Layout, target: Path) -> File:
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if self._snapper is not None:
                self._take(source, fd)
                self._snapper.snap(entry.path, fd, layout)
                file = self._hash(threads, source, entry, layout, None, read_fd=fd)
            elif linux.reflink(source.fd, fd):
                source.require_unchanged()
                file = self._hash(threads, source, entry, layout, None, read_fd=fd)
            else:
                linux.reserve(fd, source.identity.size)
                file = self._hash(threads, source, entry, layout, fd)
            os.fchmod(fd, _MODE)
            disk.sync(fd)
        finally:
            os.close(fd)
        return file

    def _take(self, source: OpenSource, fd: int) -> None:
        """A whole copy, to be changed before it is hashed."""
        size = source.identity.size
        if not linux.reflink(source.fd, fd):
            linux.reserve(fd, size)
            if linux.copy_range(source.fd, 0, fd, 0, size) != size:
                raise changed_error(self.source.folder)
        source.require_unchanged()

    def _hash(
        self,
        threads: TwoThreads,
        source: OpenSource,
        entry: SourceFile,
        layout: Layout,
        copy_fd: int | None,
        read_fd: int | None = None,
    ) -> File:
        def copy(piece: memoryview, offset: int) -> None:
            if copy_fd is not None:
                disk.write_at(copy_fd, piece, offset)

        try:
            cut = cut_file(
                threads,
                source.fd if read_fd is None else read_fd,
                layout,
                copy if copy_fd is not None else None,
                self._meter.advance,
            )
        except ShortReadError as error:
            raise changed_error(self.source.folder / entry.path) from error
        return self._file(entry, layout, cut.blobs, cut.sha256)

    def _file(self, entry: SourceFile, layout: Layout, blobs: tuple[Blob, ...], sha256: bytes) -> File:
        size = sum(span.length for span in layout.spans)
        return File(entry.path, size, sha256, layout.format, blobs, bool(entry.external))
