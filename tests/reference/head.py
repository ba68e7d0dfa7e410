"""The head: a DSSE envelope in one JSON text, verified before its payload is parsed."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

from tests.reference import values
from tests.reference.cursor import RefusedError, require
from tests.reference.ed25519 import verifies

_TYPE = "application/vnd.p2psync.head.v1+json"
_ENVELOPE_MAX = 1024
_DEPTH_MAX = 8
_FIELDS = {"name", "tag", "version", "root", "size", "created", "expires", "refresh_after_s", "bases", "minimum"}


@dataclass(frozen=True)
class Head:
    """What a publisher signed. ``extra`` holds the fields of a newer minor version."""

    name: str
    tag: str
    version: int
    root: bytes
    size: int
    created: int
    expires: int | None
    refresh_after_s: int
    bases: tuple[bytes, ...]
    minimum: str
    extra: dict[str, Any]


def read_head(envelope: bytes, key: str) -> Head:
    """The head that an envelope carries, under a public key as it is written.

    Raises:
        RefusedError: It is none, or not signed by this key.
    """
    require(len(envelope) <= _ENVELOPE_MAX, "an envelope over 1,024 bytes")
    found = json_text(envelope)
    require(isinstance(found, dict) and set(found) == {"payload", "payloadType", "signatures"}, "an envelope's fields")
    signatures = values.listed(found["signatures"])
    require(len(signatures) == 1, "not one signature")
    require(isinstance(signatures[0], dict) and set(signatures[0]) == {"keyid", "sig"}, "a signature's fields")
    require(found["payloadType"] == _TYPE, "another type")
    payload, signature = unbase64(found["payload"]), unbase64(signatures[0]["sig"])
    public = _public(key)
    require(signatures[0]["keyid"] == public.hex()[:16], "the hint of another key")
    message = b"DSSEv1 %d %s %d %s" % (len(_TYPE), _TYPE.encode(), len(payload), payload)
    require(verifies(public, message, signature), "a signature that does not verify")
    return _payload(json_text(payload))


def _public(key: str) -> bytes:
    require(re.fullmatch("ed25519:[0-9a-f]{64}", key), "not a public key")
    return bytes.fromhex(key[8:])


def _payload(found: Any) -> Head:
    require(isinstance(found, dict), "a payload that is no object")
    require(set(found) >= _FIELDS - {"expires", "bases"}, "a field that is missing")
    bases = [values.printed(item) for item in values.listed(found["bases"])] if "bases" in found else []
    require("bases" not in found or 1 <= len(set(bases)) == len(bases) <= 3, "1 to 3 bases")
    minimum = found["minimum"]
    require(isinstance(minimum, str) and re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6}){2}", minimum), "a version")
    return Head(
        values.name(found["name"]),
        values.tag(found["tag"]),
        values.whole(found["version"], 2**53 - 1),
        values.printed(found["root"]),
        values.whole(found["size"], 2**63 - 1),
        values.whole(found["created"], 2**53 - 1),
        values.whole(found["expires"], 2**53 - 1) if "expires" in found else None,
        values.whole(found["refresh_after_s"], 2**53 - 1),
        tuple(bases),
        minimum,
        {field: value for field, value in found.items() if field not in _FIELDS},
    )


def json_text(data: bytes) -> Any:
    """The value of a JSON text in its one encoding.

    Raises:
        RefusedError: It is none, or another text of that value.
    """
    try:
        found = json.loads(data.decode("ascii"), object_pairs_hook=_object, parse_float=_refuse, parse_constant=_refuse)
        written = json.dumps(found, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise RefusedError(str(error)) from error
    require(written.encode() == data, "another text of the same value")
    _check(found, 1)
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require(len(dict(pairs)) == len(pairs), "a duplicate key")
    return dict(pairs)


def _refuse(text: str) -> None:
    raise RefusedError(f"the number {text}")


def _check(value: Any, depth: int) -> None:
    """Neither half a surrogate pair nor depth over 8."""
    if isinstance(value, str):
        values.utf8(value)
        return
    require(not isinstance(value, dict | list) or depth <= _DEPTH_MAX, "depth over 8")
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth)
            _check(item, depth + 1)
    if isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


def unbase64(text: Any) -> bytes:
    """The bytes of the one text of base64 that stands for them.

    Raises:
        RefusedError: It is none, or another text of the same bytes.
    """
    require(isinstance(text, str), "no text")
    try:
        found = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise RefusedError("not base64") from error
    require(base64.b64encode(found).decode() == text, "loose bits or padding")
    return found
