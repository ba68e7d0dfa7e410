from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.content import DIGEST_BYTES, Digest
from p2psync.errors import MalformedError

# BLAKE3 of nothing, from the test vectors of its authors.
NOTHING = "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_the_digest_is_plain_blake3():
    """A digest is BLAKE3 with its default output of 32 bytes, without key or context."""
    assert str(Digest.of(b"")) == NOTHING
    assert Digest.of(memoryview(b"")) == bytes.fromhex(NOTHING[3:])


@given(st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES))
def test_printed_and_parsed_is_the_same(raw):
    """Text and bytes name the same digest."""
    digest = Digest(raw)
    assert Digest.parse(str(digest)) == digest == raw
    assert repr(digest) == f"<{str(digest)[:15]}>"


@pytest.mark.parametrize(
    "text", ["", "b3:", NOTHING[3:], NOTHING.upper(), NOTHING[:-1], NOTHING + "0", f" {NOTHING}", NOTHING + "\n"]
)
def test_other_texts_are_refused(text):
    """Only ``b3:`` and 64 lower-case hex digits are a digest."""
    with pytest.raises(MalformedError, match="not a digest"):
        Digest.parse(text)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_other_lengths_are_refused(length):
    """A digest has 32 bytes."""
    with pytest.raises(MalformedError, match="32 bytes"):
        Digest(bytes(length))
