"""Golden probes of format 2: every stage is asked about inputs of its own, and none about what another one answered.

The tokenizer gets a prompt, the text encoder ids, each expert noise beside contexts that are noise as well, the decoder
noise. So what one stage rounds is told from what is wrong in another. An expert's forms (signed and unsigned
activations, float16) round differently, and each is held to what that very skeleton answered: ADR 0018 has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from p2psync.engine.answers import Answer, Expected, Values, means_of, read_expected
from p2psync.engine.denoise import first_noise
from p2psync.engine.description import EXPERTS
from p2psync.engine.text import Tokens, clean
from p2psync.errors import MalformedError
from p2psync.limits import (
    PROBE_CLIPS_MAX,
    PROBE_CONTEXT_VALUES_MAX,
    PROBE_FORMS_MAX,
    PROBE_LATENT_VALUES_MAX,
    PROBE_TOKENS_MAX,
    PROBE_TOLERANCE_MAX,
    SEED_MAX,
    TRAIN_TIMESTEPS_MAX,
)

if TYPE_CHECKING:
    from p2psync.engine.description import Description
    from p2psync.engine.pipeline import Pipeline
    from p2psync.engine.strict_json import Fields

STAGES: Final = ("text", *EXPERTS, "frames")
_LATENT_RANK: Final = 5
# Whose skeleton answers ``frames``; the graph of later frames has the same weights.
_PARTS: Final = {"frames": "decode_first"}


@dataclass(frozen=True, slots=True)
class Noise:
    """Clips of noise, each of a seed of its own from ``seed`` on; an expert is told ``timestep`` with them.

    With ``halved`` they are rounded to float16, which is what a GPU does to much that lies between.
    """

    seed: int
    shape: tuple[int, ...]
    clips: int = 1
    timestep: int = 0

    def latents(self, clip: int, *, halved: bool = False) -> Values:
        """float32 of ``shape``, as a generation of that seed begins with."""
        return _rounded(first_noise((self.seed + clip) % (SEED_MAX + 1), self.shape), halved=halved)

    def hidden(self, clip: int, context: Context, length: int, *, halved: bool = False) -> Values:
        """The context of a clip: float32 of shape [1, length, width]; its noise has the seeds after those of latents.

        Raises:
            MalformedError: there are more rows than the model reads.
        """
        if context.rows > length:
            raise MalformedError(f"the golden probe has a context of {context.rows} rows; this model reads {length}")
        seed = (self.seed + self.clips + clip) % (SEED_MAX + 1)
        hidden = np.zeros((1, length, context.width), np.float32)
        hidden[0, : context.rows] = first_noise(seed, (context.rows, context.width)) * np.float32(context.deviation)
        return _rounded(hidden, halved=halved)


@dataclass(frozen=True, slots=True)
class Context:
    """Hidden states of a text as experts read them: ``rows`` of noise of a ``deviation``. The other rows are zero."""

    rows: int
    width: int
    deviation: float


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the stages are asked about. ``noise`` is by stage: experts and ``frames``."""

    prompt: str
    ids: tuple[int, ...]
    context: Context
    noise: Mapping[str, Noise]


@dataclass(frozen=True, slots=True)
class Form:
    """What one skeleton must answer; how far it, and its means, may be off."""

    expected: Expected
    tolerance: float
    means_tolerance: float


@dataclass(frozen=True, slots=True)
class StageProbe:
    """Inputs, and what the stages make of them, by the digest of the skeleton that answers."""

    inputs: Inputs
    expected: Mapping[str, Mapping[str, Form]]

    def measure(self, pipeline: Pipeline) -> tuple[Answer, ...]:
        """Ask each stage. One that only one side knows is infinitely off, and so is a skeleton of another version."""
        given = pipeline.tokens(clean(self.inputs.prompt))
        same = tuple(given.ids[0, : given.mask.sum()].tolist()) == self.inputs.ids
        answers = [Answer("tokens", 0.0 if same else 1.0, 0.0)]
        made = dict(answers_of(pipeline, self.inputs))
        for name in STAGES:
            if name in pipeline.described.experts or name in self.expected:
                form = self.expected.get(name, {}).get(skeleton_of(pipeline, name))
                answers += _compared(name, form, made.get(name), patch_side(pipeline.described))
        return tuple(answers)

    def hint(self, _backend: str) -> str:
        """Nothing: every backend is to answer it."""
        return ""


def skeleton_of(pipeline: Pipeline, stage: str) -> str:
    """The digest of the skeleton that answers a stage; empty where the engine has none."""
    part = _PARTS.get(stage, stage)
    return pipeline.parts.skeleton(part) if part in pipeline.described.parts else ""


