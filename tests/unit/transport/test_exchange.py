"""Answers are held against their requests, and against the clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.errors import P2PSyncError, RemoteProtocolError, SourceUnreachableError, WithdrawnError
from p2psync.transport import Timeouts
from p2psync.transport.exchange import (
    ERROR_PAGE_BYTES_MAX,
    AnswerHead,
    Exchange,
    Segment,
    Watch,
    body_length,
    check_answer,
)

GET = Exchange("v1/chunks/x", (Segment((), 100),))
POST = Exchange("v1/chunks", (Segment((), 100),), body=b"digests")
RANGE = Exchange("v1/packs/x", (Segment((), 60), Segment((), 40)), first=7)


def test_lengths_and_ranges() -> None:
    """A range names its first and last byte; an answer is as long as its segments."""
    assert (RANGE.length, RANGE.range, GET.range) == (100, "bytes=7-106", None)


@pytest.mark.parametrize(
    ("exchange", "head"),
    [
        (GET, AnswerHead(200, 100)),
        (POST, AnswerHead(200, 100)),
        (POST, AnswerHead(200, 4)),
        (RANGE, AnswerHead(206, 100, "bytes 7-106/107")),
        (RANGE, AnswerHead(206, 100, "bytes 7-106/*")),
    ],
)
def test_due_answer_is_accepted(exchange: Exchange, head: AnswerHead) -> None:
    """The answer that is due says how long its body is; only a batch may be shorter than asked."""
    assert check_answer("u", exchange, head) == head.length


@pytest.mark.parametrize(
    ("exchange", "head", "error"),
    [
        (GET, AnswerHead(404, 3), WithdrawnError),
        (GET, AnswerHead(404, None, coded=True), WithdrawnError),
        (GET, AnswerHead(403, 3), WithdrawnError),
        (GET, AnswerHead(410, 3), WithdrawnError),
        (GET, AnswerHead(200, None), RemoteProtocolError),
        (GET, AnswerHead(200, 100, coded=True), RemoteProtocolError),
        (GET, AnswerHead(200, 99), RemoteProtocolError),
        (GET, AnswerHead(200, 101), RemoteProtocolError),
        (POST, AnswerHead(200, 101), RemoteProtocolError),
        (GET, AnswerHead(206, 100, "bytes 0-99/100"), RemoteProtocolError),
        (GET, AnswerHead(100, None), RemoteProtocolError),
        (GET, AnswerHead(204, None), RemoteProtocolError),
        (GET, AnswerHead(304, None), RemoteProtocolError),
        (GET, AnswerHead(400, 1), RemoteProtocolError),
        (GET, AnswerHead(429, 1), SourceUnreachableError),
        (GET, AnswerHead(500, 1), SourceUnreachableError),
        (GET, AnswerHead(503, 1), SourceUnreachableError),
        (RANGE, AnswerHead(200, 100), RemoteProtocolError),
        (RANGE, AnswerHead(206, 100), RemoteProtocolError),
        (RANGE, AnswerHead(206, 100, "bytes 7-105/107"), RemoteProtocolError),
        (RANGE, AnswerHead(206, 100, "bytes 8-107/108"), RemoteProtocolError),
        (RANGE, AnswerHead(206, 99, "bytes 7-106/107"), RemoteProtocolError),
        (RANGE, AnswerHead(206, 100, "bytes 7-1060/2000"), RemoteProtocolError),
        (RANGE, AnswerHead(416, 1), RemoteProtocolError),
    ],
)
def test_other_answer_is_refused(exchange: Exchange, head: AnswerHead, error: type[P2PSyncError]) -> None:
    """Every other answer has its error."""
    with pytest.raises(error):
        check_answer("u", exchange, head)


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (AnswerHead(200, 10), 10),
        (AnswerHead(304, 10), 0),
        (AnswerHead(404, 10), 10),
        (AnswerHead(404, ERROR_PAGE_BYTES_MAX + 1), 0),
        (AnswerHead(404, 10, coded=True), 0),
        (AnswerHead(404, None), 0),
    ],
)
def test_so_much_of_a_body_is_read(head: AnswerHead, length: int) -> None:
    """All of what was asked for, a short error page, and nothing behind an answer that has no body."""
    assert body_length("u", "v1/node", head, 10) == length


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (AnswerHead(200, 11), RemoteProtocolError, "u answered v1/node with 11 bytes, not at most 10"),
        (AnswerHead(200, 10, coded=True), RemoteProtocolError, "u answered v1/node with a transfer coding"),
        (AnswerHead(200, None), RemoteProtocolError, "u answered v1/node without a Content-Length"),
        (AnswerHead(206, 10), RemoteProtocolError, "u answered v1/node with status 206"),
        (AnswerHead(302, 10, location="http://x/"), RemoteProtocolError, "u redirects v1/node to http://x/"),
        (AnswerHead(503, 10), SourceUnreachableError, "u answered v1/node with status 503"),
    ],
)
def test_a_body_that_is_not_due_is_refused(head: AnswerHead, error: type[P2PSyncError], message: str) -> None:
    """Its length, its framing and its status are each told as what they are."""
    with pytest.raises(error, match=message):
        body_length("u", "v1/node", head, 10)


def test_redirect_names_where_it_leads() -> None:
    """A redirect is not followed; its error says where it would have led."""
    with pytest.raises(RemoteProtocolError, match="http://elsewhere/") as caught:
        check_answer("u", GET, AnswerHead(302, 0, location="http://elsewhere/"))
    assert caught.value.hint is not None


TIMEOUTS = Timeouts(response_s=10, rate_min_bytes_per_s=100, window_s=5)


def test_silence_expires() -> None:
    """Nothing within the response time is too late."""
    watch = Watch(TIMEOUTS, 10_000, 50.0)
    watch.saw(0, 55.0)
    assert watch.expires_s == 60.0
    assert "no byte" in str(watch.error("u", "p"))


def test_each_window_needs_its_bytes() -> None:
    """After the first byte, every window has to bring the lowest rate."""
    watch = Watch(TIMEOUTS, 10_000, 0.0)
    watch.saw(1, 1.0)
    assert watch.expires_s == 6.0
    watch.saw(500, 5.9)
    assert watch.expires_s == 6.0
    watch.saw(501, 5.9)
    assert watch.expires_s == pytest.approx(10.9)
    assert "slower" in str(watch.error("u", "p"))


def test_total_time_is_bounded() -> None:
    """An answer that keeps the windows still ends within its total time."""
    watch = Watch(TIMEOUTS, 100, 0.0)
    watch.saw(50, 10.0)
    assert watch.expires_s == 11.0


@given(st.lists(st.floats(0.001, 4.9), min_size=1, max_size=200), st.integers(1, 10**7))
def test_source_at_the_lowest_rate_is_kept(pauses_s: list[float], start: int) -> None:
    """A source that brings a window's bytes in less than a window never expires before its total time."""
    total = sum(TIMEOUTS.rate_min_bytes_per_s * TIMEOUTS.window_s for _ in pauses_s)
    watch = Watch(TIMEOUTS, int(total), float(start))
    now_s, received = float(start), 0
    for pause_s in pauses_s:
        now_s += pause_s
        assert now_s <= watch.expires_s or now_s >= start + TIMEOUTS.total_s(int(total))
        received += int(TIMEOUTS.rate_min_bytes_per_s * TIMEOUTS.window_s)
        watch.saw(received, now_s)
