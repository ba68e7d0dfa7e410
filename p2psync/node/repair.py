"""Heal what ``verify`` found: good bytes stay, bad ones come from the sources that were named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from p2psync.content import Digest
from p2psync.errors import DamagedError
from p2psync.manifest import chunk_table
from p2psync.node.fetch import Fetch, Version
from p2psync.node.sources import SourceSet
from p2psync.node.threads import to_its_end
from p2psync.store import Store, VerifyReport

Emit = Callable[[dict[str, Any]], None]


async def repair(
    store: Store, report: VerifyReport, addresses: Sequence[tuple[str, str]], emit: Emit
) -> list[dict[str, Any]]:
    """Repair every damaged version in ``report``; says per version what was fetched.

    Raises:
        DamagedError: chunks are missing and there is no source to ask.
        P2PSyncError: no source has what is missing. What could be healed before stays healed.
    """
    healed = []
    async with SourceSet(addresses, emit) as sources:
        for name, root in dict.fromkeys((d.name, d.root) for d in report.damages):
            healed.append(await _repair_version(store, name, root, sources, emit))
    return healed


async def _repair_version(store: Store, name: str, root: Digest, sources: SourceSet, emit: Emit) -> dict[str, Any]:
    incoming = await to_its_end(partial(store.begin_repair, name, root), lambda begun: begun.close(clean=True))
    clean = False
    try:
        missing_bytes = sum(c.length for c in incoming.missing)
        if incoming.missing:
            if not sources.all:
                raise DamagedError(
                    f"{name}@{root} lacks {missing_bytes} bytes that are nowhere else in this home",
                    hint=f"p2psync verify {name}@{root} --repair --from URL",
                )
            await asyncio.to_thread(incoming.check_room)
            ready = await sources.open(root)
            manifest = await asyncio.to_thread(store.manifest, root)
            table = chunk_table(manifest) if manifest is not None else []
            version = Version(root, table, encoded=manifest.encoded if manifest is not None else 0)
            held = await sources.inventories(root, version.count, ready)
            usable = [s for s in ready if s.url in held]
            if not usable:
                raise sources.verdict(f"no source has {name}@{root}")
            await Fetch(incoming, version, sources, emit).run(usable, held)
        await to_its_end(incoming.install)
        return {"reference": f"{name}@{root}", "fetched_bytes": missing_bytes}
    except BaseException:
        clean = True
        raise
    finally:
        await to_its_end(partial(incoming.close, clean=clean))
