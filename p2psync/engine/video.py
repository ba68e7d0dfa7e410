"""Frames to files: mp4, PNG and a contact sheet, the one home of ``av``.

A file is written under another name in its own directory and renamed when it is whole; the directory is tried before
the first step, so that an output that cannot be written fails in a second and not after the work. What a killed run
left half written is removed by the next one that writes into that directory.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Final, Self

import numpy as np
from numpy.typing import NDArray

from p2psync import disk
from p2psync.engine import memory
from p2psync.errors import StoreError, StoreFullError, StoreUnwritableError, UsageError
from p2psync.limits import SHEET_FRAMES_MAX

# libx264 where it was built in; MPEG-4 part 2 is in every build.
_CODECS: Final = ("libx264", "mpeg4")
_QUALITY: Final = {"libx264": {"crf": "16", "preset": "medium"}, "mpeg4": {"qscale": "3"}}
_PART: Final = ".part"
_TRIES: Final = 3
_ABANDONED: Final = re.compile(rf"\..+\.(?:mp4|png)\.[0-9a-f]{{8}}{re.escape(_PART)}", re.DOTALL)
_SHEET_COLUMNS: Final = 4
_SHEET_SIDE_PX: Final = 256
_SHEET_GAP_PX: Final = 4

Pixels = NDArray[np.uint8]


class Outgoing:
    """A file that appears under its name only when it is whole. Left without ``keep()``, nothing stays.

    It is held until it has its name: what nobody holds another run takes for abandoned.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._settled = False
        with writing(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            for tries_left in reversed(range(_TRIES)):
                self._part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PART}")
                self.file: BinaryIO = disk.create(self._part, 0o666)
                # Between the two another run may have taken it for abandoned. Some file systems can hold nothing.
                if (disk.hold(self.file.fileno()) and self._part.exists()) or not tries_left:
                    break
                self.__exit__(None, None, None)

    def settle(self) -> None:
        """Make its bytes durable; it has no name yet."""
        with writing(self.path):
            self.file.flush()
            disk.sync(self.file.fileno())
        self._settled = True

    def keep(self) -> None:
        """Make it durable and give it its name."""
        with writing(self.path):
            if not self._settled:
                self.settle()
            disk.replace(self._part, self.path)
            self.file.close()
            # A folder that may be written and not read holds the file all the same.
            with suppress(PermissionError):
                disk.sync_folder(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):
            # What could not be written is not tried again: it goes with the file.
            self.file.close()
        with suppress(OSError):
            disk.unlink(self._part)


def remove_parts(folder: Path) -> None:
    """Remove what killed runs left half written in a folder."""
    with suppress(OSError):
        disk.remove_abandoned(folder / entry for entry in os.listdir(folder) if _ABANDONED.fullmatch(entry))


class _Sink:
    """An open file as ``av`` may see it.

    An exception within ``av`` waits until its next call in the same thread, of whatever clip, or is lost, as every
    interrupt is. So the first one is kept here, and what is written after it is thrown away.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._fault: BaseException | None = None

    def write(self, data: bytes) -> int:
        self._try(lambda: self._file.write(data))
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = self._try(lambda: self._file.seek(offset, whence))
        return offset if at is None else at

    def tell(self) -> int:
        return self._try(self._file.tell) or 0

    def check(self) -> None:
        """Raise what the disk said first, or an interrupt."""
        if self._fault is not None:
            raise self._fault

    def _try(self, act: Callable[[], int]) -> int | None:
        # An encoder that is thrown away still wants to write its end, where nobody has the file open any more.
        if self._fault is None and not self._file.closed:
            try:
                return act()
            except BaseException as error:  # noqa: BLE001 - ``check`` raises it.
                self._fault = error
        return None


class Mp4:
    """An mp4 that is written frame by frame into an open file. Height and width are even.

    Every method raises the OSError by which the disk refused what was written until then, and ``add`` and ``finish``
    MemoryShortError where the encoder got no memory.
    """

    def __init__(self, file: IO[bytes], *, height_px: int, width_px: int, fps: int) -> None:
        av = library()
        self._av = av
        self.codec = next(name for name in _CODECS if name in av.codecs_available)
        self._sink = _Sink(file)
        self._container = av.open(self._sink, "w", format="mp4")
        self._stream = self._container.add_stream(self.codec, rate=Fraction(fps), options=_QUALITY[self.codec])
        self._stream.height, self._stream.width, self._stream.pix_fmt = height_px, width_px, "yuv420p"

    def add(self, frames: Pixels) -> None:
        """Append frames, uint8 of shape [frames, height, width, 3]."""
        for frame in frames:
            picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            self._encode(picture)
            self._sink.check()

    def finish(self) -> None:
        """Write what the encoder still holds, and the index."""
        self._encode(None)
        self._container.close()
        self._sink.check()

    def _encode(self, picture: Any) -> None:
        try:
            packets = self._stream.encode(picture)
        except self._av.error.ExternalError as error:
            # An encoder that takes these frames elsewhere; why it does not it says to the log alone.
            raise memory.short(f"{self.codec} encodes nothing", str(error)) from error
        self._container.mux(packets)


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
        ModelError: it is not installed, or does not fit in memory.
    """
    try:
        import av
    except ImportError as error:
        raise memory.unloadable("av", error, "pip install 'p2psync[engine]'") from error
    return av


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk says while ``path`` is written into our errors."""
    try:
        yield
    except OSError as error:
        # Of the second a file says nothing; it is the encoder, that got no thread.
        if error.errno in {errno.ENOMEM, errno.EAGAIN}:
            raise memory.short(f"{path.name} cannot be written", os.strerror(error.errno)) from error
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
