"""The golden probe: what a publisher's engine answered, and whether this one answers the same.

Bytes that are right can still give wrong answers: scales in another order, a kernel that saturates, a driver. A probe
is one small generation. Its stages (the text, the first velocity of each expert, the final latents, the frames) are
recorded by their values at fixed positions and compared within a tolerance that is relative to their spread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync.engine.choice import Candidate, choose
from p2psync.engine.pipeline import Hooks, Pipeline, open_pipeline
from p2psync.engine.request import Request, Wish, settle
from p2psync.engine.strict_json import Fields, read_object
from p2psync.errors import MalformedError, UnsupportedVersionError, WrongAnswerError
from p2psync.limits import GUIDANCE_MAX, PROBE_VALUES_MAX, SEED_MAX, SIDE_PX_MAX, STEPS_MAX, TENSOR_RANK_MAX

FILE_NAME: Final = "probe.json"
FORMAT: Final = 1
STAGES: Final = ("text", "high", "low", "latents", "frames")
DEFAULT: Final = "default"
# Another number of threads, or packed weights, moves an answer by 3e-6 of its spread, and one rounding of INT8 that
# falls the other way by a thousandth. FP16 on a GPU, against what a processor answered, may be a hundredth off.
TOLERANCE: Final[Mapping[str, Mapping[str, float]]] = {
    DEFAULT: {"text": 0.002, "high": 0.005, "low": 0.005, "latents": 0.01, "frames": 0.01},
    "ort-cuda": {"text": 0.02, "high": 0.05, "low": 0.05, "latents": 0.1, "frames": 0.1},
}
# A spread below this is a constant: differences are then taken as they are.
_SPREAD_MIN: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Expected:
    """One stage as the publisher saw it. ``positions`` count in the flattened array; ``deviation`` is its spread."""

    shape: tuple[int, ...]
    positions: tuple[int, ...]
    values: tuple[float, ...]
    deviation: float


@dataclass(frozen=True, slots=True)
class GoldenProbe:
    """A request, what its stages were, and by backend and stage how far an answer may be from them."""

    wish: Wish
    expected: Mapping[str, Expected]
    tolerance: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Answer:
    """How far one stage was from what was expected, in units of its spread, and how far it may be."""

    stage: str
    distance: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether it is near enough. A distance that is no number is not."""
        return self.distance <= self.tolerance


def read_probe(path: Path) -> GoldenProbe:
    """Read a probe file.

    Raises:
        IncompleteModelError: there is none.
        UnsupportedVersionError: a newer p2psync wrote it.
        MalformedError: it does not follow the format.
    """
    top = read_object(path)
    if (major := top.integer("format")) != FORMAT:
        raise UnsupportedVersionError(f"{path} has format {major}; this p2psync reads format {FORMAT}", hint="upgrade")
    stages, tolerances = top.object("expected"), top.object("tolerance")
    expected = {name: _expected(stages.object(name)) for name in stages.keys() if name in STAGES}  # noqa: SIM118
    if "frames" not in expected:
        raise MalformedError(f"{path}: expects no frames")
    tolerance = {name: _tolerance(tolerances.object(name)) for name in tolerances.keys()}  # noqa: SIM118
    if DEFAULT not in tolerance:
        raise MalformedError(f"{path}: tolerance: no {DEFAULT}")
    return GoldenProbe(_wish(top.object("inputs")), expected, tolerance)


def check(pipeline: Pipeline, probe: GoldenProbe) -> tuple[Answer, ...]:
    """Run the probe.

    Returns:
        One answer per stage, all within their tolerance.

    Raises:
        WrongAnswerError: one is not; the message names the first stage that is off, and by how much.
        ModelError: the engine does not run.
    """
    answers = measure(pipeline, probe)
    wrong = [answer for answer in answers if not answer.passed]
    if wrong:
        off = ", ".join(f"{a.stage} by {a.distance:.3g} (allowed {a.tolerance:.3g})" for a in wrong)
        raise WrongAnswerError(
            f"{pipeline.described.name} does not answer its probe on {pipeline.backend}: {off}, in units of the spread",
            hint="the engine that ran before stays; p2psync verify REF proves the bytes, another variant may answer",
        )
    return answers


def measure(pipeline: Pipeline, probe: GoldenProbe) -> tuple[Answer, ...]:
    """Run the probe and say how far each stage is from what was expected."""
    made = _stages(pipeline, settle(pipeline.described, probe.wish))
    allowed = {**probe.tolerance[DEFAULT], **probe.tolerance.get(pipeline.backend, {})}
    return tuple(
        Answer(stage, _distance(made.get(stage), expected), allowed.get(stage, 0.0))
        for stage, expected in probe.expected.items()
    )


