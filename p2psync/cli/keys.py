"""The verbs of keys and trust."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2psync.cli import describe
from p2psync.cli.output import Output
from p2psync.errors import NotFoundError

if TYPE_CHECKING:
    from p2psync.manifest import VerifyKey
    from p2psync.trust import Keyring, TrustStore

Options = Mapping[str, Any]


def key_new(options: Options, out: Output) -> int:
    """Make a key to sign with."""
    key = _keyring(options).new(options["name"])
    _print_key(options["name"], key, out)
    if not out.as_json:
        out.note(f"others trust it with: p2psync trust add 'NAMESPACE/*' {key}")
    return 0


def key_ls(options: Options, out: Output) -> int:
    """List the keys of this home."""
    ring = _keyring(options)
    rows = [{"name": name, **_facts(ring.verify_key(name))} for name in ring.names()]
    out.result({"keys": rows}, text=describe.keys(rows, "NAME", "name"), ids=[row["name"] for row in rows])
    return 0


def key_export(options: Options, out: Output) -> int:
    """Print the public half of a key."""
    _print_key(options["name"], _keyring(options).verify_key(options["name"]), out)
    return 0


def trust_add(options: Options, out: Output) -> int:
    """Bind a pattern of names to a key."""
    from p2psync.manifest import VerifyKey

    key = VerifyKey.parse(options["key"])
    _trust(options).add(options["pattern"], key)
    _print_binding(options["pattern"], key, out)
    return 0


def trust_ls(options: Options, out: Output) -> int:
    """List the bindings."""
    rows = [{"pattern": entry.pattern, **_facts(entry.key)} for entry in _trust(options).entries()]
    out.result({"trusted": rows}, text=describe.keys(rows, "PATTERN", "pattern"), ids=[row["pattern"] for row in rows])
    return 0


def trust_rm(options: Options, out: Output) -> int:
    """Unbind a pattern."""
    pattern = options["pattern"]
    store = _trust(options)
    bound = {entry.pattern: entry.key for entry in store.entries()}
    if pattern not in bound:
        raise NotFoundError(f"{pattern} is bound to no key", hint="p2psync trust ls")
    store.remove(pattern)
    _print_binding(pattern, bound[pattern], out)
    return 0


def _keyring(options: Options) -> Keyring:
    from p2psync.trust import Keyring

    return Keyring(Path(options["home"]) / "keys")


def _trust(options: Options) -> TrustStore:
    from p2psync.trust import TrustStore

    return TrustStore(Path(options["home"]) / "trust")


def _facts(key: VerifyKey) -> dict[str, str]:
    return {"key": str(key), "id": key.key_id}


def _print_key(name: str, key: VerifyKey, out: Output) -> None:
    out.result({"name": name, **_facts(key)}, text=[str(key)], ids=[str(key)])


def _print_binding(pattern: str, key: VerifyKey, out: Output) -> None:
    out.result({"pattern": pattern, **_facts(key)}, text=[f"{pattern} {key}"], ids=[pattern])
