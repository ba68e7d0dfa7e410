"""Who is at the other end of a site channel: the bytes by which two nodes introduce themselves and prove it.

Each side sends a hello with its public key and a fresh nonce, and then a signature over its role and both hellos, so
a recorded signature proves nothing later and one that was made for the other role proves nothing either. What it
does not do: nobody's bytes are hidden, and whoever stands between two nodes can pass their words on, or change what
follows the handshake.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from p2psync.content import Digest
from p2psync.errors import BadSignatureError, ChannelRefusedError
from p2psync.limits import HELLO_BYTES_MAX, SITE_ID_BYTES_MAX
from p2psync.manifest import VerifyKey

SITE_PROTOCOL: Final = 1
NONCE_BYTES: Final = 32
_MAGIC: Final = b"P2PS"
_DOMAIN: Final = b"p2psync site channel 1\0"
# Magic, protocol; then public key, nonce, port. Names follow, each after its length in one byte.
_FIRST: Final = struct.Struct("<4sH")
_FIXED: Final = struct.Struct("<32s32sH")
_LENGTH: Final = struct.Struct("<H")
_SOFTWARE_CHARS_MAX: Final = 64


class Reason(StrEnum):
    """Why a channel did not come about or ended. These words cross the wire in close frames, but for the last."""

    LEAVING = "leaving"  # The node stops.
    PROTOCOL = "protocol"  # Another protocol, or nothing of ours.
    SITE = "site"  # Another site.
    SELF = "self"  # The node dialled itself.
    SIGNATURE = "signature"  # The signature does not prove the key.
    MALFORMED = "malformed"  # A message that the protocol does not allow.
    SLOW = "slow"  # The handshake did not end in time.
    DUPLICATE = "duplicate"  # Another channel to the same node stays.
    CLONED = "cloned"  # Another machine has the node's key, or this one's.
    BANNED = "banned"
    FULL = "full"  # As many channels as a node may have.
    OVERFLOW = "overflow"  # The other side does not read what it is sent.
    SILENT = "silent"  # Not a word within the limit.
    LOST = "lost"  # The connection broke.
    UNREACHABLE = "unreachable"  # No connection came about.


@dataclass(frozen=True, slots=True)
class Hello:
    """What a node says of itself. ``port`` 0 means that it serves nowhere."""

    key: VerifyKey
    nonce: bytes
    site: str
    port: int
    software: str

    @property
    def node(self) -> str:
        """The node's id, which the key decides."""
        return node_id_of(self.key)


def node_id_of(key: VerifyKey) -> str:
    """The id of the node with that key: the BLAKE3 digest of its 32 bytes, 64 hex digits."""
    return Digest.of(bytes(key)).hex()


def encode_hello(hello: Hello) -> bytes:
    """The bytes of a hello. See "The site channel" in docs/protocol.md."""
    site, software = hello.site.encode(), hello.software.encode()
    fixed = _FIRST.pack(_MAGIC, SITE_PROTOCOL) + _FIXED.pack(bytes(hello.key), hello.nonce, hello.port)
    return b"".join((fixed, bytes([len(site)]), site, bytes([len(software)]), software))


def decode_hello(data: bytes) -> Hello:
    """Take a hello apart. What follows the part that is known here belongs to later versions.

    Raises:
        ChannelRefusedError: it is no hello, or one of another protocol.
    """
    if len(data) > HELLO_BYTES_MAX or len(data) < _FIRST.size or data[:4] != _MAGIC:
        raise _malformed("it is no hello")
    protocol = _FIRST.unpack_from(data)[1]
    if protocol != SITE_PROTOCOL:
        text = f"the node speaks site protocol {protocol}, this one speaks {SITE_PROTOCOL}"
        raise ChannelRefusedError(text, reason=Reason.PROTOCOL)
    if len(data) < _FIRST.size + _FIXED.size:
        raise _malformed("it ends early")
    key, nonce, port = _FIXED.unpack_from(data, _FIRST.size)
    site, place = _name(data, _FIRST.size + _FIXED.size, SITE_ID_BYTES_MAX)
    software, _ = _name(data, place, _SOFTWARE_CHARS_MAX)
    if not (software.isascii() and software.isprintable()):
        raise _malformed("the name of its software is not printable ASCII")
    return Hello(VerifyKey(key), nonce, site, port, software)


def transcript(*, of_dialler: bool, dialler: bytes, listener: bytes) -> bytes:
    """What one side signs: its role and the hellos of both, as they were sent."""
    parts = [_DOMAIN, b"D" if of_dialler else b"L"]
    for hello in (dialler, listener):
        parts += [_LENGTH.pack(len(hello)), hello]
    return b"".join(parts)


def check_proof(hello: Hello, signed: bytes, signature: bytes) -> None:
    """Prove that the other side holds the key of its hello.

    Raises:
        ChannelRefusedError: it does not.
    """
    try:
        hello.key.verify(signed, signature)
    except BadSignatureError as error:
        text = f"the node that calls itself {hello.node} does not hold its key"
        raise ChannelRefusedError(text, reason=Reason.SIGNATURE) from error


def _name(data: bytes, place: int, bytes_max: int) -> tuple[str, int]:
    end = place + 1 + data[place] if place < len(data) else len(data) + 1
    if end > len(data) or end - place - 1 > bytes_max:
        raise _malformed("a name in it is too long or cut off")
    try:
        return data[place + 1 : end].decode(), end
    except UnicodeDecodeError as error:
        raise _malformed("a name in it is not UTF-8") from error


def _malformed(why: str) -> ChannelRefusedError:
    return ChannelRefusedError(f"the node's introduction is refused: {why}", reason=Reason.MALFORMED)
