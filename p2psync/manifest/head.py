"""The head: one signed statement of at most 1 KiB that a version of a model is this tree.

A DSSE envelope (https://github.com/secure-systems-lab/dsse) around a JSON payload, with one Ed25519 signature over the
payload and its type. The signature is checked before the payload is parsed. Envelope and payload each have one text, so
no byte of a head can change without a refusal.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from p2psync.content import Digest
from p2psync.errors import BadSignatureError, InvalidReferenceError, MalformedError, UnsupportedVersionError
from p2psync.limits import (
    BASES_IN_HEAD_MAX,
    HEAD_BYTES_MAX,
    HEAD_DEPTH_MAX,
    INTEGER_MAX,
    REFRESH_AFTER_DEFAULT_S,
    VERSION_MAX,
)
from p2psync.manifest.json_text import decode_json, encode_json
from p2psync.manifest.keys import SIGNATURE_BYTES, SigningKey, VerifyKey
from p2psync.manifest.reference import check_name, check_tag

PAYLOAD_TYPE: Final = "application/vnd.p2psync.head.v1+json"
# The oldest p2psync that reads what this one writes.
MINIMUM: Final = "0.1.0"
# This one. A test holds it equal to p2psync.__version__: the package's front door leads to every room, so a room
# below must not go through it.
RELEASE: Final = "0.1.0"
_UPDATE: Final = "update p2psync"
_ANY_HEAD_TYPE: Final = re.compile(r"application/vnd\.p2psync\.head\.v[0-9]{1,9}\+json")
_RELEASE_TEXT: Final = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}")
_KEY_ID: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Head:
    """What a publisher says about one version. Times are in Unix seconds.

    ``size`` counts the bytes of all files. ``bases`` are versions that deltas exist from: the first of those in the
    root, as many as fit. ``minimum`` is the oldest p2psync that reads the version. ``extra`` keeps fields of a newer
    minor version, which stay signed.
    """

    name: str
    tag: str
    version: int
    root: Digest
    size: int
    created: int
    expires: int | None = None
    refresh_after_s: int = REFRESH_AFTER_DEFAULT_S
    bases: tuple[Digest, ...] = ()
    minimum: str = MINIMUM
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Envelope:
    payload: bytes
    key_id: str
    signature: bytes


def sign_head(head: Head, key: SigningKey) -> bytes:
    """Sign ``head``. Bases that do not fit into 1 KiB are left out, the last first.

    Raises:
        MalformedError: a field is not what a reader accepts, or it does not fit even without bases.
    """
    head = replace(head, bases=head.bases[:BASES_IN_HEAD_MAX])
    while True:
        payload = encode_json(_payload_value(head))
        if _parse_payload(payload) != head:
            raise MalformedError("the head says something that its text cannot hold")
        envelope = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"keyid": key.verify_key.key_id, "sig": base64.b64encode(key.sign(_signed_bytes(payload))).decode()}
            ],
        }
        text = encode_json(envelope)
        if len(text) <= HEAD_BYTES_MAX:
            return text
        if not head.bases:
            raise MalformedError(f"a head of {len(text)} bytes, more than {HEAD_BYTES_MAX}")
        head = replace(head, bases=head.bases[:-1])


def open_head(envelope: bytes, key: VerifyKey) -> Head:
    """Read a head that the holder of ``key`` signed.

    Raises:
        BadSignatureError: another key signed it, or nobody did.
        MalformedError: it is too long, or not in the one text that a head has.
        UnsupportedVersionError: it is of another major version, or needs a newer p2psync.
    """
    opened = _open_envelope(envelope)
    if opened.key_id != key.key_id:
        raise BadSignatureError(f"the head is signed by key {opened.key_id}, not by {key}")
    key.verify(_signed_bytes(opened.payload), opened.signature)
    return _parse_payload(opened.payload)


def peek_key_hint(envelope: bytes) -> str:
    """The key id that an envelope names. Whoever wrote the envelope chose it: a hint, never a proof.

    Raises:
        MalformedError: it is no envelope.
        UnsupportedVersionError: it is of another major version.
    """
    return _open_envelope(envelope).key_id


def peek_head(envelope: bytes) -> Head:
    """Read a head without knowing who signed it: to show or to file what is here, never to act on what is new.

    Raises:
        MalformedError: it is too long, or not in the one text that a head has.
        UnsupportedVersionError: it is of another major version, or needs a newer p2psync.
    """
    return _parse_payload(_open_envelope(envelope).payload)


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding of a payload of our type."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _open_envelope(data: bytes) -> _Envelope:
    if len(data) > HEAD_BYTES_MAX:
        raise MalformedError(f"a head of {len(data)} bytes, more than {HEAD_BYTES_MAX}")
    value = decode_json(data, depth_max=HEAD_DEPTH_MAX, what="a head")
    if not isinstance(value, dict) or value.keys() != {"payload", "payloadType", "signatures"}:
        raise MalformedError("a head is not an object of payload, payloadType and signatures")
    kind = value["payloadType"]
    if kind != PAYLOAD_TYPE:
        if isinstance(kind, str) and _ANY_HEAD_TYPE.fullmatch(kind):
            raise UnsupportedVersionError(f"a head of type {kind}; this p2psync reads {PAYLOAD_TYPE}", hint=_UPDATE)
        raise MalformedError(f"a statement of type {str(kind)[:80]!r} is no head")
    signatures = value["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise MalformedError("a head has exactly one signature")
    entry = signatures[0]
    if not isinstance(entry, dict) or entry.keys() != {"keyid", "sig"}:
        raise MalformedError("a signature is not an object of keyid and sig")
    key_id = entry["keyid"]
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise MalformedError("a key id is not 16 hex digits")
    signature = _base64(entry["sig"], "the signature")
    if len(signature) != SIGNATURE_BYTES:
        raise MalformedError(f"a signature of {len(signature)} bytes; {SIGNATURE_BYTES} are due")
    return _Envelope(_base64(value["payload"], "the payload"), key_id, signature)


def _base64(value: Any, what: str) -> bytes:
    try:
        raw = base64.b64decode(value if isinstance(value, str) else "-", validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"{what} of a head is no base64") from error
    if base64.b64encode(raw).decode() != value:
        raise MalformedError(f"{what} of a head is not in its one base64")
    return raw


def _payload_value(head: Head) -> dict[str, Any]:
    value: dict[str, Any] = {
        "created": head.created,
        "minimum": head.minimum,
        "name": head.name,
        "refresh_after_s": head.refresh_after_s,
        "root": str(head.root),
        "size": head.size,
        "tag": head.tag,
        "version": head.version,
    }
    if head.bases:
        value["bases"] = [str(base) for base in head.bases]
    if head.expires is not None:
        value["expires"] = head.expires
    return {**head.extra, **value}


def _parse_payload(data: bytes) -> Head:
    value = decode_json(data, depth_max=HEAD_DEPTH_MAX, what="the payload of a head")
    if not isinstance(value, dict):
        raise MalformedError("the payload of a head is no object")
    minimum = value.pop("minimum", None)
    _check_minimum(minimum)
    name, tag = value.pop("name", None), value.pop("tag", None)
    if not isinstance(name, str) or not isinstance(tag, str):
        raise MalformedError("a head has no name or no tag")
    try:
        check_name(name)
        check_tag(tag)
    except InvalidReferenceError as error:
        raise MalformedError(f"a head is signed for what is no reference: {error.message}") from error
    return Head(
        name=name,
        tag=tag,
        version=_integer(value, "version", VERSION_MAX),
        root=_digest(value.pop("root", None), "root"),
        size=_integer(value, "size", INTEGER_MAX),
        created=_integer(value, "created", VERSION_MAX),
        expires=_integer(value, "expires", VERSION_MAX) if "expires" in value else None,
        refresh_after_s=_integer(value, "refresh_after_s", VERSION_MAX),
        bases=_bases(value.pop("bases")) if "bases" in value else (),
        minimum=minimum,
        extra=value,
    )


def _check_minimum(minimum: Any) -> None:
    if not isinstance(minimum, str) or not _RELEASE_TEXT.fullmatch(minimum):
        raise MalformedError("a head does not say which p2psync it needs")
    if _numbers(minimum) > _numbers(RELEASE):
        raise UnsupportedVersionError(f"this version needs p2psync {minimum}, and this is {RELEASE}", hint=_UPDATE)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


def _integer(value: dict[str, Any], key: str, maximum: int) -> int:
    number = value.pop(key, None)
    if type(number) is not int or not 0 <= number <= maximum:
        raise MalformedError(f"the {key} of a head is no integer from 0 to {maximum}")
    return number


def _digest(value: Any, what: str) -> Digest:
    if not isinstance(value, str):
        raise MalformedError(f"the {what} of a head is no digest")
    return Digest.parse(value)


def _bases(value: Any) -> tuple[Digest, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= BASES_IN_HEAD_MAX:
        raise MalformedError(f"the bases of a head are not 1 to {BASES_IN_HEAD_MAX} digests")
    bases = tuple(_digest(item, "base") for item in value)
    if len(set(bases)) != len(bases):
        raise MalformedError("a head names one base twice")
    return bases
