"""Making a golden probe on the publisher's machine: what to ask, what was answered, how far an answer may be off.

Every form of the skeletons that the engine has is run, by one library. The tolerance of each is measured: the same form
is asked again about inputs that were rounded to float16. That moves what it computes by as much as another library or a
GPU does, so that codes of INT8 fall to the other side as they do there. See ADR 0018.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Final

from p2psync.engine import backends
from p2psync.engine.answers import Values, means_of, read_expected, summary
from p2psync.engine.denoise import check_finite
from p2psync.engine.description import EXPERTS, Description
from p2psync.engine.pipeline import Pipeline, latent_shape, open_pipeline
from p2psync.engine.probe_stages import (
    STAGES,
    Context,
    Inputs,
    Noise,
    answers_of,
    patch_side,
    read_stages,
    skeleton_of,
    written,
)
from p2psync.engine.request import Wish, settle
from p2psync.engine.strict_json import Fields
from p2psync.engine.text import clean
from p2psync.errors import WrongAnswerError
from p2psync.limits import (
    PROBE_CONTEXT_VALUES_MAX,
    PROBE_FRAMES_MAX,
    PROBE_SIDE_PX_MAX,
    PROBE_TOLERANCE_MAX,
    SEED_MAX,
)

FORMAT: Final = 2
_RECORDER: Final = "ort-cpu"
# Over so many clips rounding cancels out; damage to one layer stays.
_CLIPS: Final = 8
# Times the distance of an honest answer.
MARGIN: Final = 2.5
# Nothing is held to less: a GPU computes in float16 or TF32 throughout, not only at the inputs.
FLOOR: Final = 0.01
MEANS_FLOOR: Final = 0.001
_DIGITS: Final = 4


def record_at(directory: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Make the probe of an engine directory from what ``ort-cpu`` answers; see ``record``.

    Raises:
        WrongAnswerError: an answer is no number, or so uncertain that a probe would catch nothing.
        ModelError: the engine does not run in each of its forms.
    """
    with open_pipeline(directory, _RECORDER) as pipeline, ExitStack() as opened:
        others = [opened.enter_context(other) for other in _others(pipeline.described)]
        return record([pipeline, *others], inputs)


def record(forms: list[Pipeline], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Make a probe from what an engine answers.

    Args:
        forms: The engine by each form of its skeletons.
        inputs: ``prompt`` and ``seed``.

    Returns:
        What ``probe.json`` holds.

    Raises:
        WrongAnswerError: an answer is no number, or so uncertain that a probe would catch nothing.
        MalformedError: the prompt is too long for a probe.
    """
    asked = _inputs(forms[0], inputs["prompt"], inputs["seed"])
    probe = {"format": FORMAT, **written(asked)}
    answers: dict[str, dict[str, Any]] = {stage: {} for stage in probe["stages"]}
    for form in forms:
        halved = dict(answers_of(form, asked, halved=True))
        for stage, values in answers_of(form, asked):
            check_finite(values, stage)
            if skeleton_of(form, stage) not in answers[stage]:
                answers[stage][skeleton_of(form, stage)] = _answer(stage, values, halved[stage], form.described)
    probe["stages"] = {
        stage: {**probe["stages"][stage], "answers": answers[stage]} for stage in STAGES if stage in answers
    }
    read_stages(Fields(probe, "the golden probe"))
    return probe


def _answer(stage: str, values: Values, halved: Values, described: Description) -> dict[str, Any]:
    side = patch_side(described)
    kept = summary(values, means_of(values, side) if stage in EXPERTS else None)
    expected = read_expected(Fields(kept, stage))
    kept |= _tolerance(stage, "", expected.root_mean_square(halved), FLOOR)
    if stage in EXPERTS:
        kept |= _tolerance(stage, "means_", expected.off_the_means(means_of(halved, side)), MEANS_FLOOR)
    return kept


def _tolerance(stage: str, prefix: str, apart: float, floor: float) -> dict[str, float]:
    tolerance = max(floor, MARGIN * apart)
    if not tolerance <= PROBE_TOLERANCE_MAX:
        raise WrongAnswerError(
            f"{stage} answers inputs that were rounded to half precision otherwise by {apart:.3g} of its spread",
            hint=f"{PROBE_TOLERANCE_MAX / MARGIN:g} is the most; calibrate on more prompts, or quantise fewer layers",
        )
    return {f"{prefix}apart": _short(apart), f"{prefix}tolerance": _short(tolerance)}


def _others(described: Description) -> Iterator[Pipeline]:
    """The engine by each form of its skeletons but the recorder's own."""
    seen = {_skeletons(described, _RECORDER)}
    for name in backends.NAMES:
        if (skeletons := _skeletons(described, name)) not in seen:
            seen.add(skeletons)
            yield open_pipeline(described.directory, _RECORDER, skeletons=name)


def _skeletons(described: Description, backend: str) -> tuple[str, ...]:
    return tuple(part.skeleton_for(backend)[0] for part in described.parts.values())


def _inputs(pipeline: Pipeline, prompt: str, seed: int) -> Inputs:
    described = pipeline.described
    tokens = pipeline.tokens(clean(prompt))
    ids = tuple(tokens.ids[0, : tokens.mask.sum()].tolist())
    hidden = pipeline.encode(tokens)[0]
    width = hidden.shape[1]
    rows = max(1, min(len(ids), PROBE_CONTEXT_VALUES_MAX // width))
    # Noise as strong as a text: a text of its own would be weaker in most directions than what other texts say.
    context = Context(rows, width, _short(float(hidden[:rows].std())))
    shape, noise = _shape(described), {}
    for place, name in enumerate(described.experts):
        noise[name] = Noise(_seed(seed + 2 * place * _CLIPS), shape, _CLIPS, _timestep(described, name))
    noise["frames"] = Noise(_seed(seed + 2 * len(noise) * _CLIPS), shape)
    return Inputs(prompt, ids, context, noise)


def _shape(described: Description) -> tuple[int, ...]:
    """Latents of the engine's own size, or of what a probe takes of it: weights are the same at any."""
    video = described.video
    side_px = max(1, PROBE_SIDE_PX_MAX // video.size_step_px) * video.size_step_px
    frames = 1 + max(1, (PROBE_FRAMES_MAX - 1) // video.frames_step) * video.frames_step
    height_px, width_px = min(video.height_px, side_px), min(video.width_px, side_px)
    wish = Wish("a", height_px=height_px, width_px=width_px, frames=min(video.frames, frames))
    return latent_shape(described, settle(described, wish))


def _timestep(described: Description, expert: str) -> int:
    """The first that an expert works at: there noise alone is nearest to what it is used to."""
    sampling = described.sampling
    share = sampling.boundary_ratio if expert != described.experts[0] else None
    return int((1.0 if share is None else share) * sampling.train_timesteps) - 1


def _seed(seed: int) -> int:
    return seed % (SEED_MAX + 1)


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
