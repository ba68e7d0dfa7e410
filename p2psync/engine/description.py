"""What an engine directory says of itself: ``engine.json``, strictly read.

The file names the parts of a pipeline (a skeleton, its weights, the digests that bind the two), how it samples, what
sizes it makes and what it costs. A newer major format is refused; fields that a newer minor one added are kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from p2psync.content import Digest
from p2psync.engine.strict_json import Fields, check_text, read_object
from p2psync.errors import IncompleteModelError, MalformedError, UnsupportedModelError, UnsupportedVersionError
from p2psync.limits import (
    FRAMES_MAX,
    GUIDANCE_MAX,
    PART_TENSORS_MAX,
    PARTS_MAX,
    PATH_BYTES_MAX,
    SIDE_PX_MAX,
    STEPS_MAX,
    TENSOR_NAME_BYTES_MAX,
    TENSOR_RANK_MAX,
    TRAIN_TIMESTEPS_MAX,
)

FILE_NAME: Final = "engine.json"
FORMAT: Final = 1
DTYPES: Final = ("float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")
EXPERTS: Final = ("high", "low")
_PATH: Final = re.compile(r"(?:\.\./)?(?:[^/\\\x00]+/)*[^/\\\x00]+")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a part. A dimension that may change has a name instead of a number."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One graph of the pipeline. Paths are relative to ``engine.json``; ``skeletons`` are by backend."""

    name: str
    skeleton: str
    skeleton_digest: Digest
    weights: str | None
    weights_digest: Digest | None
    skeletons: Mapping[str, tuple[str, Digest]]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def skeleton_for(self, backend: str) -> tuple[str, Digest]:
        """The skeleton that ``backend`` runs, and its digest."""
        return self.skeletons.get(backend, (self.skeleton, self.skeleton_digest))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How latents are made. ``boundary_ratio`` is None where one expert makes all steps."""

    steps: int
    guidance: float
    boundary_ratio: float | None
    flow_shift: float
    train_timesteps: int
    max_sequence_length: int
    scheduler: str


@dataclass(frozen=True, slots=True)
class Video:
    """What is made when nothing else is asked for, in pixels and frames; sides are multiples of ``size_step_px``."""

    height_px: int
    width_px: int
    frames: int
    fps: int
    frames_step: int
    size_step_px: int


@dataclass(frozen=True, slots=True)
class Latent:
    """The space that is sampled: one latent stands for ``spatial`` x ``spatial`` pixels of ``temporal`` frames."""

    channels: int
    spatial: int
    temporal: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """One engine directory. ``cost`` are facts for estimates, ``extra`` is what a newer version added."""

    directory: Path
    name: str
    pipeline: str
    precision: str
    parts: Mapping[str, Part]
    sampling: Sampling
    video: Video
    latent: Latent
    tokenizer: str
    cost: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts that are here: ``high`` before ``low``."""
        return tuple(name for name in EXPERTS if name in self.parts)

    def path(self, relative: str) -> Path:
        """Where a file of this engine is."""
        return Path(os.path.normpath(self.directory / relative))

    @property
    def weights_bytes(self) -> int:
        """The size of all weights on disk; what parts share counts once.

        Raises:
            IncompleteModelError: some are not there.
        """
        files = {self.path(part.weights): name for name, part in self.parts.items() if part.weights is not None}
        return sum(file_bytes(path, name) for path, name in files.items())

    def bytes_of(self, part: str) -> int:
        """The size of a part's weights on disk.

        Raises:
            IncompleteModelError: they are not there.
        """
        weights = self.parts[part].weights
        return 0 if weights is None else file_bytes(self.path(weights), part)


def file_bytes(path: Path, part: str) -> int:
    """The size of one file of a part.

    Raises:
        IncompleteModelError: it is not there, or no file.
    """
    if not path.is_file():
        raise IncompleteModelError(
            f"part {part} of the engine is missing: {path}", hint="p2psync verify --repair, or pull the version again"
        )
    return path.stat().st_size


