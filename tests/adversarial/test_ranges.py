"""Ranges that askers make up: one range is answered, a unit that nobody knows is ignored, anything else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.transport.ranges import range_of
from tests.adversarial.test_server import chunk_paths, get, serving


@pytest.mark.parametrize(
    ("value", "first", "length"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 10),
        ("bytes=990-999999999", 990, 10),
        ("bytes=990-", 990, 10),
        ("bytes=-10", 990, 10),
        ("bytes=-5000", 0, 1000),
        ("Bytes = 1-2 ", 1, 2),
    ],
)
async def test_range_of_a_chunk(tmp_path: Path, value: str, first: int, length: int) -> None:
    """One range of a chunk is sent alone, and what it is is said; an end behind the chunk's means the chunk's."""
    async with serving(tmp_path, [1000]) as served:
        answer = await served.say(get(chunk_paths(served.version)[0], f"Range: {value}", "Connection: close"))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 206 ")
        assert f"content-range: bytes {first}-{first + length - 1}/1000".encode() in head.lower()
        assert body == served.version.data[first : first + length]


@pytest.mark.parametrize(
    "value",
    [
        "bytes=1000-1001",
        "bytes=1000-",
        "bytes=5-1",
        "bytes=-0",
        "bytes=--1",
        "bytes=-",
        "bytes=",
        "bytes=0x0-0x5",
        "bytes=0-1,5-6",
        "bytes=" + "0-1," * 900 + "0-1",
        f"bytes=0-{10**19}",
        "bytes=0-" + "9" * 7000,
        f"bytes={10**17}-{10**17 + 1}",
    ],
    ids=lambda value: value[:24],
)
async def test_range_that_cannot_be_satisfied_is_refused(tmp_path: Path, value: str) -> None:
    """A range behind the end, reversed, of many parts, of too many digits: 416, which says how long the chunk is."""
    async with serving(tmp_path, [1000]) as served:
        answer = await served.say(get(chunk_paths(served.version)[0], f"Range: {value}", "Connection: close"))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 416 ")
        assert b"content-range: bytes */1000" in head.lower()
        assert body not in served.version.data
        assert served.library.held == 0


@pytest.mark.parametrize("value", ["items=0-5", "nonsense", ""])
async def test_range_of_another_unit_is_ignored(tmp_path: Path, value: str) -> None:
    """What is no range of bytes changes nothing: the chunk is sent whole."""
    async with serving(tmp_path, [1000]) as served:
        answer = await served.say(get(chunk_paths(served.version)[0], f"Range: {value}", "Connection: close"))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == served.version.data


@given(st.one_of(st.text(), st.text("0123456789-,= bytes").map("bytes={}".format)), st.integers(1, 1 << 40))
def test_any_range_lies_within_what_there_is(value: str, whole: int) -> None:
    """Whatever is asked for, what is sent begins and ends inside the chunk, or is nothing."""
    asked = range_of(value, whole)
    if asked is not None and asked[1]:
        assert 0 <= asked[0] < whole
        assert 0 < asked[1] <= whole - asked[0]
