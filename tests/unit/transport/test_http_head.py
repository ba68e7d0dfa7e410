"""The reader of answer heads accepts one meaning or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.errors import RemoteProtocolError
from p2psync.transport.exchange import AnswerHead
from p2psync.transport.http_head import read_head


def test_reads_what_an_answer_needs() -> None:
    """Status, length, range, location and closing are found, whatever their case and spacing."""
    raw = (
        b"HTTP/1.1 206 Partial Content\r\nCONTENT-LENGTH:  12 \r\ncontent-range: bytes 1-12/99\r\n"
        b"Location:\thttp://x/\r\nConnection: keep-alive, Close\r\nX-Empty:"
    )
    assert read_head(raw) == AnswerHead(206, 12, "bytes 1-12/99", "http://x/", coded=False, closing=True)


def test_coding_is_noticed() -> None:
    """Any transfer coding is noticed, so that a body that is due can be refused."""
    assert read_head(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: identity").coded


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"HTTP/1.0 200 OK",
        b"HTTP/2 200 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.1 99 X",
        b"HTTP/1.1 099 X",
        b"HTTP/1.1 2000",
        b"HTTP/1.1  200 OK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 OK\nContent-Length: 3",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\nContent-Length: 4",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\ncontent-length: 4",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3",
        b"HTTP/1.1 200 OK\r\nContent-Length: +3",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x3",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3.0",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2",
        b"HTTP/1.1 200 OK\r\nContent-Length:",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 17,
        b"HTTP/1.1 200 OK\r\nContent-Length : 3",
        b"HTTP/1.1 200 OK\r\n Content-Length: 3",
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded",
        b"HTTP/1.1 200 OK\r\n: nameless",
        b"HTTP/1.1 200 OK\r\nX",
        b"HTTP/1.1 200 OK\r\nX: a\rb",
        b"HTTP/1.1 200 OK\r\nX: \x00",
        b"HTTP/1.1 200 OK\r\nLocation: a\r\nLocation: b",
        b"HTTP/1.1 200 OK\r\nContent-Range: bytes 0-1/2\r\nContent-Range: bytes 0-1/2",
    ],
)
def test_refuses_what_could_be_read_twice(raw: bytes) -> None:
    """Heads that two readers could take differently are refused."""
    with pytest.raises(RemoteProtocolError):
        read_head(raw)


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail))
def test_any_bytes_are_a_head_or_an_error(raw: bytes) -> None:
    """Garbage is read or refused, and nothing else happens."""
    try:
        head = read_head(raw)
    except RemoteProtocolError:
        return
    assert 100 <= head.status <= 999
    assert head.length is None or head.length >= 0
