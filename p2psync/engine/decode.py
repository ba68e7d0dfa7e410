"""From latents to frames, one latent frame at a time, so that memory does not grow with the length of a clip.

The decoder of Wan is causal in time. Its graphs pass caches on: one for the first latent frame, which gives one frame,
and one for the later ones, which give ``temporal`` frames each (some exports have their own for the second). Large
frames are decoded in overlapping tiles, tile by tile, each over the whole clip; what overlaps is blended linearly.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2psync.engine.backends import Array, Held, by_position, cast
from p2psync.engine.denoise import Cancel, OpenPart, check_finite
from p2psync.engine.description import Description
from p2psync.engine.video import writing
from p2psync.errors import GenerationCancelledError
from p2psync.limits import MIB, TILE_OVERLAP_PX, TILE_SIDE_PX, UNTILED_PX_MAX

# Blended pixels wait as fixed point: the weights of a pixel sum to one, so rounding stays under 2 of 65,535.
_ONE: Final = 65535.0

Frames = NDArray[np.float32]


class Decoder:
    """Decodes clips with the parts of one engine. ``cancel()`` is asked before each latent frame."""

    def __init__(self, described: Description, open_part: OpenPart, *, cancel: Cancel | None = None) -> None:
        self._latent = described.latent
        self._second = "decode_second" if "decode_second" in described.parts else "decode_next"
        self._open_part = open_part
        self._cancel = cancel or (lambda: False)

    def frames(self, latents: NDArray[np.float32], *, tiled: bool | None = None) -> Iterator[Frames]:
        """Frames of a clip in order, a few at a time.

        Args:
            latents: [1, channels, frames, height, width], as the sampler leaves them.
            tiled: Whether to decode in tiles; None decides by the size.

        Yields:
            float32 of shape [frames, height in pixels, width in pixels, 3], from 0 to 1.

        Raises:
            GenerationCancelledError: ``cancel`` said so.
            WrongAnswerError: the decoder answered with NaN or infinity.
            ModelError: the backend failed.
            StoreError: there is no room for the tiles where temporary files go.
        """
        latent = self._latent
        mean = np.array(latent.mean, np.float32).reshape(1, -1, 1, 1, 1)
        std = np.array(latent.std, np.float32).reshape(1, -1, 1, 1, 1)
        scaled = latents * std + mean
        height_px, width_px = (side * latent.spatial for side in latents.shape[3:])
        if tiled is None:
            tiled = height_px * width_px > UNTILED_PX_MAX
        return self._in_tiles(scaled) if tiled else self._stream(scaled)

    def _stream(self, latents: NDArray[np.float32]) -> Iterator[Frames]:
        caches: list[Held] = []
        for at in range(latents.shape[2]):
            if self._cancel():
                raise GenerationCancelledError(f"cancelled while decoding, {at} of {latents.shape[2]} latent frames")
            part = "decode_first" if at == 0 else self._second if at == 1 else "decode_next"
            with self._open_part(part) as session:
                one = cast(latents[:, :, at : at + 1], session.inputs[0].dtype)
                feeds: list[Array | Held] = [one, *caches]
                made, *caches = session.step(by_position(session, feeds))
                values = np.asarray(made.numpy(), np.float32)
            check_finite(values, f"{part}, latent frame {at + 1}")
            yield np.clip(values[0].transpose(1, 2, 3, 0) * 0.5 + 0.5, 0.0, 1.0)

    def _in_tiles(self, latents: NDArray[np.float32]) -> Iterator[Frames]:
        _, _, count, height, width = latents.shape
        scale = self._latent.spatial
        frames = 1 + (count - 1) * self._latent.temporal
        shape = (frames, height * scale, width * scale, 3)
        with _on_disk(shape) as whole:
            for rows in _spans(height, scale):
                for columns in _spans(width, scale):
                    self._add_tile(whole, latents, rows, columns)
            for at in range(count):
                first = 0 if at == 0 else 1 + (at - 1) * self._latent.temporal
                yield whole[first : 1 + at * self._latent.temporal].astype(np.float32) / np.float32(_ONE)

    def _add_tile(self, whole: NDArray[np.uint16], latents: NDArray[np.float32], rows: _Span, columns: _Span) -> None:
        scale = self._latent.spatial
        weight = (rows.weights[:, None] * columns.weights[None, :])[..., None] * np.float32(_ONE)
        down = slice(rows.start * scale, rows.stop * scale)
        across = slice(columns.start * scale, columns.stop * scale)
        first = 0
        for piece in self._stream(latents[..., rows.start : rows.stop, columns.start : columns.stop]):
            target = whole[first : first + len(piece), down, across]
            total = target + np.floor(piece * weight + 0.5)
            target[...] = np.minimum(total, _ONE).astype(np.uint16)
            first += len(piece)


@contextmanager
def _on_disk(shape: tuple[int, ...]) -> Iterator[NDArray[np.uint16]]:
    """Zeros in a file, where the system may put them: a clip of 1280 x 720 and 81 frames is 450 MB."""
    with ExitStack() as stack:
        with writing(Path(tempfile.tempdir or "the temporary directory")):
            file = stack.enter_context(tempfile.TemporaryFile())
            # Zeros are written, since a process that maps a file and finds no room behind it later is ended.
            left = math.prod(shape) * np.dtype(np.uint16).itemsize
            while left:
                left -= file.write(bytes(min(left, MIB)))
            file.flush()
        yield np.memmap(file, np.uint16, "r+", shape=shape)


class _Span(NamedTuple):
    """A stretch of latents along one side, and the weight of each of its pixels in the blend."""

    start: int
    stop: int
    weights: NDArray[np.float32]


def _spans(size: int, scale: int) -> list[_Span]:
    """Cut a side of ``size`` latents into stretches of one length that overlap and cover it evenly."""
    length = min(size, max(1, TILE_SIDE_PX // scale))
    overlap = min(length - 1, TILE_OVERLAP_PX // scale)
    count = 1 if length == size else -(-(size - overlap) // (length - overlap))
    starts = [round(k * (size - length) / max(1, count - 1)) for k in range(count)]
    ramps = [0] + [(before + length - after) * scale for before, after in pairwise(starts)] + [0]
    spans = []
    for start, before, after in zip(starts, ramps, ramps[1:], strict=False):
        weights = np.ones(length * scale, np.float32)
        weights[:before] = (np.arange(before) + 0.5) / max(1, before)
        weights[len(weights) - after :] = 1 - (np.arange(after) + 0.5) / max(1, after)
        spans.append(_Span(start, start + length, weights))
    return spans
