"""Hides zstandard: a coder for bytes that have no order but a skewed distribution, and a reader that cannot be fooled.

On weights the match finder of zstandard finds false matches alone, which cost time and space. With long matches and a
table of 64 entries almost none are left, and what remains is the Huffman stage (RFC 8878, section 4.2): the frames stay
frames that every reader of the format takes.
"""

from __future__ import annotations

from typing import Any, Final

import zstandard

from p2psync.errors import MalformedError
from p2psync.limits import ZSTD_WINDOW_BYTES_MAX

_ORDER_0: Final = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    window_log=20,
    chain_log=6,
    hash_log=6,
    search_log=1,
    min_match=7,
    target_length=0,
)
# Level 1 finds less in tables and indexes, higher ones nothing more in weights.
_REPEATS: Final = zstandard.ZstdCompressionParameters.from_level(3)
_MAGIC: Final = b"\x28\xb5\x2f\xfd"

# Coders serve one thread at a time and are dear to make. Those that nobody uses wait here; list operations are atomic.
_idle_packers: list[zstandard.ZstdCompressor] = []
_idle_readers: list[zstandard.ZstdDecompressor] = []


def pack(data: Any) -> bytes:
    """One frame of ``data``, a contiguous buffer, by its distribution alone."""
    try:
        packer = _idle_packers.pop()
    except IndexError:
        packer = zstandard.ZstdCompressor(compression_params=_ORDER_0)
    frame = packer.compress(data)
    _idle_packers.append(packer)
    return frame


def pack_repeats(data: Any) -> bytes:
    """One frame of ``data``, a contiguous buffer, in which what repeats is told once."""
    return zstandard.ZstdCompressor(compression_params=_REPEATS).compress(data)


def unpack(frame: bytes | memoryview, size: int) -> bytes:
    """The ``size`` bytes (1 or more) that ``frame`` holds.

    Takes memory for ``size`` bytes, whatever the frame says of itself.

    Raises:
        MalformedError: it is not exactly one whole frame, holds another size, or demands a dictionary or a window of
            more than 8 MiB.
    """
    try:
        return _read(frame, size)
    except MalformedError:
        raise
    except Exception as error:
        raise MalformedError(f"a zstandard frame cannot be read: {error}") from error


def _read(frame: bytes | memoryview, size: int) -> bytes:
    if frame[: len(_MAGIC)] != _MAGIC:
        raise MalformedError("a zstandard frame does not begin as one")
    told = zstandard.get_frame_parameters(frame)
    if told.content_size != size:
        raise MalformedError(f"a zstandard frame declares {told.content_size} bytes where {size} are due")
    if told.window_size > ZSTD_WINDOW_BYTES_MAX or told.dict_id:
        raise MalformedError(f"a zstandard frame wants a window of {told.window_size} bytes, dictionary {told.dict_id}")
    try:
        reader = _idle_readers.pop()
    except IndexError:
        reader = zstandard.ZstdDecompressor()
    # A reader that failed is not used again.
    data = reader.decompress(frame, allow_extra_data=False)
    _idle_readers.append(reader)
    return data
