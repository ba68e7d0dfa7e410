"""How large the networks of a pipeline are: what an estimate needs to know, from ``engine.json`` or a checkpoint.

A checkpoint is a diffusers directory of Wan2.1 or 2.2; only its small config files are read, so the cost of the real
model can be known without its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from p2psync.engine.description import Description, Video
from p2psync.engine.strict_json import Fields, read_object
from p2psync.errors import MalformedError, UnsupportedModelError

_SIZE_MAX: Final = 1 << 24
_BYTES_BF16: Final = 2
# Of Wan's VAE.
_SPATIAL: Final = 8
_TEMPORAL: Final = 4
# What Wan2.2 makes at its best: 720p, five seconds.
CHECKPOINT_VIDEO: Final = Video(height_px=720, width_px=1280, frames=81, fps=16, frames_step=4, size_step_px=16)


@dataclass(frozen=True, slots=True)
class Transformer:
    """One expert: width, blocks, heads, inner width of the feed-forward, and the patch (frames, height, width)."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    patch: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """The text encoder: width, blocks, inner width of its gated feed-forward."""

    hidden: int
    layers: int
    ffn: int


@dataclass(frozen=True, slots=True)
class VideoDecoder:
    """The decoder: channels of its last level, factors of the levels from last to first, residual blocks of a level."""

    base: int
    multipliers: tuple[int, ...]
    blocks: int


@dataclass(frozen=True, slots=True)
class Shapes:
    """One pipeline. What is None was not said. ``weights_bytes`` is by part; parts of one turn count together."""

    name: str
    experts: tuple[str, ...]
    weights_bytes: Mapping[str, int]
    channels: int
    spatial: int
    temporal: int
    text_length: int
    steps: int
    guidance: float
    expert: Transformer | None = None
    text: TextEncoder | None = None
    decoder: VideoDecoder | None = None
    precision: str = ""
    # Backends that get attention as one node; the others keep all scores in memory.
    fused: frozenset[str] = field(default_factory=frozenset)


def of_engine(described: Description) -> Shapes:
    """The shapes of an engine directory, from the ``cost`` of its ``engine.json``.

    Raises:
        MalformedError: a fact is no number.
    """
    cost = Fields(described.cost, "engine.json: cost")
    sizes: dict[str, int] = {}
    counted: set[str | None] = set()
    for name, part in described.parts.items():
        turn = "decoder" if name.startswith("decode") else name
        # The graphs of the decoder point into one file, and so do two experts that are one.
        sizes[turn] = sizes.get(turn, 0) + (0 if part.weights in counted else described.bytes_of(name))
        counted.add(part.weights)
    fused = {backend for name in described.experts for backend in described.parts[name].skeletons}
    return Shapes(
        name=described.name,
        experts=described.experts,
        weights_bytes=sizes,
        channels=described.latent.channels,
        spatial=described.latent.spatial,
        temporal=described.latent.temporal,
        text_length=described.sampling.max_sequence_length,
        steps=described.sampling.steps,
        guidance=described.sampling.guidance,
        expert=_transformer(cost.object("expert")) if cost.has("expert") else None,
        text=_text(cost.object("text")) if cost.has("text") else None,
        decoder=_decoder(cost.object("decoder")) if cost.has("decoder") else None,
        precision=described.precision,
        fused=frozenset(fused),
    )


def of_checkpoint(directory: Path) -> Shapes:
    """The shapes of a diffusers checkpoint of Wan, from its config files.

    Raises:
        UnsupportedModelError: the directory holds none.
        MalformedError: a config does not hold the numbers that it must.
    """
    if not (directory / "model_index.json").is_file():
        raise UnsupportedModelError(f"{directory} holds neither an engine nor a diffusers checkpoint")
    index = read_object(directory / "model_index.json")
    if index.text("_class_name") != "WanPipeline":
        raise UnsupportedModelError(f"{directory} is no WanPipeline")
    two = index.has("boundary_ratio")
    transformer = read_object(directory / "transformer" / "config.json")
    text = read_object(directory / "text_encoder" / "config.json")
    vae = read_object(directory / "vae" / "config.json")
    channels = transformer.integer("in_channels", 1, _SIZE_MAX)
    expert, expert_parameters = _checkpoint_expert(transformer, channels)
    encoder, text_parameters = _checkpoint_text(text)
    decoder = VideoDecoder(
        vae.integer("base_dim", 1, _SIZE_MAX), _multipliers(vae, "dim_mult"), vae.integer("num_res_blocks", 1, 64)
    )
    experts = ("high", "low") if two else ("high",)
    sizes = dict.fromkeys(experts, expert_parameters * _BYTES_BF16)
    sizes |= {"text": text_parameters * _BYTES_BF16, "decoder": decoder_parameters(decoder, channels) * _BYTES_BF16}
    return Shapes(
        name=directory.name,
        experts=experts,
        weights_bytes=sizes,
        channels=channels,
        spatial=_SPATIAL,
        temporal=_TEMPORAL,
        text_length=512,
        steps=50,
        guidance=5.0,
        expert=expert,
        text=encoder,
        decoder=decoder,
        precision="fp16",
        fused=frozenset({"ort-cuda"}),
    )


def decoder_levels(decoder: VideoDecoder) -> list[tuple[int, int, int, int]]:
    """The levels of Wan's decoder from latents to pixels: channels in, channels out, scale of a side, of time."""
    dims = [decoder.base * m for m in (decoder.multipliers[-1], *reversed(decoder.multipliers))]
    last = len(decoder.multipliers) - 1
    levels = []
    side = time = 1
    for at in range(last + 1):
        # Going up a level halves the channels.
        levels.append((dims[at] // 2 if at else dims[at], dims[at + 1], side, time))
        side *= 2 if at < last else 1
        time *= 2 if at < min(2, last) else 1
    return levels


def decoder_parameters(decoder: VideoDecoder, channels: int) -> int:
    """Weights of the decoder: convolutions of 3 x 3 x 3, those that go up a level, attention in the middle."""
    top = decoder.base * decoder.multipliers[-1]
    count = 27 * channels * top + 4 * 27 * top * top + 4 * top * top + channels * channels
    levels = decoder_levels(decoder)
    for at, (into, out, _, _) in enumerate(levels):
        count += 27 * (into * out + out * out) + (into * out if into != out else 0) + decoder.blocks * 54 * out * out
        if at < len(levels) - 1:
            count += 9 * out * (out // 2) + (3 * out * 2 * out if at < 2 else 0)
    return count + 27 * decoder.base * 3


def _checkpoint_expert(config: Fields, channels: int) -> tuple[Transformer, int]:
    heads, size = (
        config.integer("num_attention_heads", 1, _SIZE_MAX),
        config.integer("attention_head_dim", 1, _SIZE_MAX),
    )
    patch = config.integers("patch_size", 3)
    if len(patch) != 3:
        raise MalformedError(f"{config.what}: patch_size: not frames, height and width")
    shape = Transformer(
        heads * size,
        config.integer("num_layers", 1, 4096),
        heads,
        config.integer("ffn_dim", 1, _SIZE_MAX),
        _patch(patch),
    )
    d, f = shape.hidden, shape.ffn
    cell = channels * patch[0] * patch[1] * patch[2]
    text_dim, freq_dim = config.integer("text_dim", 1, _SIZE_MAX), config.integer("freq_dim", 1, _SIZE_MAX)
    block = 8 * d * d + 2 * d * f + 21 * d + f
    outside = 8 * d * d + (text_dim + freq_dim) * d + 2 * cell * d + 13 * d + cell
    return shape, shape.layers * block + outside


def _checkpoint_text(config: Fields) -> tuple[TextEncoder, int]:
    d, inner = config.integer("d_model", 1, _SIZE_MAX), config.integer("d_ff", 1, _SIZE_MAX)
    attended = config.integer("num_heads", 1, _SIZE_MAX) * config.integer("d_kv", 1, _SIZE_MAX)
    layers = config.integer("num_layers", 1, 4096)
    count = layers * (4 * d * attended + 3 * d * inner) + config.integer("vocab_size", 1, _SIZE_MAX) * d
    return TextEncoder(d, layers, inner), count


def _transformer(fields: Fields) -> Transformer:
    return Transformer(
        fields.integer("hidden", 1, _SIZE_MAX),
        fields.integer("layers", 1, 4096),
        fields.integer("heads", 1, _SIZE_MAX),
        fields.integer("ffn", 1, _SIZE_MAX),
        _patch(fields.integers("patch", 3)),
    )


def _text(fields: Fields) -> TextEncoder:
    return TextEncoder(
        fields.integer("hidden", 1, _SIZE_MAX), fields.integer("layers", 1, 4096), fields.integer("ffn", 1, _SIZE_MAX)
    )


def _decoder(fields: Fields) -> VideoDecoder:
    return VideoDecoder(
        fields.integer("base", 1, _SIZE_MAX), _multipliers(fields, "multipliers"), fields.integer("blocks", 1, 64)
    )


def _multipliers(fields: Fields, name: str) -> tuple[int, ...]:
    values = fields.integers(name, 16)
    if not values:
        raise MalformedError(f"{fields.what}: {name}: empty")
    return values


def _patch(values: tuple[int, ...]) -> tuple[int, int, int]:
    frames, height, width = (max(1, value) for value in (*values, 1, 1, 1)[:3])
    return frames, height, width
