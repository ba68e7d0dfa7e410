"""``p2psync.toml`` of a directory that is published: which files make which variant. Not itself published."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2psync.errors import InvalidConfigError, P2PSyncError
from p2psync.limits import INTEGER_MAX, VARIANTS_MAX, WORD_CHARS_MAX
from p2psync.manifest import Variant, check_path

SETTINGS_NAME = "p2psync.toml"
_TOP = {"variants": dict}
_VARIANT = {"files": list, "needs": dict, "probe": str, "default": bool}
_NEEDS = {"backend": str, "precision": str, "memory_bytes": int}
_WORD = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{WORD_CHARS_MAX - 1}}}")


@dataclass(frozen=True, slots=True)
class VariantSettings:
    """One ``[variants.NAME]`` as written; globs are relative to the directory."""

    name: str
    globs: tuple[str, ...]
    default: bool
    backend: str
    precision: str
    memory_bytes: int
    probe: str


def parse_settings(data: bytes) -> tuple[VariantSettings, ...]:
    """Read the bytes of a ``p2psync.toml``.

    Raises:
        InvalidConfigError: it is no TOML, or a key or value is not what it must be.
    """
    try:
        top = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfigError(f"{SETTINGS_NAME}: {error}") from error
    _check_keys(top, _TOP, "")
    variants = top.get("variants", {})
    if len(variants) > VARIANTS_MAX:
        raise InvalidConfigError(f"{SETTINGS_NAME} has {len(variants)} variants; at most {VARIANTS_MAX} are possible")
    found = tuple(_variant(name, value) for name, value in variants.items())
    if sum(v.default for v in found) > 1:
        raise InvalidConfigError(f"{SETTINGS_NAME}: more than one variant is the default")
    return found


def _variant(name: str, value: Any) -> VariantSettings:
    where = f"variants.{name}"
    if not _WORD.fullmatch(name):
        raise InvalidConfigError(f"{SETTINGS_NAME}: {name!r} is no name of a variant: letters, digits, . _ -")
    if not isinstance(value, dict):
        raise InvalidConfigError(f"{SETTINGS_NAME}: {where} must be a table")
    _check_keys(value, _VARIANT, where)
    globs = value.get("files", [])
    if not globs or not all(isinstance(glob, str) and glob for glob in globs):
        raise InvalidConfigError(f"{SETTINGS_NAME}: {where}.files must be a list of globs")
    needs = value.get("needs", {})
    _check_keys(needs, _NEEDS, f"{where}.needs")
    for key in ("backend", "precision"):
        if key in needs and not _WORD.fullmatch(needs[key]):
            raise InvalidConfigError(f"{SETTINGS_NAME}: {where}.needs.{key} is no word of letters, digits, . _ -")
    memory_bytes = needs.get("memory_bytes", 0)
    if not 0 <= memory_bytes <= INTEGER_MAX:
        raise InvalidConfigError(f"{SETTINGS_NAME}: {where}.needs.memory_bytes must be a count of bytes")
    return VariantSettings(
        name,
        tuple(globs),
        value.get("default", False),
        needs.get("backend", ""),
        needs.get("precision", ""),
        memory_bytes,
        value.get("probe", ""),
    )


def choose_files(settings: Sequence[VariantSettings], paths: Sequence[str]) -> tuple[Variant, ...]:
    """The variants over ``paths``, which are the published files in manifest order.

    Raises:
        InvalidConfigError: a glob matches nothing, or a probe is not among the files that its variant installs.
    """
    chosen = {v.name: _matching(v, paths) for v in settings}
    claimed = set().union(*chosen.values())
    variants = []
    for setting in settings:
        files = chosen[setting.name]
        if setting.probe and not _installs(setting.probe, files, claimed, paths):
            raise InvalidConfigError(
                f"{SETTINGS_NAME}: the probe {setting.probe!r} of variant {setting.name} is not among its files"
            )
        variants.append(
            Variant(
                setting.name,
                tuple(sorted(files)),
                setting.default,
                setting.backend,
                setting.precision,
                setting.memory_bytes,
                setting.probe,
            )
        )
    return tuple(variants)


def _matching(setting: VariantSettings, paths: Sequence[str]) -> set[int]:
    found: set[int] = set()
    for glob in setting.globs:
        pattern = _glob_pattern(glob)
        matched = {number for number, path in enumerate(paths) if pattern.fullmatch(path)}
        if not matched:
            raise InvalidConfigError(f"{SETTINGS_NAME}: {glob!r} of variant {setting.name} matches no file")
        found |= matched
    return found


def _installs(path: str, files: Collection[int], claimed: Collection[int], paths: Sequence[str]) -> bool:
    try:
        check_path(path)
        number = paths.index(path)
    except (P2PSyncError, ValueError):
        return False
    return number in files or number not in claimed


def _glob_pattern(glob: str) -> re.Pattern[str]:
    """``*`` and ``?`` stay inside one part of a path, ``**`` does not; everything else is itself."""
    parts = []
    for token in re.split(r"(\*\*/|\*\*|\*|\?)", glob):
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        parts.append(known.get(token) or re.escape(token))
    return re.compile("".join(parts), re.DOTALL)


def _check_keys(table: Any, known: Mapping[str, type], where: str) -> None:
    prefix = f"{where}." if where else ""
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise InvalidConfigError(f"{SETTINGS_NAME}: unknown key {prefix}{key}", hint=f"did you mean {near[0]}?")
        # A truth value is an int to Python, and a count of bytes is none.
        if not isinstance(value, known[key]) or (known[key] is int and isinstance(value, bool)):
            raise InvalidConfigError(f"{SETTINGS_NAME}: {prefix}{key} must be {_NOUNS[known[key]]}")


_NOUNS = {dict: "a table", list: "a list", str: "a text", bool: "true or false", int: "a whole number"}
