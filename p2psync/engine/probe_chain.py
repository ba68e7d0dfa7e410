"""Golden probes of format 1, as versions before 0018 have them: one small generation, watched at five places.

Each place answers to the one before, so a rounding in the first velocity moves all that follows. That is no matter
where the very graphs of the recording run (``ort-cpu``), and makes a right INT8 engine fail elsewhere. Such probes are
answered as they always were: who has the version keeps it, and can go back to it. None are written any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from p2psync.engine.answers import Answer, Expected, Values, read_expected
from p2psync.engine.pipeline import Hooks, Pipeline
from p2psync.engine.request import Wish, settle
from p2psync.errors import MalformedError
from p2psync.limits import GUIDANCE_MAX, PROBE_TOLERANCES_MAX, SEED_MAX, SIDE_PX_MAX, STEPS_MAX

if TYPE_CHECKING:
    from p2psync.engine.strict_json import Fields

STAGES: Final = ("text", "high", "low", "latents", "frames")
DEFAULT: Final = "default"
RECORDER: Final = "ort-cpu"
_HINT: Final = (
    f"its probe is of format 1, which follows one generation of {RECORDER}: other backends answer it in half precision "
    f"only. --backend {RECORDER} answers it; p2psync compress writes probes that every backend answers"
)


@dataclass(frozen=True, slots=True)
class ChainProbe:
    """A request, what its stages were, and by backend and stage how far an answer may be from them."""

    wish: Wish
    expected: Mapping[str, Expected]
    tolerance: Mapping[str, Mapping[str, float]]

    def measure(self, pipeline: Pipeline) -> tuple[Answer, ...]:
        """Make the clip, and compare each stage by its largest difference."""
        made = _stages(pipeline, self.wish)
        allowed = {**self.tolerance[DEFAULT], **self.tolerance.get(pipeline.backend, {})}
        return tuple(
            Answer(stage, expected.largest(made.get(stage)), allowed.get(stage, 0.0))
            for stage, expected in self.expected.items()
        )

    def hint(self, backend: str) -> str:
        """What to do where ``backend`` does not answer it; empty where that says nothing about the probe."""
        return "" if backend == RECORDER else _HINT


def read_chain(top: Fields) -> ChainProbe:
    """Read the fields of a probe of format 1.

    Raises:
        MalformedError: it does not follow the format.
    """
    stages, tolerances = top.object("expected"), top.object("tolerance")
    expected = {name: read_expected(stages.object(name)) for name in stages.keys() if name in STAGES}  # noqa: SIM118
    if "frames" not in expected:
        raise MalformedError(f"{top.what}: expects no frames")
    names = tolerances.keys()
    if DEFAULT not in names or len(names) > PROBE_TOLERANCES_MAX:
        raise MalformedError(f"{tolerances.what}: no {DEFAULT}, or more than {PROBE_TOLERANCES_MAX} backends")
    tolerance = {name: _tolerance(tolerances.object(name)) for name in names}
    return ChainProbe(_wish(top.object("inputs")), expected, tolerance)


def _stages(pipeline: Pipeline, wish: Wish) -> dict[str, Values]:
    made: dict[str, Values] = {}
    request = settle(pipeline.described, wish)
    made["latents"] = pipeline.latents(request, Hooks(watch=made.setdefault))  # type: ignore[arg-type]
    made["frames"] = np.concatenate(list(pipeline.decode(made["latents"])))
    return made


def _tolerance(fields: Fields) -> dict[str, float]:
    names = fields.keys()
    if len(names) > PROBE_TOLERANCES_MAX:
        raise MalformedError(f"{fields.what}: more than {PROBE_TOLERANCES_MAX} stages")
    return {stage: fields.number(stage, 0.0, 1e6) for stage in names}


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
