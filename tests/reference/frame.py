"""One frame of zstandard, under the rules of "Frame" (RFC 8878, section 3.1.1)."""

from __future__ import annotations

import zstandard

from tests.reference.cursor import Cursor, RefusedError, require

_WINDOW_MAX = 8 << 20


def unpack(frame: bytes, due: int) -> bytes:
    """The ``due`` bytes of a frame.

    Raises:
        RefusedError: It is not exactly one such frame of exactly so many bytes.
    """
    content, window, dictionary = _header(frame)
    require(content is not None, "a frame that declares nothing")
    require(content == due, "a frame of another size than is due")
    require(window <= _WINDOW_MAX, "a window over 8 MiB")
    require(dictionary == 0, "a dictionary")
    reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX).decompressobj()
    try:
        found = reader.decompress(frame)
    except zstandard.ZstdError as error:
        raise RefusedError(str(error)) from error
    require(reader.eof and not reader.unused_data, "not exactly one frame")
    require(len(found) == due, "a frame that holds another size than it declares")
    return found


def _header(frame: bytes) -> tuple[int | None, int, int]:
    """Content size (None when it is not declared), window size and dictionary of a frame."""
    cursor = Cursor(frame)
    require(cursor.take(4) == b"\x28\xb5\x2f\xfd", "no frame of zstandard")
    flags = cursor.number(1)
    single = flags >> 5 & 1
    require(flags & 0x08 == 0, "the reserved bit")
    window = 0
    if not single:
        descriptor = cursor.number(1)
        base = 1 << (10 + (descriptor >> 3))
        window = base + base // 8 * (descriptor & 7)
    dictionary = cursor.number((0, 1, 2, 4)[flags & 3])
    size = (single, 2, 4, 8)[flags >> 6]
    if not size:
        return None, window, dictionary
    content = cursor.number(size) + (256 if size == 2 else 0)
    return content, content if single else window, dictionary
