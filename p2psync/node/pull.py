"""One pull, from a reference to a proved, installed version."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2psync.content import Digest
from p2psync.errors import (
    ModelNotFoundError,
    NotFoundError,
    P2PSyncError,
    SourceTimeoutError,
    SourceUnreachableError,
    UsageError,
    VariantNotFoundError,
    WrongHeadError,
)
from p2psync.limits import CHAIN_VERSIONS_MAX, DISCOVERY_PATIENCE_S
from p2psync.manifest import Chunk, Head, Manifest, Reference, Tree, TreeReader, Variant, chunk_table, files_of
from p2psync.node.chain import version_between
from p2psync.node.counts import Counts
from p2psync.node.fetch import Fetch
from p2psync.node.forms import ChosenForms, Wish, choose_forms
from p2psync.node.mirror import mirror_forms
from p2psync.node.nodes import read_nodes
from p2psync.node.rates import FOLDER, Rates
from p2psync.node.resolve import EtagMemory, Resolved, resolve
from p2psync.node.sources import SourceSet
from p2psync.node.threads import to_its_end
from p2psync.store import Store
from p2psync.transport import SourceKind
from p2psync.trust import TrustStore, accept

if TYPE_CHECKING:
    from p2psync.node.site import Site

Emit = Callable[[dict[str, Any]], None]

WATCH_S = 10.0
# With neighbours, a silent source is asked for a head again after the first, for as long as the second.
HEAD_RETRY_S = 1.0
HEAD_PATIENCE_S = 30.0
# One that refuses is likely to be a mistake, or down.
HEAD_AWAY_S = 5.0


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What a pull was asked for. ``sources`` are (url, kind) with kind ``lan`` or ``wan``.

    ``all_forms`` is whether every encoded chunk is to be kept here too, for others; ``chain`` counts the versions that
    are brought only on the way to this one.
    """

    reference: Reference
    sources: tuple[tuple[str, str], ...] = ()
    to: Path | None = None
    link: bool = False
    variant: str | None = None
    dry_run: bool = False
    offline: bool = False
    all_forms: bool = False
    chain: int = 0

    @classmethod
    def parse(cls, args: Mapping[str, Any]) -> PullRequest:
        """Read the arguments of the verb ``pull`` as the control socket carries them."""
        to = args.get("to")
        if args.get("link") and not to:
            raise UsageError("--link needs --to", hint="p2psync pull REF --to DIR --link")
        return cls(
            Reference.parse(args["reference"]),
            tuple((s["url"], s["kind"]) for s in args.get("sources") or ()),
            Path(to) if to else None,
            bool(args.get("link")),
            args.get("variant"),
            bool(args.get("dry_run")),
            bool(args.get("offline")),
            bool(args.get("all_forms")),
        )

    def reachable_sources(self) -> tuple[tuple[str, str], ...]:
        """The sources that may be asked: all, or offline only those that are files."""
        return tuple(s for s in self.sources if not self.offline or s[0].startswith("file:"))


