"""A strict reader of the head of an HTTP/1.1 answer. Pure.

What two readers could understand differently is refused: a length that is doubled or not plain digits, folded or
nameless header lines, control characters, bare line feeds.
"""

from __future__ import annotations

import re
from typing import Final

from p2psync.errors import RemoteProtocolError
from p2psync.transport.exchange import AnswerHead

_STATUS: Final = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
# 2**53 has 16 digits: no honest length is longer, and int() of a giant number is slow.
_LENGTH: Final = re.compile(rb"[0-9]{1,16}")
_ONCE: Final = (b"content-length", b"content-range", b"location", b"etag", b"p2psync-protocol")


def read_head(raw: bytes) -> AnswerHead:
    """Parse the bytes of a head, up to and without the empty line that ends it.

    Raises:
        RemoteProtocolError: it is no HTTP/1.1 head, or is ambiguous.
    """
    lines = raw.split(b"\r\n")
    status = _STATUS.fullmatch(lines[0])
    if status is None:
        raise RemoteProtocolError(f"not an HTTP/1.1 answer: {lines[0][:80]!r}")
    fields: dict[bytes, bytes] = {}
    coded = closing = False
    for line in lines[1:]:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise RemoteProtocolError(f"not a header line: {line[:80]!r}")
        name, value = match[1].lower(), match[2].rstrip(b" \t")
        if name == b"transfer-encoding":
            coded = True
        if name in _ONCE:
            if name in fields:
                raise RemoteProtocolError(f"the answer has two {name.decode()} headers")
            fields[name] = value
        if name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
            closing = True
    return AnswerHead(
        status=int(status[1]),
        length=_length(fields.get(b"content-length")),
        content_range=_text(fields.get(b"content-range")),
        location=_text(fields.get(b"location")),
        coded=coded,
        closing=closing,
        etag=_text(fields.get(b"etag")),
        protocol=_text(fields.get(b"p2psync-protocol")),
    )


def _length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if _LENGTH.fullmatch(value) is None:
        raise RemoteProtocolError(f"not a Content-Length: {value[:80]!r}")
    return int(value)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
