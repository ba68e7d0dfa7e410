"""What a clip will cost before anything runs: memory and time, from the shapes of the networks.

Multiplications are counted exactly, memory by the largest tensors that live at once, time by a rate that is measured
here in a fraction of a second. What cannot be known is said; the estimate of time is good within a factor of two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from p2psync.engine import backends, memory
from p2psync.engine.choice import backend_for
from p2psync.engine.description import FILE_NAME, read_description
from p2psync.engine.request import Wish, check_size
from p2psync.engine.residency import growth
from p2psync.engine.shapes import (
    CHECKPOINT_VIDEO,
    Shapes,
    Transformer,
    VideoDecoder,
    decoder_levels,
    of_checkpoint,
    of_engine,
)
from p2psync.limits import MEMORY_SHARE, TILE_SIDE_PX, UNTILED_PX_MAX

# Real graphs reach about half of the rate of one large product: norms, shapes and copies take the rest.
_EFFICIENCY: Final = 0.5
# Measured with onnxruntime, whose arena keeps what it once held: about thirty tensors of a decoder's widest level, and
# the scores of attention four times. A causal convolution keeps two frames.
_LIVE: Final = 30
_SCORES: Final = 4
_KEPT_FRAMES: Final = 2
# Backends that compute in float32 between their products, and those that never keep the scores of attention.
_WIDE: Final = frozenset({"ort-cpu", "torch"})
_SCORELESS: Final = frozenset({"torch"})
# What a session and its graphs take beside weights and tensors.
_BASE_BYTES: Final = 120 << 20


@dataclass(frozen=True, slots=True)
class Size:
    """What is to be made."""

    height_px: int
    width_px: int
    frames: int
    steps: int
    guided: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """An estimate. Bytes and seconds; None where the engine does not say enough, and ``unknown`` names what.

    ``together_bytes`` is the peak with all parts loaded, ``swapped_bytes`` with one at a time, experts exchanged at
    the boundary. ``fits`` is ``together``, ``swapped``, ``no``, or ``unknown``.
    """

    name: str
    backend: str
    height_px: int
    width_px: int
    frames: int
    steps: int
    tokens: int | None
    weights_bytes: int
    expert_bytes: int | None
    scores_bytes: int | None
    decode_bytes: int | None
    together_bytes: int | None
    swapped_bytes: int | None
    available_bytes: int | None
    fits: str
    operations: int | None
    seconds: float | None
    tiled: bool
    unknown: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self) | {"unknown": list(self.unknown)}


def plan(shapes: Shapes, size: Size, backend: str, *, rate: float | None, available_bytes: int | None) -> Plan:
    """Estimate one clip.

    Args:
        shapes: The networks.
        size: The clip.
        backend: What would run it; it decides about the element's size and whether attention keeps its scores.
        rate: Multiply-adds per second, twice counted (FLOP/s); None leaves the time open.
        available_bytes: Memory that may be used; None leaves open whether it fits.
    """
    element = 4 if backend in _WIDE else 2
    unknown = [name for name in ("expert", "text", "decoder") if getattr(shapes, name) is None]
    tokens = expert = scores = decode = operations = None
    tiled = size.height_px * size.width_px > UNTILED_PX_MAX
    if shapes.expert is not None:
        tokens = _tokens(shapes, shapes.expert, size)
        scores = (
            0 if backend in shapes.fused | _SCORELESS else _SCORES * shapes.expert.heads * tokens * tokens * element
        )
        expert = _expert_bytes(shapes.expert, tokens, element) + scores
    if shapes.decoder is not None:
        decode = _decode_bytes(shapes.decoder, size, element, tiled=tiled) + _frame_bytes(size, tiled=tiled)
    if shapes.expert is not None and shapes.decoder is not None and tokens is not None:
        operations = _operations(shapes, shapes.expert, shapes.decoder, size, tokens)
    grown = growth(shapes.precision, backend)
    weights = sum(shapes.weights_bytes.values())
    together = swapped = None
    if expert is not None and decode is not None:
        together = _BASE_BYTES + weights * grown + max(expert, decode)
        turns = dict.fromkeys(shapes.experts, expert) | {"text": 0, "decoder": decode}
        swapped = _BASE_BYTES + max(shapes.weights_bytes.get(name, 0) * grown + extra for name, extra in turns.items())
    return Plan(
        name=shapes.name,
        backend=backend,
        height_px=size.height_px,
        width_px=size.width_px,
        frames=size.frames,
        steps=size.steps,
        tokens=tokens,
        weights_bytes=weights,
        expert_bytes=expert,
        scores_bytes=scores,
        decode_bytes=decode,
        together_bytes=together,
        swapped_bytes=swapped,
        available_bytes=available_bytes,
        fits=_fits(together, swapped, available_bytes),
        operations=operations,
        seconds=None if operations is None or not rate else operations / (rate * _EFFICIENCY),
        tiled=tiled,
        unknown=tuple(unknown),
    )


def estimate(directory: Path, wish: Wish, *, backend: str | None = None) -> Plan:
    """What a clip would take: of an engine, or of a diffusers checkpoint of Wan, whose weights are not needed.

    Args:
        directory: Holds ``engine.json`` or ``model_index.json``.
        wish: The clip; its prompt does not matter. What is None is what the model makes when nothing is asked for.
        backend: What would run it; None takes the first that is usable here.

    Raises:
        UnfitRequestError: the model cannot make this size.
        ModelError: the directory holds neither, or nothing here runs it.
    """
    if (directory / FILE_NAME).is_file():
        described = read_description(directory)
        shapes, video = of_engine(described), described.video
    else:
        shapes, video = of_checkpoint(directory), CHECKPOINT_VIDEO
    size = Size(
        height_px=video.height_px if wish.height_px is None else wish.height_px,
        width_px=video.width_px if wish.width_px is None else wish.width_px,
        frames=video.frames if wish.frames is None else wish.frames,
        steps=shapes.steps if wish.steps is None else wish.steps,
        guided=(shapes.guidance if wish.guidance is None else wish.guidance) > 1.0,
    )
    check_size(video, size.height_px, size.width_px, size.frames)
    name = backend or backend_for(shapes.precision)
    kind = "int8" if shapes.precision.startswith("int8") else "float32" if name == "ort-cpu" else "float16"
    rate = backends.backend(name).rate(kind)
    return plan(shapes, size, name, rate=rate, available_bytes=memory.available_bytes())


def _fits(together: int | None, swapped: int | None, available: int | None) -> str:
    if together is None or swapped is None or available is None:
        return "unknown"
    room = available * MEMORY_SHARE
    return "together" if together <= room else "swapped" if swapped <= room else "no"


def _tokens(shapes: Shapes, expert: Transformer, size: Size) -> int:
    frames = 1 + (size.frames - 1) // shapes.temporal
    height, width = size.height_px // shapes.spatial, size.width_px // shapes.spatial
    return (frames // expert.patch[0]) * (height // expert.patch[1]) * (width // expert.patch[2])


def _expert_bytes(expert: Transformer, tokens: int, element: int) -> int:
    """Tensors that live at once: the stream and its norm, and the inner width twice or q, k, v and what they give."""
    return tokens * (2 * expert.hidden + max(2 * expert.ffn, 4 * expert.hidden)) * element


def _decode_bytes(decoder: VideoDecoder, size: Size, element: int, *, tiled: bool) -> int:
    """The widest moment of decoding one latent frame, and what all causal convolutions keep for the next."""
    height, width = (min(side, TILE_SIDE_PX) if tiled else side for side in (size.height_px, size.width_px))
    side_max = 1 << (len(decoder.multipliers) - 1)
    widest = kept = 0
    for into, out, side, time in decoder_levels(decoder):
        cells = (height * side // side_max) * (width * side // side_max)
        widest = max(widest, _LIVE * max(into, out) * cells * time)
        kept += _KEPT_FRAMES * cells * (into + out * (1 + 2 * decoder.blocks))
    return (widest + kept) * element


def _frame_bytes(size: Size, *, tiled: bool) -> int:
    """Frames that wait: a few where they are written as they come; all, in a file, where tiles are put together."""
    pixels = size.height_px * size.width_px * 3
    return pixels * 2 * size.frames if tiled else pixels * 4 * 4


def _operations(shapes: Shapes, expert: Transformer, decoder: VideoDecoder, size: Size, tokens: int) -> int:
    d, f, text = expert.hidden, expert.ffn, shapes.text_length
    block = 2 * tokens * (6 * d * d + 2 * d * f) + 4 * text * d * d + 4 * tokens * (tokens + text) * d
    calls = size.steps * (2 if size.guided else 1)
    total = calls * expert.layers * block
    if shapes.text is not None:
        hidden, inner = shapes.text.hidden, shapes.text.ffn
        total += (2 if size.guided else 1) * shapes.text.layers * 2 * text * (4 * hidden * hidden + 3 * hidden * inner)
    return total + _decoder_operations(decoder, size)


def _decoder_operations(decoder: VideoDecoder, size: Size) -> int:
    """Two operations per weight of a convolution and per place where it is applied."""
    levels = decoder_levels(decoder)
    side_max, time_max = 1 << (len(levels) - 1), levels[-1][3]
    total = 0
    for into, out, side, time in levels:
        places = (size.height_px * side // side_max) * (size.width_px * side // side_max)
        places *= 1 + (size.frames - 1) * time // time_max
        total += 2 * places * 27 * (into * out + out * out * (1 + 2 * decoder.blocks))
    return total
