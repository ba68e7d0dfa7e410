"""The plain functions ``p2psync.pull`` and ``p2psync.publish``, for scripts without an event loop of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2psync.node.operations import run


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did. Counts are bytes of the model by where they came from; they sum to ``total_bytes``."""

    reference: str
    digest: str
    version: int
    path: Path
    seconds: float
    unchanged: bool
    total_bytes: int
    reused_bytes: int
    patched_bytes: int
    lan_bytes: int
    wan_bytes: int


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What a publish made. ``reference`` is ``name:tag@b3:digest``; ``new_bytes`` were not in the home before."""

    reference: str
    digest: str
    version: int
    total_bytes: int
    new_bytes: int
    files: int
    seconds: float


def default_home() -> Path:
    """``P2PSYNC_HOME``, else ``~/.p2psync``."""
    return Path(os.environ.get("P2PSYNC_HOME") or Path.home() / ".p2psync").absolute()


def pull(  # noqa: PLR0913 - the public form of a verb with as many flags
    reference: str,
    *,
    home: Path | str | None = None,
    sources: Sequence[str] = (),
    peers: Sequence[str] = (),
    to: Path | str | None = None,
    link: bool = False,
    variant: str | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> PullResult:
    """Bring a version here, proved, and return where it stands.

    Args:
        reference: ``name[:tag][@b3:digest]``.
        home: The node's home; ``P2PSYNC_HOME`` or ``~/.p2psync`` when left out.
        sources: Seeds or origin trees outside the site: ``https://``, ``http://`` or ``file:///`` URLs.
        peers: Nodes on the same LAN: ``http://host:port`` URLs.
        to: Also export the files to this directory; ``link`` makes them read-only hard links.
        variant: A variant of the version; the default one when left out.
        progress: Called with each progress event, a dict with an ``event`` key.

    Raises:
        P2PSyncError: see ``p2psync.errors``. What was there before is untouched, and what arrived is kept
            for the next try.
    """
    args: dict[str, Any] = {
        "reference": reference,
        "sources": [{"url": u, "kind": "wan"} for u in sources] + [{"url": u, "kind": "lan"} for u in peers],
        "to": str(Path(to).absolute()) if to is not None else None,
        "link": link,
        "variant": variant,
    }
    result = asyncio.run(run(_home(home), "pull", args, progress or (lambda _event: None)))
    counted = result["bytes"]
    return PullResult(
        result["reference"],
        result["digest"],
        result["version"],
        Path(result["path"]),
        result["seconds"],
        result["unchanged"],
        counted["total"],
        counted["reused"],
        counted["patched"],
        counted["lan"],
        counted["wan"],
    )


def publish(  # noqa: PLR0913 - the public form of a verb with as many flags
    directory: Path | str,
    reference: str,
    *,
    key: str,
    home: Path | str | None = None,
    bases: Sequence[str] = (),
    in_place: bool = False,
    to: Path | str | None = None,
    expires_s: int | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> PublishResult:
    """Sign a directory as the next version of ``reference``.

    Args:
        directory: What to publish; its ``p2psync.toml`` may declare variants.
        reference: ``name[:tag]``.
        key: The name of the key in this home that signs.
        home: The publisher's home; ``P2PSYNC_HOME`` or ``~/.p2psync`` when left out.
        bases: References of versions that deltas will be made from.
        in_place: Index the files where they are instead of taking a snapshot.
        to: Also write a static origin tree there.
        expires_s: Refuse new pulls after so many seconds; never when left out.
        progress: Called with each progress event, a dict with an ``event`` key.

    Raises:
        P2PSyncError: see ``p2psync.errors``. Nothing was published.
    """
    args: dict[str, Any] = {
        "dir": str(Path(directory).absolute()),
        "reference": reference,
        "key": key,
        "bases": list(bases),
        "in_place": in_place,
        "to": str(Path(to).absolute()) if to is not None else None,
        "expires_s": expires_s,
    }
    result = asyncio.run(run(_home(home), "publish", args, progress or (lambda _event: None)))
    return PublishResult(
        result["reference"],
        result["digest"],
        result["version"],
        result["bytes"],
        result["new_bytes"],
        result["files"],
        result["seconds"],
    )


def _home(home: Path | str | None) -> Path:
    return Path(home).absolute() if home is not None else default_home()
