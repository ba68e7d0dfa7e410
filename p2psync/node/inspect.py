"""The verbs that only look: ls, show, diff and status. They need no owner of the home and no event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from p2psync.errors import ModelNotFoundError, NodeNotRunningError, NotFoundError, SourceUnreachableError, UsageError
from p2psync.limits import OUTSIDE_BYTES_PER_S
from p2psync.manifest import Head, Manifest, Reference, chunk_layers, compare, files_of, peek_head, peek_key_hint
from p2psync.node.identity import known_node_id
from p2psync.node.names import SOCKET_NAME
from p2psync.store import Store, VersionInfo, owner_pid

Json = dict[str, Any]


def inspect(home: Path, verb: str, args: Mapping[str, Any]) -> Json:
    """Answer a verb that reads. A home that is not there yet is empty.

    Raises:
        ModelNotFoundError: a reference is not in this home.
        P2PSyncError: the home cannot be read.
    """
    work = _VERBS.get(verb)
    if work is None:
        raise UsageError(f"there is nothing to look at by the name {verb!r}")
    return work(home, args)


def _ls(home: Path, _args: Mapping[str, Any]) -> Json:
    with _opened(home) as store:
        rows = [_row(store, info, tag) for info in store.versions() for tag in (info.tags or (None,))]
    rows.sort(key=lambda row: (row["name"], -row["created"], row["reference"]))
    return {"models": rows}


def _row(store: Store, info: VersionInfo, tag: str | None) -> Json:
    envelope = store.head(info.name, tag or str(info.root)) or b""
    head = peek_head(envelope)
    manifest = store.manifest(info.root)
    return {
        "reference": f"{info.name}:{tag}" if tag else f"{info.name}@{info.root}",
        "name": info.name,
        "tag": tag,
        "version": head.version,
        "digest": str(info.root),
        "size": info.size,
        "disk_bytes": info.disk_bytes,
        "signer": peek_key_hint(envelope),
        "created": head.created,
        "expires": head.expires,
        "installed": info.complete or bool(info.variants),
        "fragile": info.fragile,
        "variants": [v.name for v in manifest.variants] if manifest else [],
    }


def _show(home: Path, args: Mapping[str, Any]) -> Json:
    reference = Reference.parse(args["reference"])
    with _opened(home) as store:
        head, envelope, manifest = _version(store, reference)
        info = _info(store, head)
        here = store.present(head.name, head.root)
        return {
            "reference": f"{head.name}:{head.tag}@{head.root}",
            "name": head.name,
            "tag": head.tag if info is not None and head.tag in info.tags else None,
            "digest": str(head.root),
            "version": head.version,
            "signer": peek_key_hint(envelope),
            "created": head.created,
            "expires": head.expires,
            "size": manifest.size,
            "disk_bytes": info.disk_bytes if info else 0,
            "installed": info is not None and (info.complete or bool(info.variants)),
            "fragile": info is not None and info.fragile,
            "path": str(info.path) if info is not None and here else None,
            "files": [
                {
                    "path": file.path,
                    "size": file.size,
                    "sha256": file.sha256.hex(),
                    "format": file.format.name.lower(),
                    "tensors": sum(bool(blob.name) for blob in file.blobs),
                    "chunks": sum(len(blob.chunks) for blob in file.blobs),
                    "external": file.external,
                    "installed": number in here,
                }
                for number, file in enumerate(manifest.files)
            ],
            "variants": [
                {
                    "name": variant.name,
                    "default": variant.default,
                    "files": len(files_of(manifest, variant)),
                    "size": sum(manifest.files[i].size for i in files_of(manifest, variant)),
                    "backend": variant.backend,
                    "precision": variant.precision,
                    "memory_bytes": variant.memory_bytes,
                    "installed": here.issuperset(files_of(manifest, variant)),
                }
                for variant in manifest.variants
            ],
            "bases": [str(base) for base in manifest.bases],
        }


def _diff(home: Path, args: Mapping[str, Any]) -> Json:
    from p2psync.node.costs import between

    a, b = Reference.parse(args["a"]), Reference.parse(args["b"])
    with _opened(home) as store:
        head_a, _, before = _version(store, a)
        head_b, _, after = _version(store, b)
        link = float(args.get("link") or OUTSIDE_BYTES_PER_S)
        costs = between(store, before, after, head_a.root, link)
    found = compare(before, after)
    of_layers = costs.by_layer(chunk_layers(after), [row.layer for row in found.layers])
    return {
        "a": f"{head_a.name}:{head_a.tag}@{head_a.root}",
        "b": f"{head_b.name}:{head_b.tag}@{head_b.root}",
        "files": [{"path": f.path, "change": f.change} for f in found.files],
        "tensors": found.tensors,
        "layers": [
            {
                "name": row.layer.name,
                "kind": row.layer.kind.value,
                "change": row.change,
                "tensors": dict(row.tensors),
                "total": row.total_bytes,
                "bytes": row.missing_bytes,
                **cost,
            }
            for row, cost in zip(found.layers, of_layers, strict=True)
        ],
        "bytes": {
            "total": found.total_bytes,
            "reused": found.total_bytes - found.missing_bytes,
            "missing": found.missing_bytes,
        },
        "forms": costs.described(),
    }


def _status(home: Path, _args: Mapping[str, Any]) -> Json:
    running = _ask_owner(home)
    with _opened(home) as store:
        usage = store.usage()
        return {
            "home": str(home),
            "pid": owner_pid(home),
            "serving": running.get("url"),
            "node": running.get("node") or known_node_id(home),
            "models": usage.versions,
            "store": {
                "bytes": usage.models_bytes,
                "partial_bytes": usage.partial_bytes,
                "forms_bytes": usage.forms_bytes,
                "free": usage.free_bytes,
            },
            "partials": [
                {"digest": str(p.root), "name": p.name, "done": p.done_bytes, "total": p.total_bytes}
                for p in usage.unfinished
            ],
            "transfers": running.get("transfers", []),
            "site": running.get("site"),
            "neighbours": running.get("neighbours", 0),
            "links": running.get("links"),
            "limits": running.get("limits"),
            "discovery": running.get("discovery"),
        }


def _ask_owner(home: Path) -> Json:
    """What a running serve says of itself; nothing when there is none."""
    try:
        return ask_owner(home, "status", {})
    except NotFoundError:
        return {}


def ask_owner(home: Path, verb: str, args: Json) -> Json:
    """Ask the running serve of a home what only it knows.

    Raises:
        NodeNotRunningError: there is none.
    """
    socket = home / SOCKET_NAME
    if socket.exists():
        import asyncio

        from p2psync.transport import call

        with suppress(SourceUnreachableError):
            return asyncio.run(call(socket, verb, args, lambda _event: None))
    raise NodeNotRunningError(f"no p2psync serve runs on {home}", hint="p2psync serve --open")


class _opened:  # noqa: N801 - reads as `with _opened(home) as store`
    """A store that is only read, closed at the end."""

    def __init__(self, home: Path) -> None:
        self._store = Store.open(home, write=False)

    def __enter__(self) -> Store:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


def _version(store: Store, reference: Reference) -> tuple[Head, bytes, Manifest]:
    root, envelope = store.resolve(reference)
    manifest = store.manifest(root)
    if manifest is None:
        raise ModelNotFoundError(f"the manifest of {reference} is not in this home", hint=f"p2psync pull {reference}")
    return peek_head(envelope), envelope, manifest


def _info(store: Store, head: Head) -> VersionInfo | None:
    return next((v for v in store.versions() if v.name == head.name and v.root == head.root), None)


_VERBS: dict[str, Callable[[Path, Mapping[str, Any]], Json]] = {
    "ls": _ls,
    "show": _show,
    "diff": _diff,
    "status": _status,
}
