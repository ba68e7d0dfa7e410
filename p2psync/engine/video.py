"""Frames to files: mp4, PNG and a contact sheet, the one home of ``av``.

A file is written under another name in its own directory and renamed when it is whole; the directory is tried before
the first step, so that an output that cannot be written fails in a second and not after the work.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from p2psync import disk
from p2psync.errors import BackendUnavailableError, StoreError, StoreFullError, StoreUnwritableError, UsageError
from p2psync.limits import SHEET_FRAMES_MAX

# libx264 where it was built in; MPEG-4 part 2 is in every build.
_CODECS: Final = ("libx264", "mpeg4")
_QUALITY: Final = {"libx264": {"crf": "16", "preset": "medium"}, "mpeg4": {"qscale": "3"}}
_SHEET_COLUMNS: Final = 4
_SHEET_SIDE_PX: Final = 256
_SHEET_GAP_PX: Final = 4

Pixels = NDArray[np.uint8]


class Outgoing:
    """A file that appears under its name only when it is whole. Left without ``keep()``, nothing stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        with writing(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            self.file: IO[bytes] = os.fdopen(os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666), "w+b")

    def keep(self) -> None:
        """Make it durable and give it its name."""
        with writing(self.path):
            self.file.flush()
            disk.sync(self.file.fileno())
            self.file.close()
            disk.replace(self._part, self.path)
            # A folder that may be written and not read holds the file all the same.
            with suppress(PermissionError):
                disk.sync_folder(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()
        self._part.unlink(missing_ok=True)


class Mp4:
    """An mp4 that is written frame by frame into an open file. Height and width are even."""

    def __init__(self, file: IO[bytes], *, height_px: int, width_px: int, fps: int) -> None:
        av = library()
        self._av = av
        self.codec = next(name for name in _CODECS if name in av.codecs_available)
        self._container = av.open(file, "w", format="mp4")
        self._stream = self._container.add_stream(self.codec, rate=Fraction(fps), options=_QUALITY[self.codec])
        self._stream.height, self._stream.width, self._stream.pix_fmt = height_px, width_px, "yuv420p"

    def add(self, frames: Pixels) -> None:
        """Append frames, uint8 of shape [frames, height, width, 3]."""
        for frame in frames:
            picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            self._container.mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Write what the encoder still holds, and the index."""
        self._container.mux(self._stream.encode(None))
        self._container.close()


class Sheet:
    """A contact sheet of evenly spaced frames of a clip that passes by once."""

    def __init__(self, *, frames: int, height_px: int, width_px: int) -> None:
        count = min(frames, SHEET_FRAMES_MAX)
        self._wanted = {round(k * (frames - 1) / max(1, count - 1)) for k in range(count)}
        side = max(height_px, width_px)
        # Whole factors: a small frame is enlarged by repeated pixels, a large one reduced by the mean of squares.
        self._grow = max(1, _SHEET_SIDE_PX // side)
        self._shrink = max(1, -(-side // _SHEET_SIDE_PX))
        self._seen = 0
        self._tiles: list[Pixels] = []

    def add(self, frames: Pixels) -> None:
        """Look at the next frames."""
        for frame in frames:
            if self._seen in self._wanted:
                self._tiles.append(self._scaled(frame))
            self._seen += 1

    def picture(self) -> Pixels:
        """The sheet: uint8 of shape [height, width, 3], frames from left to right and down, light gaps between."""
        height, width, _ = self._tiles[0].shape
        columns = min(_SHEET_COLUMNS, len(self._tiles))
        rows = -(-len(self._tiles) // columns)
        gap = _SHEET_GAP_PX
        sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
        for at, tile in enumerate(self._tiles):
            row, column = divmod(at, columns)
            top, left = gap + row * (height + gap), gap + column * (width + gap)
            sheet[top : top + height, left : left + width] = tile
        return sheet

    def _scaled(self, frame: Pixels) -> Pixels:
        if self._shrink == 1:
            return frame.repeat(self._grow, axis=0).repeat(self._grow, axis=1)
        n = self._shrink
        height, width = frame.shape[0] // n, frame.shape[1] // n
        squares = frame[: height * n, : width * n].reshape(height, n, width, n, 3)
        mean: Pixels = (squares.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
        return mean


def png(picture: Pixels) -> bytes:
    """A PNG file of a picture, uint8 of shape [height, width, 3]."""
    av = library()
    height, width, _ = picture.shape
    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width, codec.pix_fmt, codec.time_base = height, width, "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def check_name(path: Path) -> None:
    """Demand a name that says mp4.

    Raises:
        UsageError: it says something else.
    """
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"{path.name}: clips are written as .mp4", hint=f"--out {path.with_suffix('.mp4').name}")


def library() -> Any:
    """The module ``av``.

    Raises:
        BackendUnavailableError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise BackendUnavailableError(f"av is not installed: {error}", hint="pip install 'p2psync[engine]'") from error
    return av


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk says while ``path`` is written into our errors."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> StoreError:
    """Our error for what the disk said about ``path``."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFullError(
            f"no room to write {path}", needed_bytes=0, free_bytes=0, hint="free some, or write elsewhere"
        )
    return StoreUnwritableError(
        f"cannot write {path}: {os.strerror(error.errno or 0)}", hint="name a directory that exists and can be written"
    )
