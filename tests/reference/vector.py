"""A packed vector: header, metadata of one chunk, and its one page, in pcodec's wrapped format."""

from __future__ import annotations

from typing import Any

import numpy as np
from pcodec import wrapped

from tests.reference.cursor import RefusedError, require


def numbers(data: bytes, count: int, dtype: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Exactly ``count`` numbers of one type from exactly these bytes.

    Raises:
        RefusedError: They are not such a stream.
    """
    found = np.zeros(count, dtype)
    try:
        file, read = wrapped.FileDecompressor.new(data)
        data = data[read:]
        chunk, read = file.chunk_decompressor(data, f"{dtype[-2]}{8 * found.itemsize}")
        data = data[read:]
        progress, read = chunk.read_page_into(data, count, found)
    except BaseException as error:
        # What the library asserts arrives as an exception that derives from BaseException alone.
        if not isinstance(error, RuntimeError | TypeError) and type(error).__name__ != "PanicException":
            raise
        raise RefusedError(str(error)) from error
    require(read == len(data), "bytes behind a vector")
    require(progress.n_processed == count and progress.finished, "a vector that ends early")
    return found