def record(
    pipeline: Pipeline, inputs: Mapping[str, Any], tolerance: Mapping[str, Mapping[str, float]] = TOLERANCE
) -> dict[str, Any]:
    """Make a probe from what this engine answers, on the publisher's machine.

    Args:
        pipeline: The engine to publish.
        inputs: ``prompt``, ``seed``, ``steps``, ``guidance``, ``height``, ``width``, ``frames``.
        tolerance: By backend, with a ``default``, and stage.

    Returns:
        What ``probe.json`` holds.
    """
    made = _stages(pipeline, settle(pipeline.described, _wish(Fields(inputs, "inputs"))))
    expected = {stage: _summary(values) for stage, values in made.items()}
    return {
        "format": FORMAT,
        "inputs": dict(inputs),
        "expected": expected,
        "tolerance": {backend: dict(stages) for backend, stages in tolerance.items()},
    }


def record_at(directory: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Make the probe of an engine directory from what ``ort-cpu`` answers; see ``record``.

    Raises:
        ModelError: the engine does not run.
    """
    with open_pipeline(Path(directory), "ort-cpu") as pipeline:
        return record(pipeline, inputs)


def verify(among: Sequence[Candidate], *, variant: str | None = None, backend: str | None = None) -> dict[str, Any]:
    """Answer the golden probe of the variant that would run here, with all weights proved: ``verify --run``.

    Returns:
        ``variant``, ``backend``, ``seconds`` and one distance per stage; ``probe`` False where the version has none.

    Raises:
        WrongAnswerError: the answers are off.
        ModelError: it does not run.
    """
    choice = choose(among, variant=variant, backend=backend)
    begun = time.monotonic()
    with open_pipeline(choice.candidate.directory, choice.backend, prove=True) as pipeline:
        file = probe_of(choice.candidate.directory)
        answers: tuple[Answer, ...] = ()
        if file is None:
            pipeline.parts.load_all()
        else:
            answers = check(pipeline, read_probe(file))
    return {
        "variant": choice.candidate.name,
        "backend": choice.backend,
        "probe": file is not None,
        "seconds": round(time.monotonic() - begun, 3),
        "stages": {a.stage: {"distance": round(a.distance, 6), "tolerance": a.tolerance} for a in answers},
        "steps_down": list(choice.steps_down),
    }


def _stages(pipeline: Pipeline, request: Request) -> dict[str, NDArray[np.float32]]:
    made: dict[str, NDArray[np.float32]] = {}
    made["latents"] = pipeline.latents(request, Hooks(watch=made.setdefault))  # type: ignore[arg-type]
    made["frames"] = np.concatenate(list(pipeline.decode(made["latents"])))
    return {stage: made[stage] for stage in STAGES if stage in made}


def _distance(made: NDArray[np.float32] | None, expected: Expected) -> float:
    """The largest difference at the recorded positions, in units of the spread; infinite where shapes differ."""
    if made is None or made.shape != expected.shape:
        return float("inf")
    values = made.reshape(-1)[list(expected.positions)].astype(np.float64)
    distance = np.abs(values - np.array(expected.values)).max() / max(expected.deviation, _SPREAD_MIN)
    return float(distance) if np.isfinite(distance) else float("inf")


def _summary(values: NDArray[np.float32]) -> dict[str, Any]:
    flat = values.reshape(-1)
    positions = np.unique(np.linspace(0, flat.size - 1, min(flat.size, PROBE_VALUES_MAX)).astype(np.int64))
    return {
        "shape": list(values.shape),
        "positions": positions.tolist(),
        "values": [float(value) for value in flat[positions]],
        "mean": float(flat.mean()),
        "deviation": float(flat.std()),
    }


def _expected(fields: Fields) -> Expected:
    shape = fields.integers("shape", TENSOR_RANK_MAX)
    positions = fields.integers("positions", PROBE_VALUES_MAX)
    values = fields.numbers("values", PROBE_VALUES_MAX)
    size = int(np.prod([int(side) for side in shape], dtype=object))
    if not positions or len(positions) != len(values) or max(positions) >= size:
        raise MalformedError(f"{fields.what}: positions, values and shape do not belong together")
    return Expected(shape, positions, values, fields.number("deviation", 0.0, 1e30))


def _tolerance(fields: Fields) -> dict[str, float]:
    return {stage: fields.number(stage, 0.0, 1e6) for stage in fields.keys()}  # noqa: SIM118 - no dict


def _wish(fields: Fields) -> Wish:
    return Wish(
        prompt=fields.text("prompt"),
        seed=fields.integer("seed", 0, SEED_MAX),
        steps=fields.integer("steps", 1, STEPS_MAX),
        guidance=fields.number("guidance", 0.0, GUIDANCE_MAX),
        height_px=fields.integer("height", 1, SIDE_PX_MAX),
        width_px=fields.integer("width", 1, SIDE_PX_MAX),
        frames=fields.integer("frames", 1, 1 << 20),
    )


def probe_of(directory: str | os.PathLike[str]) -> Path | None:
    """The probe file of an engine directory, if it has one."""
    path = Path(directory) / FILE_NAME
    return path if path.is_file() else None
