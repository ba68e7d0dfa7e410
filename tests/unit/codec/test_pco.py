"""What the entropy coder's library does when it cannot go on, and what becomes of it."""

from types import SimpleNamespace

import numpy as np
import pytest

from p2psync.codec import pco
from p2psync.errors import MalformedError


class Reader:
    """A packed vector's reader that ends as it is told: by raising, or with a page that it says is not all."""

    def __init__(self, end):
        self.end = end

    def new(self, stream):
        if isinstance(self.end, BaseException):
            raise self.end
        return self, 0

    def chunk_decompressor(self, stream, dtype):
        return self, 0

    def read_page_into(self, stream, count, out):
        return self.end, 0


class PanicException(BaseException):
    """What a failed assertion of the library derives from: not from Exception."""


def test_a_reader_that_breaks_is_a_broken_stream_and_an_interrupt_stays_one(monkeypatch):
    """The library's panics are the stream's fault. Ctrl-C while it reads is not, and must not be taken for one."""
    out = np.empty(1, np.int16)
    for end, raised, message in (
        (PanicException("assertion failed"), MalformedError, "breaks its reader"),
        (ValueError("of no use"), MalformedError, "cannot be read: of no use"),
        (KeyboardInterrupt("pressed"), KeyboardInterrupt, "pressed"),
        (SimpleNamespace(finished=False, n_processed=1), MalformedError, "holds 1 numbers where 1 are due"),
        (SimpleNamespace(finished=True, n_processed=0), MalformedError, "holds 0 numbers where 1 are due"),
    ):
        monkeypatch.setattr(pco, "FileDecompressor", Reader(end))
        with pytest.raises(raised, match=message):
            pco.unpack(b"", out)
