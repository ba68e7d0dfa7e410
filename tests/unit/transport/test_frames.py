"""Batches are framed and read back, and nothing that does not fit is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import Digest
from p2psync.errors import MalformedError
from p2psync.limits import BATCH_DIGESTS_MAX, SERVE_PIECE_BYTES_MAX
from p2psync.transport.batches import pieces, size_of
from p2psync.transport.frames import ABSENT, LATER, LENGTH, decode_digests, encode_digests, read_frames

BODIES = st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([ABSENT, LATER])), max_size=30)


def framed(bodies: list[bytes | int]) -> bytes:
    return b"".join(LENGTH.pack(body) if isinstance(body, int) else LENGTH.pack(len(body)) + body for body in bodies)


@given(BODIES)
def test_frames_are_read_back(bodies: list[bytes | int]) -> None:
    """Every frame comes back: its bytes, or why there are none."""
    answer = framed(bodies)
    read = [
        length if length in (ABSENT, LATER) else answer[place : place + length]
        for place, length in read_frames(answer, len(bodies))
    ]
    assert read == bodies


@given(BODIES.filter(len), st.data())
def test_cut_or_extended_answers_are_refused(bodies: list[bytes | int], data: st.DataObject) -> None:
    """An answer that ends early or goes on is refused, and no frame ever reaches beyond it."""
    answer = framed(bodies)
    cut = answer[: data.draw(st.integers(0, len(answer) - 1))]
    for broken in (cut, answer + b"x"):
        with pytest.raises(MalformedError):
            for place, length in read_frames(broken, len(bodies)):
                assert length in (ABSENT, LATER) or place + length <= len(broken)


@pytest.mark.parametrize(
    ("answer", "message", "offset"),
    [
        (framed([b"ab"]) + b"\0\0\0", "ends within a length", 6),
        (framed([b"ab"]) + LENGTH.pack(3) + b"cd", "ends within a frame", 10),
        (framed([b"ab", b"cd"]) + b"e", "goes on after its last frame", 12),
    ],
)
def test_the_place_where_an_answer_breaks_is_told(answer: bytes, message: str, offset: int) -> None:
    """What came before it was handed over, and the frame that is broken never is."""
    read: list[tuple[int, int]] = []
    with pytest.raises(MalformedError, match=message) as caught:
        read.extend(read_frames(answer, 2))
    assert caught.value.offset == offset


@given(st.lists(st.binary(min_size=32, max_size=32).map(Digest), min_size=1, max_size=20))
def test_digests_are_read_back(digests: list[Digest]) -> None:
    """The body of a batch request is its digests."""
    assert decode_digests(encode_digests(digests)) == digests


@pytest.mark.parametrize("length", [0, 31, 33, 32 * (BATCH_DIGESTS_MAX + 1)])
def test_batches_of_no_digests_are_refused(length: int) -> None:
    """A request body is 1 to the cap of whole digests."""
    with pytest.raises(MalformedError):
        decode_digests(bytes(length))


def test_pieces_of_a_batch_are_bounded() -> None:
    """A batch is read and sent in pieces, so that who reads slowly pins little memory; nothing is lost between them."""
    frames = [(Digest.of(bytes([number])), 20_000) for number in range(50)]
    cut = list(pieces(frames))
    assert [frame for piece in cut for frame in piece] == frames
    assert all(size_of(piece) <= SERVE_PIECE_BYTES_MAX for piece in cut)
    assert all(size_of([*piece, frames[0]]) > SERVE_PIECE_BYTES_MAX for piece in cut[:-1])