def patch_side(described: Description) -> int:
    """The side of a patch of the experts, in latents."""
    return max(1, described.video.size_step_px // described.latent.spatial)


def _compared(name: str, form: Form | None, made: Values | None, side: int) -> Iterator[Answer]:
    if form is None or made is None:
        yield Answer(name, float("inf"), 0.0)
        return
    yield Answer(name, form.expected.root_mean_square(made), form.tolerance)
    if form.expected.means and made.ndim == _LATENT_RANK:
        yield Answer(f"{name}.means", form.expected.off_the_means(means_of(made, side)), form.means_tolerance)


def answers_of(pipeline: Pipeline, inputs: Inputs, *, halved: bool = False) -> Iterator[tuple[str, Values]]:
    """What an engine answers, stage by stage. Experts that the inputs do not name are left out.

    Args:
        pipeline: The engine.
        inputs: What to ask.
        halved: Round noise and contexts to float16 first.

    Raises:
        WrongAnswerError: the text encoder or the decoder answered with NaN or infinity.
        ModelError: a part does not load or run.
    """
    described = pipeline.described
    length = described.sampling.max_sequence_length
    yield "text", pipeline.encode(_tokens(inputs.ids, length))
    for name in described.experts:
        if (noise := inputs.noise.get(name)) is not None:
            clips = [
                (noise.latents(clip, halved=halved), noise.hidden(clip, inputs.context, length, halved=halved))
                for clip in range(noise.clips)
            ]
            made = [pipeline.velocity(name, latents, noise.timestep, hidden) for latents, hidden in clips]
            yield name, np.concatenate(made)
    latents = inputs.noise["frames"].latents(0, halved=halved)
    yield "frames", np.concatenate(list(pipeline.decode(latents, tiled=False)))


def read_stages(top: Fields) -> StageProbe:
    """Read the fields of a probe of format 2.

    Raises:
        MalformedError: it does not follow the format.
    """
    ids = top.integers("ids", PROBE_TOKENS_MAX)
    if not ids:
        raise MalformedError(f"{top.what}: ids: none")
    context = _read_context(top.object("context"))
    noise, expected = {}, {}
    stages = top.object("stages")
    for name in STAGES:
        if stages.has(name):
            fields = stages.object(name)
            if name != "text":
                noise[name] = _read_noise(fields, is_expert=name in EXPERTS)
            expected[name] = _read_forms(fields.object("answers"), is_expert=name in EXPERTS)
    if missing := {"text", "frames"} - expected.keys():
        raise MalformedError(f"{stages.what}: expects no {', '.join(sorted(missing))}")
    if noise.keys() == {"frames"}:
        raise MalformedError(f"{stages.what}: expects no expert")
    return StageProbe(Inputs(top.text("prompt"), ids, context, noise), expected)


def written(inputs: Inputs) -> dict[str, Any]:
    """The inputs as a probe keeps them, with ``stages`` to which answers and tolerances are added."""
    stages: dict[str, dict[str, Any]] = {"text": {}}
    for name, noise in inputs.noise.items():
        stages[name] = {"seed": noise.seed, "latents": list(noise.shape)}
        if name in EXPERTS:
            stages[name] |= {"clips": noise.clips, "timestep": noise.timestep}
    context = inputs.context
    return {
        "prompt": inputs.prompt,
        "ids": list(inputs.ids),
        "context": {"rows": context.rows, "width": context.width, "deviation": context.deviation},
        "stages": stages,
    }


def _tokens(ids: tuple[int, ...], length: int) -> Tokens:
    if len(ids) > length:
        raise MalformedError(f"the golden probe has {len(ids)} tokens; this model reads {length}")
    row = np.zeros((1, length), np.int64)
    row[0, : len(ids)] = ids
    return Tokens(row, (np.arange(length) < len(ids)).astype(np.int64)[None])


def _rounded(values: Values, *, halved: bool) -> Values:
    return values.astype(np.float16).astype(np.float32) if halved else values


def _read_context(fields: Fields) -> Context:
    rows, width = fields.integer("rows", 1, PROBE_TOKENS_MAX), fields.integer("width", 1, PROBE_CONTEXT_VALUES_MAX)
    if rows * width > PROBE_CONTEXT_VALUES_MAX:
        raise MalformedError(f"{fields.what}: more than {PROBE_CONTEXT_VALUES_MAX} values")
    return Context(rows, width, fields.number("deviation", 0.0, 1e4))


def _read_noise(fields: Fields, *, is_expert: bool) -> Noise:
    shape = fields.integers("latents", _LATENT_RANK)
    size = int(np.prod([int(side) for side in shape], dtype=object))
    if len(shape) != _LATENT_RANK or not 1 <= size <= PROBE_LATENT_VALUES_MAX or shape[0] != 1:
        raise MalformedError(
            f"{fields.what}: latents: no shape of one clip, or more than {PROBE_LATENT_VALUES_MAX} values in it"
        )
    seed = fields.integer("seed", 0, SEED_MAX)
    if not is_expert:
        return Noise(seed, shape)
    clips = fields.integer("clips", 1, PROBE_CLIPS_MAX)
    return Noise(seed, shape, clips, fields.integer("timestep", 0, TRAIN_TIMESTEPS_MAX))


def _read_forms(answers: Fields, *, is_expert: bool) -> dict[str, Form]:
    digests = answers.keys()
    if not 1 <= len(digests) <= PROBE_FORMS_MAX:
        raise MalformedError(f"{answers.what}: none, or more than {PROBE_FORMS_MAX}")
    return {digest: _read_form(answers.object(digest), is_expert=is_expert) for digest in digests}


def _read_form(fields: Fields, *, is_expert: bool) -> Form:
    expected = read_expected(fields)
    if bool(expected.means) != is_expert:
        raise MalformedError(f"{fields.what}: experts have means, and others none")
    tolerance = fields.number("tolerance", 0.0, PROBE_TOLERANCE_MAX)
    return Form(expected, tolerance, fields.number("means_tolerance", 0.0, PROBE_TOLERANCE_MAX) if is_expert else 0.0)
