"""Who may speak for which names, how far each tag has come, and whether a head may be acted upon.

Two files: ``trust.json`` binds patterns of names to keys and changes when the operator says so; ``floors.json`` holds
the highest version accepted per name and tag and only ever rises. A lost floor would let an old version be replayed, so
it is an error that asks the operator, never a fresh start.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from p2psync.content import Digest
from p2psync.errors import (
    ExpiredError,
    InvalidReferenceError,
    MalformedError,
    NotFoundError,
    P2PSyncError,
    RollbackError,
    StoreError,
    TrustError,
    UnknownSignerError,
    UnsupportedVersionError,
    UsageError,
    WrongHeadError,
)
from p2psync.limits import NAME_CHARS_MAX, VERSION_MAX
from p2psync.manifest import Head, Reference, VerifyKey, check_name, open_head, peek_key_hint
from p2psync.trust.private import alone_in, read_private, settle, write_private

_FORMAT: Final = 1
_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*/?")
_PATTERN_HINT: Final = "a pattern is NAMESPACE/*, NAMESPACE/PREFIX* or NAMESPACE/NAME"


@dataclass(frozen=True, slots=True)
class TrustEntry:
    """``key`` speaks for the names that ``pattern`` matches: one name, or with ``*`` at its end all that start so."""

    pattern: str
    key: VerifyKey

    def matches(self, name: str) -> bool:
        """Whether the pattern covers ``name``."""
        if self.pattern.endswith("*"):
            return name.startswith(self.pattern[:-1])
        return name == self.pattern

    @property
    def rank(self) -> tuple[int, bool]:
        """Of two entries that cover a name, the one with the higher rank decides: longer, then exact."""
        return len(self.pattern.removesuffix("*")), not self.pattern.endswith("*")


@dataclass(frozen=True, slots=True)
class Floor:
    """The highest version accepted for one name and tag, and its root."""

    version: int
    root: Digest


class TrustStore:
    """Reads and changes the two files in ``folder``. Safe across threads and processes; nothing is cached."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries_path = folder / "trust.json"
        self._floors_path = folder / "floors.json"

    def add(self, pattern: str, key: VerifyKey) -> None:
        """Bind ``pattern`` to ``key``. Binding it again to the same key changes nothing.

        Raises:
            UsageError: ``pattern`` is none.
            TrustError: the pattern has another owner.
            StoreError: the files cannot be read or written.
        """
        check_pattern(pattern)
        with alone_in(self._folder):
            entries = self._read_entries()
            if entries is None and read_private(self._floors_path, secret=False) is None:
                # From here on a missing file of floors is a lost one.
                _write(self._floors_path, {"floors": {}, "format": _FORMAT})
            entries = entries or {}
            owner = entries.get(pattern)
            if owner is not None and owner != key:
                raise TrustError(
                    f"{pattern} is bound to {owner}, and a pattern has one owner",
                    hint=f"p2psync trust rm '{pattern}', then add the other key",
                )
            self._write_entries({**entries, pattern: key})

    def remove(self, pattern: str) -> None:
        """Unbind ``pattern``. Floors stay.

        Raises:
            NotFoundError: it is not bound.
            StoreError: the files cannot be read or written.
        """
        with alone_in(self._folder):
            entries = self._read_entries() or {}
            if entries.pop(pattern, None) is None:
                raise NotFoundError(f"{pattern} is bound to no key", hint="p2psync trust ls")
            self._write_entries(entries)

    def entries(self) -> list[TrustEntry]:
        """All bindings, sorted by pattern.

        Raises:
            StoreError: the file cannot be read.
        """
        return [TrustEntry(pattern, key) for pattern, key in sorted((self._read_entries() or {}).items())]

    def key_for(self, name: str) -> VerifyKey:
        """The key that speaks for ``name``.

        Raises:
            UnknownSignerError: no pattern covers it.
            StoreError: the file cannot be read.
        """
        covering = [entry for entry in self.entries() if entry.matches(name)]
        if not covering:
            namespace = name.partition("/")[0]
            hint = f"get the publisher's key from the publisher, then: p2psync trust add '{namespace}/*' ed25519:HEX"
            raise UnknownSignerError(f"no trusted key speaks for {name}", hint=hint)
        return max(covering, key=lambda entry: entry.rank).key

    def floor(self, name: str, tag: str) -> Floor | None:
        """The highest version accepted for a tag; None where none was.

        Raises:
            StoreError: the floors are lost or garbled.
        """
        return self._read_floors().get(f"{name}:{tag}")

    def raise_floor(self, head: Head) -> None:
        """Remember that ``head`` was accepted. A version that is no higher changes nothing.

        Raises:
            StoreError: the floors are lost or garbled, or cannot be written.
        """
        key = f"{head.name}:{head.tag}"
        known = self._read_floors().get(key)
        if known is not None and head.version <= known.version:
            settle(self._folder)
            return
        with alone_in(self._folder):
            floors = self._read_floors()
            known = floors.get(key)
            if known is None or head.version > known.version:
                floors[key] = Floor(head.version, head.root)
                value = {key: [floor.version, str(floor.root)] for key, floor in sorted(floors.items())}
                _write(self._floors_path, {"floors": value, "format": _FORMAT})

    def _read_entries(self) -> dict[str, VerifyKey] | None:
        data = read_private(self._entries_path, secret=False)
        if data is None:
            return None
        try:
            value = _object(data, "entries")
            entries = {pattern: VerifyKey.parse(key) for pattern, key in value.items()}
            for pattern in entries:
                check_pattern(pattern)
        except _GARBLED as error:
            raise StoreError(
                f"{self._entries_path} is garbled: {error}",
                hint="restore it from a copy, or remove it and add each key again with p2psync trust add",
            ) from error
        return entries

    def _write_entries(self, entries: dict[str, VerifyKey]) -> None:
        value = {pattern: str(key) for pattern, key in sorted(entries.items())}
        _write(self._entries_path, {"entries": value, "format": _FORMAT})

    def _read_floors(self) -> dict[str, Floor]:
        data = read_private(self._floors_path, secret=False)
        if data is None:
            if read_private(self._entries_path, secret=False) is None:
                return {}
            raise self._lost("is gone")
        try:
            return {key: _floor(value) for key, value in _object(data, "floors").items()}
        except _GARBLED as error:
            raise self._lost(f"is garbled: {error}") from error

    def _lost(self, what: str) -> StoreError:
        return StoreError(
            f"{self._floors_path} {what}, so an old version could pass for a new one",
            hint=f"restore it from a copy; or, to accept whatever version comes next, run: "
            f'echo \'{{"floors": {{}}, "format": {_FORMAT}}}\' > {self._floors_path}',
        )


