"""What a source answers when it is asked for a head, and what becomes of the answers that are none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from p2psync import transport
from p2psync.errors import ModelNotFoundError, RemoteProtocolError
from p2psync.limits import HEAD_BYTES_MAX
from p2psync.transport.exchange import Reply
from p2psync.transport.heads import fetch_head, head_path
from p2psync.transport.source import HeadReply


class Answering:
    """Resources that give one answer, and note what they were asked."""

    def __init__(self, status: int = 200, body: bytes = b"", etag: str | None = None, protocol: str | None = "1"):
        self._reply = Reply(status, body, etag, protocol)
        self.asked: list[tuple[str, int, Mapping[str, str] | None]] = []

    async def get(self, path: str, bytes_max: int, headers: Mapping[str, str] | None = None) -> Reply:
        self.asked.append((path, bytes_max, headers))
        return self._reply


def fetch(resources: Answering, etag: str | None = None) -> tuple[HeadReply, str | None]:
    return asyncio.run(fetch_head(resources, "http://peer", "acme/wan", "latest", etag))


@pytest.mark.parametrize("protocol", ["1", None])
def test_a_head_is_asked_for_by_its_name_and_tag(protocol: str | None) -> None:
    """One bounded question; the answer says whether a peer or an origin tree gave it."""
    resources = Answering(body=b"head", etag='"7"', protocol=protocol)
    assert fetch(resources) == (HeadReply(b"head", '"7"'), protocol)
    assert resources.asked == [("v1/heads/acme/wan/tags/latest", HEAD_BYTES_MAX, None)]
    assert head_path("acme/wan", "b3:00ff") == "v1/heads/acme/wan/digests/00ff"


def test_a_head_that_did_not_change_is_not_sent_again() -> None:
    """Whoever has an etag repeats it, and is told that it still holds."""
    resources = Answering(304)
    assert fetch(resources, '"7"')[0] == HeadReply(None, '"7"')
    assert resources.asked[0][2] == {"If-None-Match": '"7"'}


@pytest.mark.parametrize("etag", ['"ä"', '"7"\r\nHost: elsewhere'])
def test_an_etag_that_fits_no_header_is_not_repeated(etag: str) -> None:
    """What a source once said must not become lines of a question to it."""
    resources = Answering(body=b"head")
    assert fetch(resources, etag)[0] == HeadReply(b"head", None)
    assert resources.asked[0][2] is None


@pytest.mark.parametrize(
    ("resources", "error", "message"),
    [
        (Answering(protocol="2"), RemoteProtocolError, "http://peer speaks protocol '2', this p2psync speaks 1"),
        (Answering(404, protocol="2"), RemoteProtocolError, "speaks protocol '2'"),
        (Answering(protocol="9" * 1000), RemoteProtocolError, "speaks protocol '9{20}',"),
        (Answering(protocol=""), RemoteProtocolError, "speaks protocol ''"),
        (Answering(404), ModelNotFoundError, "http://peer does not know acme/wan latest"),
        (Answering(410), ModelNotFoundError, "http://peer does not know acme/wan latest"),
        (Answering(304), RemoteProtocolError, "answered a first question with 304"),
    ],
    ids=["newer", "newer and not there", "long", "empty", "not there", "gone", "not modified"],
)
def test_answers_that_are_no_head_are_refused(resources: Answering, error: type[Exception], message: str) -> None:
    """Another protocol, a name that is not there, and "not modified" to who has nothing each have their error."""
    with pytest.raises(error, match=message):
        fetch(resources)


def test_the_room_has_the_names_that_it_lists_and_no_others() -> None:
    """Names are loaded on demand; one that nobody defined is missing as in any module."""
    assert transport.HeadReply is HeadReply
    with pytest.raises(AttributeError, match=r"module 'p2psync\.transport' has no attribute 'Socket'"):
        transport.Socket  # noqa: B018 - asking is what is tested.
