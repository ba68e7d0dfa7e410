"""What is in the store, as ``ls`` and ``status`` show it. Looks at names and records, reads no file."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from p2psync.manifest import Head
from p2psync.store.home import free_bytes
from p2psync.store.index import InstallRow
from p2psync.store.opened import OpenHome, files_below
from p2psync.store.prune import unfinished
from p2psync.store.values import Usage, VersionInfo

_BLOCK_BYTES = 512


def versions(opened: OpenHome) -> list[VersionInfo]:
    """Every version that is installed, by name, the latest published first."""
    found = []
    tags: dict[str, dict[str, Head]] = {}
    for install in opened.index.installs():
        if opened.is_ghost(install):
            continue
        if install.name not in tags:
            tags[install.name] = opened.heads.tags(install.name)
        found.append(_version(opened, install, tags[install.name]))
    return sorted(found, key=lambda v: (v.name, -v.created, v.root))


def _version(opened: OpenHome, install: InstallRow, tags: dict[str, Head]) -> VersionInfo:
    head = opened.heads.versions_head(install.name, install.root)
    rows = opened.index.files(install)
    good = {row.number for row in rows if opened.seems_whole(row)}
    variants = json.loads(install.variants)
    return VersionInfo(
        name=install.name,
        root=install.root,
        tags={tag: said.version for tag, said in tags.items() if said.root == install.root},
        pinned=opened.heads.pinned(install.name, install.root),
        size=install.size,
        disk_bytes=sum(_blocks(os.fspath(opened.path(row))) for row in rows),
        fragile=install.source is not None,
        files=len(good),
        files_total=install.files,
        damaged=len(rows) - len(good),
        variants=tuple(name for name, files in variants.items() if good >= set(files)),
        created=head.created if head is not None else 0,
        path=opened.folder(install),
    )


def usage(opened: OpenHome) -> Usage:
    """What the home takes on its disk. A file with several names counts once."""
    inodes = {}
    for folder, _, names in os.walk(opened.home.models):
        for name in names:
            with suppress(FileNotFoundError):
                facts = os.lstat(os.path.join(folder, name))
                inodes[facts.st_dev, facts.st_ino] = facts.st_blocks * _BLOCK_BYTES
    pulls = tuple(unfinished(opened))
    packs = files_below(opened.home.forms) if opened.home.forms.is_dir() else []
    return Usage(
        models_bytes=sum(inodes.values()),
        partial_bytes=sum(pull.disk_bytes for pull in pulls),
        free_bytes=free_bytes(opened.home.path),
        versions=len(opened.index.installs()),
        withdrawn=sum(not opened.proved(row) for row in opened.index.all_files()),
        forms_bytes=sum(_blocks(os.fspath(pack)) for pack in packs),
        unfinished=pulls,
    )


def _blocks(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * _BLOCK_BYTES
    except OSError:
        return 0