class Pull:
    """One run of ``request`` into ``store``. Interrupting it loses nothing that was proved."""

    def __init__(
        self,
        store: Store,
        request: PullRequest,
        emit: Emit,
        *,
        start: int = 0,
        site: Site | None = None,
        rates: Rates | None = None,
    ) -> None:
        self._site = None if request.offline else site
        self._rates = rates or Rates()
        self._sources: SourceSet | None = None
        self.coming: tuple[Head, bytes] | None = None
        self._store = store
        self._request = request
        self._emit = emit
        self._start = start
        self._trust = TrustStore(store.home / "trust")
        self._control_bytes = site.control_bytes() if site is not None else 0
        self._began_s = time.monotonic()

    async def run(self) -> dict[str, Any]:
        """Pull, and return the object that ``pull --json`` prints.

        Raises:
            P2PSyncError: see the branches; nothing that was good before is lost.
        """
        request = self._request
        etags = EtagMemory(self._store.home / "etags.json")
        async with SourceSet(request.reachable_sources(), self._emit) as sources:
            self._sources = sources
            await self._meet(sources)
            resolved = await self._resolve(sources, etags)
            head = resolved.head
            self.coming = head, resolved.envelope
            self._emit(
                {
                    "event": "resolved",
                    "reference": reference_of(head),
                    "digest": str(head.root),
                    "version": head.version,
                    "unchanged": resolved.unchanged,
                }
            )
            manifest = await asyncio.to_thread(self._store.manifest, head.root)
            tree: Tree | None = None
            if manifest is None:
                tree, manifest = await self._read_manifest(sources, head.root)
            if manifest.size != head.size:
                raise WrongHeadError(
                    f"the head of {reference_of(head)} speaks of {head.size} bytes, its files have {manifest.size}"
                )
            variant = choose_variant(manifest, request.variant)
            files = files_of(manifest, variant)
            if request.dry_run:
                return await self._foretell(sources, head, manifest, files)
            path = await asyncio.to_thread(self._store.installed, head.name, head.root, files)
            fetch: Fetch | None = None
            if path is None:
                if tree is None:
                    tree = await asyncio.to_thread(self._store.tree, head.root)
                async with self._over_another(sources, head, manifest):
                    path, fetch = await self._bring(sources, resolved, manifest, tree, files)
            if request.all_forms:
                await mirror_forms(self._store, head.root, manifest, sources, self._emit)
            if not resolved.unchanged:
                await asyncio.to_thread(self._store.put_head, resolved.envelope, head)
            etags.save()
            if request.to is not None:
                await asyncio.to_thread(self._store.export, head.name, head.root, files, request.to, request.link)
                path = request.to
            total = sum(manifest.files[i].size for i in files)
            return self._result(head, path, total, sources, fetch)

    def received(self) -> Counter[tuple[str, str]]:
        """Bytes that came so far, by (url, kind) of their source."""
        counted: Counter[tuple[str, str]] = Counter()
        for source in self._sources.all if self._sources is not None else ():
            counted[source.url, source.kind.value] += source.wire.received
        return counted

    async def _meet(self, sources: SourceSet) -> None:
        """Let discovery have its time, and ask the neighbours too."""
        if self._site is None:
            return
        await self._site.settled(0.0 if sources.all else DISCOVERY_PATIENCE_S)
        for neighbour in self._site.live():
            if neighbour.url is not None:
                sources.add(neighbour.url, SourceKind.LAN, named=False)

    async def _resolve(self, sources: SourceSet, etags: EtagMemory) -> Resolved:
        reference = self._request.reference
        selector = str(reference.digest) if reference.digest is not None else reference.tag
        known = await asyncio.to_thread(self._store.head, reference.name, selector)
        now_unix_s = int(time.time())
        if not sources.all:
            if known is None:
                raise ModelNotFoundError(
                    f"{reference} is not in this home and there is no source to ask",
                    hint=f"p2psync pull {reference} --from URL, or --peer HOST:PORT",
                )
            # What is installed stays usable after its head expired, so its time is not looked at again.
            return Resolved(accept(known, reference, self._trust, 0), known, unchanged=True)
        resolved = await self._ask_for_head(sources, known, etags, now_unix_s)
        for url, error in resolved.failures.items():
            if sources.was_named(url) or not isinstance(error, NotFoundError):
                self._emit({"event": "source", "url": url, "state": "dropped", "reason": str(error)})
            if isinstance(error, P2PSyncError):
                sources.failures[url] = error
        if reference.digest is None:
            await asyncio.to_thread(self._trust.raise_floor, resolved.head)
        return resolved

    async def _ask_for_head(
        self, sources: SourceSet, known: bytes | None, etags: EtagMemory, now_unix_s: int
    ) -> Resolved:
        """Resolve the reference. A source that is silent is asked again while neighbours may have heard from it.

        On a thin line that is full, a few bytes may be lost again and again; whoever has the head gives it to the rest.
        """
        began_s = time.monotonic()
        while True:
            try:
                return await resolve(self._request.reference, sources.all, self._trust, known, etags, now_unix_s)
            except (SourceTimeoutError, SourceUnreachableError) as error:
                silent = isinstance(error, SourceTimeoutError) or isinstance(error.__cause__, TimeoutError)
                patience_s = HEAD_PATIENCE_S if silent else HEAD_AWAY_S
                if self._site is None or not self._site.live() or time.monotonic() - began_s > patience_s:
                    raise
                self._emit({"event": "waiting", "reason": str(error), "retry_s": HEAD_RETRY_S})
                await asyncio.sleep(HEAD_RETRY_S)
                await self._meet(sources)

    async def _read_manifest(self, sources: SourceSet, root: Digest) -> tuple[Tree, Manifest]:
        """Read the tree: nodes that an earlier version brought from here, the others from the sources."""
        reader = TreeReader(root)
        await read_nodes(reader, self._store, sources, await sources.open(root))
        return reader.tree(), reader.manifest()

    @asynccontextmanager
    async def _over_another(self, sources: SourceSet, head: Head, manifest: Manifest) -> AsyncIterator[None]:
        """Have the version between here for as long as this takes, where a chain of deltas is the shortest way."""
        request = self._request
        between = None
        if request.chain < CHAIN_VERSIONS_MAX:
            between = await version_between(self._store, head.root, manifest, sources)
        if between is None:
            yield
            return
        first = replace(request, reference=Reference(head.name, digest=between), to=None, chain=request.chain + 1)
        self._emit({"event": "chain", "over": str(between)})
        try:
            await Pull(self._store, first, self._emit, start=self._start, site=self._site, rates=self._rates).run()
        except P2PSyncError as error:
            # The way over another version is only the shorter one.
            self._emit({"event": "chain", "over": str(between), "reason": str(error)})
        try:
            yield
        finally:
            with suppress(P2PSyncError):
                await asyncio.to_thread(self._store.remove, first.reference, dry_run=False)

    async def _bring(
        self, sources: SourceSet, resolved: Resolved, manifest: Manifest, tree: Tree, files: tuple[int, ...]
    ) -> tuple[Path, Fetch]:
        head = resolved.head
        incoming = await to_its_end(
            partial(self._store.begin, head.name, manifest, tree, files, resolved.envelope),
            lambda begun: begun.close(clean=True),
        )
        clean = False
        try:
            table = await asyncio.to_thread(chunk_table, manifest)
            forms = await self._plan_forms(sources, head, manifest, table, incoming.missing)
            await asyncio.to_thread(self._store.add_nodes, head.root, forms.nodes)
            # Nodes that want the same files want the same chunks.
            selection = Digest.of(b"".join(number.to_bytes(4, "big") for number in sorted(files)))[:8]
            fetch = Fetch(
                incoming,
                forms.version(head.root, table, selection),
                sources,
                self._emit,
                site=self._site,
                rates=self._rates,
                start=self._start,
            )
            self._emit(
                {
                    "event": "plan",
                    "total": incoming.total_bytes,
                    "reused": incoming.reused_bytes + incoming.resumed_bytes,
                    "resumed": incoming.resumed_bytes,
                    "missing": sum(c.length for c in incoming.missing),
                    "wire": forms.plan.wire_bytes,
                    "files": len(files),
                }
            )
            if incoming.missing:
                await asyncio.to_thread(incoming.check_room)
                ready = await sources.open(head.root)
                # What neighbours hold they say themselves, and go on saying.
                known = {n.url for n in self._site.live()} if self._site is not None else set()
                asked = [s for s in ready if s.url not in known]
                held = await sources.inventories(head.root, len(table) + manifest.encoded, asked)
                usable = [s for s in asked if s.url in held]
                if not usable and not known:
                    raise sources.verdict(f"no source has {reference_of(head)}")
                began_s, before = time.monotonic(), sources.wire()
                await fetch.run(usable, held)
                for kind, count in sources.wire().items():
                    self._rates.measured(kind, count - before[kind], time.monotonic() - began_s)
            path = await to_its_end(incoming.install)
            self._emit({"event": "installed", "path": str(path)})
            return path, fetch
        except (P2PSyncError, asyncio.CancelledError):
            clean = True
            raise
        finally:
            await to_its_end(partial(incoming.close, clean=clean))

    async def _plan_forms(
        self, sources: SourceSet, head: Head, manifest: Manifest, table: Sequence[Chunk], missing: Sequence[Chunk]
    ) -> ChosenForms:
        """Choose how each missing chunk is fetched. Forms that cannot be read are done without."""
        return await choose_forms(
            Wish(self._store, head.root, manifest, table, missing), sources, self._link_bytes_per_s(sources), self._emit
        )

    def _link_bytes_per_s(self, sources: SourceSet) -> float:
        """What forms are priced at: the outside link, also where only peers are asked.

        Peers keep the forms that the outside link made the best, so whoever prices alike asks for what they have; and a
        gigabit is not so fast that decoding would lose against it.
        """
        folders = sources.all and all(source.url.startswith("file:") for source in sources.all)
        return self._rates.expected(FOLDER if folders else SourceKind.WAN.value)

    async def _foretell(
        self, sources: SourceSet, head: Head, manifest: Manifest, files: tuple[int, ...]
    ) -> dict[str, Any]:
        """What a pull would move, without moving it."""
        here = self._store.present(head.name, head.root)
        wanted = set(files)
        total = sum(manifest.files[i].size for i in files)
        table = await asyncio.to_thread(chunk_table, manifest)
        missing = [c for c in table if any(p.file in wanted for p in c.places) and not self._store.has(c.digest)]
        missing_bytes = sum(c.length for c in missing)
        wish = Wish(self._store, head.root, manifest, table, missing)
        forms = await choose_forms(wish, sources, self._link_bytes_per_s(sources), self._emit, offered_only=True)
        needed = sum(manifest.files[i].size for i in files if i not in here)
        return {
            "reference": reference_of(head),
            "digest": str(head.root),
            "version": head.version,
            "bytes": {
                "total": total,
                "reused": total - missing_bytes,
                "patched": forms.patched_bytes,
                "missing": missing_bytes - forms.patched_bytes,
            },
            "wire": {"bytes": forms.plan.wire_bytes, "seconds": round(forms.plan.seconds, 3)},
            "forms": forms.described(),
            "disk": {"needed": needed, "free": shutil.disk_usage(self._store.home).free},
        }

    def _result(self, head: Head, path: Path, total: int, sources: SourceSet, fetch: Fetch | None) -> dict[str, Any]:
        counts = fetch.counts if fetch else Counts()
        control = {"lan": self._site.control_bytes() - self._control_bytes} if self._site is not None else {}
        return {
            "reference": reference_of(head),
            "digest": str(head.root),
            "version": head.version,
            "path": str(path),
            "seconds": round(time.monotonic() - self._began_s, 3),
            "unchanged": fetch is None,
            "bytes": {
                "total": total,
                "reused": total - counts.lan - counts.wan - counts.patched,
                "patched": counts.patched,
                "lan": counts.lan,
                "wan": counts.wan,
            },
            "surplus": {kind.value: counts.surplus(kind) for kind in (SourceKind.LAN, SourceKind.WAN)},
            "wire": {link: count + control.get(link, 0) for link, count in sources.wire().items()},
            "sources": [
                {"url": s.url, "kind": s.kind.value, "bytes": counts.by_source.get(s.url, 0)} for s in sources.all
            ],
        }


def reference_of(head: Head) -> str:
    """``name:tag`` as it was signed."""
    return f"{head.name}:{head.tag}"


def choose_variant(manifest: Manifest, name: str | None) -> Variant | None:
    """The variant to install: the named one, else the default one, else everything (None).

    Raises:
        VariantNotFoundError: the version has no variant ``name``.
    """
    if name is None:
        return next((v for v in manifest.variants if v.default), None)
    for variant in manifest.variants:
        if variant.name == name:
            return variant
    known = ", ".join(v.name for v in manifest.variants) or "none"
    raise VariantNotFoundError(f"there is no variant {name!r} in this version", hint=f"its variants: {known}")