def read_description(directory: Path) -> Description:
    """Read ``engine.json`` in ``directory``. No other file is opened.

    Raises:
        UnsupportedModelError: the directory holds no engine, or a pipeline that this version cannot run.
        UnsupportedVersionError: a newer p2psync wrote it.
        MalformedError: it does not follow the format.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise UnsupportedModelError(
            f"{directory} holds no engine: there is no {FILE_NAME} in it",
            hint="p2psync.engine.load(path) runs a single .onnx file",
        )
    top = read_object(path)
    if (major := top.integer("format")) != FORMAT:
        raise UnsupportedVersionError(f"{path} has format {major}; this p2psync reads format {FORMAT}", hint="upgrade")
    pipeline = top.word("pipeline")
    if pipeline != "wan":
        raise UnsupportedModelError(f"{path}: there is no pipeline {pipeline!r}; this p2psync runs: wan")
    described = Description(
        directory=directory,
        name=top.text("name"),
        pipeline=pipeline,
        precision=top.word("precision"),
        parts=_parts(top.object("parts")),
        sampling=_sampling(top.object("sampling")),
        video=_video(top.object("video")),
        latent=_latent(top.object("latent")),
        tokenizer=_path(top.text("tokenizer"), "tokenizer"),
        cost=top.object("cost").rest() if top.has("cost") else {},
        extra=top.rest(),
    )
    _check_whole(described)
    return described


def _check_whole(described: Description) -> None:
    """What fields must be to each other."""
    parts, video, latent = described.parts, described.video, described.latent
    needed = ["text", "decode_first", *(["decode_next"] if video.frames > 1 else [])]
    missing = [name for name in needed if name not in parts]
    if missing or not described.experts:
        names = ", ".join(missing or ["high or low"])
        raise IncompleteModelError(f"{FILE_NAME} names no part {names}", hint="export the engine again")
    if len(described.experts) == 2 and described.sampling.boundary_ratio is None:
        raise MalformedError(f"{FILE_NAME}: sampling: two experts and no boundary_ratio")
    if len(latent.mean) != latent.channels or len(latent.std) != latent.channels or 0.0 in latent.std:
        raise MalformedError(f"{FILE_NAME}: latent: mean and std are not one number per channel, or std is zero")
    if video.size_step_px % latent.spatial or video.frames_step % latent.temporal:
        raise MalformedError(f"{FILE_NAME}: video: the steps are no multiples of what one latent stands for")
    off = video.height_px % video.size_step_px or video.width_px % video.size_step_px
    if off or (video.frames - 1) % video.frames_step:
        raise MalformedError(f"{FILE_NAME}: video: the size does not follow its own steps")


def _parts(fields: Fields) -> dict[str, Part]:
    names = fields.keys()
    if len(names) > PARTS_MAX:
        raise MalformedError(f"{fields.what}: more than {PARTS_MAX} parts")
    return {name: _part(name, fields.object(name)) for name in names}


def _part(name: str, fields: Fields) -> Part:
    weights = _path(fields.text("weights"), fields.what) if fields.has("weights") else None
    others: dict[str, tuple[str, Digest]] = {}
    if fields.has("skeletons"):
        paths, digests = fields.object("skeletons"), fields.object("skeleton_digests")
        others = {b: (_path(paths.text(b), paths.what), digests.digest(b)) for b in paths.keys()}  # noqa: SIM118 - no dict
    return Part(
        name=name,
        skeleton=_path(fields.text("skeleton"), fields.what),
        skeleton_digest=fields.digest("skeleton_digest"),
        weights=weights,
        weights_digest=fields.digest("weights_digest") if weights is not None else None,
        skeletons=others,
        inputs=_tensors(fields, "inputs"),
        outputs=_tensors(fields, "outputs"),
    )


def _tensors(fields: Fields, name: str) -> tuple[Tensor, ...]:
    return tuple(_tensor(value, f"{fields.what}: {name}") for value in fields.list(name, PART_TENSORS_MAX))


def _tensor(value: Any, what: str) -> Tensor:
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[2], list):
        raise MalformedError(f"{what}: not [name, dtype, dims]")
    name, dtype, dims = value
    if dtype not in DTYPES:
        raise MalformedError(f"{what}: {dtype!r} is none of {', '.join(DTYPES)}")
    if len(dims) > TENSOR_RANK_MAX or not all(isinstance(d, str) or (type(d) is int and d >= 0) for d in dims):
        raise MalformedError(f"{what}: dims are not numbers and names")
    return Tensor(check_text(name, what, TENSOR_NAME_BYTES_MAX), dtype, tuple(dims))


def _path(text: str, what: str) -> str:
    """A path inside the engine's directory or the one above it, where variants share parts."""
    inside = text.removeprefix("../")
    unsafe = not _PATH.fullmatch(text) or any(part in {"", ".", ".."} for part in inside.split("/"))
    if unsafe or len(text.encode()) > PATH_BYTES_MAX:
        raise MalformedError(f"{what}: {text[:80]!r} is no path inside the variant or beside it")
    return text


def _sampling(fields: Fields) -> Sampling:
    sampling = Sampling(
        steps=fields.integer("steps", 1, STEPS_MAX),
        guidance=fields.number("guidance", 0.0, GUIDANCE_MAX),
        boundary_ratio=fields.number("boundary_ratio", 0.0, 1.0) if fields.has("boundary_ratio") else None,
        flow_shift=fields.number("flow_shift", 0.01, 100.0),
        train_timesteps=fields.integer("train_timesteps", 2, TRAIN_TIMESTEPS_MAX),
        max_sequence_length=fields.integer("max_sequence_length", 1, 65_536),
        scheduler=fields.word("scheduler"),
    )
    if sampling.scheduler != "unipc":
        raise UnsupportedModelError(f"{fields.what}: there is no scheduler {sampling.scheduler!r}; there is: unipc")
    return sampling


def _video(fields: Fields) -> Video:
    return Video(
        height_px=fields.integer("height", 1, SIDE_PX_MAX),
        width_px=fields.integer("width", 1, SIDE_PX_MAX),
        frames=fields.integer("frames", 1, FRAMES_MAX),
        fps=fields.integer("fps", 1, 1000),
        frames_step=fields.integer("frames_step", 1, 1024),
        size_step_px=fields.integer("size_step", 1, 1024),
    )


def _latent(fields: Fields) -> Latent:
    return Latent(
        channels=fields.integer("channels", 1, 4096),
        spatial=fields.integer("spatial", 1, 1024),
        temporal=fields.integer("temporal", 1, 1024),
        mean=fields.numbers("mean", 4096),
        std=fields.numbers("std", 4096),
    )