def accept(envelope: bytes, reference: Reference, trust: TrustStore, now_unix_s: int) -> Head:
    """Decide whether a head may be acted upon. Writes nothing: call ``raise_floor`` once it was.

    A reference with a digest names one version for ever: it may be older than the floor, and the tag under which
    it was signed says nothing more than the digest does.

    Args:
        envelope: The head, from anybody.
        reference: What was asked for.
        trust: Who may speak for it, and how far its tag has come.
        now_unix_s: The time by which heads expire, in Unix seconds.

    Raises:
        UnknownSignerError: no trusted key speaks for the name.
        BadSignatureError: another key signed it, or nobody did.
        MalformedError: it is no head.
        UnsupportedVersionError: it needs a newer p2psync.
        WrongHeadError: it was signed for another name, tag or digest.
        ExpiredError: its validity has ended.
        RollbackError: a higher version was accepted before, or another content under the same version.
        StoreError: the files of ``trust`` cannot be read.
    """
    head = open_head(envelope, _key_for(envelope, reference, trust))
    if head.name != reference.name:
        raise WrongHeadError(f"asked for {reference} and got a head that is signed for {head.name}")
    if reference.digest is not None and head.root != reference.digest:
        raise WrongHeadError(f"asked for {reference} and got a head of {head.root}")
    if reference.digest is None and head.tag != reference.tag:
        raise WrongHeadError(f"asked for {reference} and got a head that is signed for the tag {head.tag}")
    if head.expires is not None and now_unix_s >= head.expires:
        raise ExpiredError(
            f"version {head.version} of {head.name}:{head.tag} expired {now_unix_s - head.expires} s ago",
            hint="its publisher must publish again, or this machine's clock is wrong",
        )
    if reference.digest is None:
        _check_floor(head, trust.floor(head.name, head.tag))
    return head


def check_pattern(pattern: str) -> None:
    """Accept a pattern of names.

    Raises:
        UsageError: it is none, or it spans namespaces.
    """
    try:
        if not pattern.endswith("*"):
            check_name(pattern)
            return
    except InvalidReferenceError as error:
        raise UsageError(
            f"the pattern {pattern[:160]!r} matches no name: {error.message}", hint=_PATTERN_HINT
        ) from error
    prefix = pattern[:-1]
    if "/" not in prefix or len(prefix) > NAME_CHARS_MAX or not _PREFIX.fullmatch(prefix):
        raise UsageError(f"the pattern {pattern[:160]!r} is none within one namespace", hint=_PATTERN_HINT)


def _key_for(envelope: bytes, reference: Reference, trust: TrustStore) -> VerifyKey:
    try:
        return trust.key_for(reference.name)
    except UnknownSignerError as error:
        raise UnknownSignerError(f"{error.message}; {_signer_hint(envelope)}", hint=error.hint) from error


def _signer_hint(envelope: bytes) -> str:
    try:
        return f"the head names key {peek_key_hint(envelope)}"
    except (MalformedError, UnsupportedVersionError) as error:
        return error.message


def _check_floor(head: Head, floor: Floor | None) -> None:
    if floor is None:
        return
    what = f"{head.name}:{head.tag}"
    if head.version < floor.version:
        raise RollbackError(
            f"version {head.version} of {what} is older than version {floor.version}, which was accepted before",
            hint=f"to have it nevertheless, name its digest: {head.name}@{head.root}",
            behind=True,
        )
    if head.version == floor.version and head.root != floor.root:
        raise RollbackError(
            f"version {head.version} of {what} is {head.root} here and was {floor.root} before: "
            "its publisher says two things (equivocation), or somebody has the publisher's key",
            hint="ask the publisher, by another way than this one",
        )


_GARBLED: Final = (ValueError, TypeError, RecursionError, P2PSyncError)


def _object(data: bytes, key: str) -> dict[str, Any]:
    value = json.loads(data, object_pairs_hook=_distinct)
    if not isinstance(value, dict) or value.keys() != {key, "format"} or not isinstance(value[key], dict):
        raise MalformedError(f"it is no object of {key} and format")
    if value["format"] != _FORMAT:
        raise MalformedError(f"it is of format {str(value['format'])[:20]}; this p2psync reads {_FORMAT}")
    return dict(value[key])


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise MalformedError("a key stands twice in it")
    return value


def _floor(value: Any) -> Floor:
    version, root = value
    if type(version) is not int or not 0 <= version <= VERSION_MAX or not isinstance(root, str):
        raise MalformedError("a floor is not a version and a root")
    return Floor(version, Digest.parse(root))


def _write(path: Path, value: dict[str, Any]) -> None:
    write_private(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")
