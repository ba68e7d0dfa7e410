"""What a golden probe may ask and expect has bounds: at each it is read, one over is refused by that bound."""

import copy

import pytest

from p2psync.engine import probe_record
from p2psync.engine.description import read_description
from p2psync.engine.pipeline import open_pipeline
from p2psync.engine.probe_stages import read_stages
from p2psync.engine.strict_json import Fields
from p2psync.errors import MalformedError
from p2psync.limits import (
    PROBE_CLIPS_MAX,
    PROBE_CONTEXT_VALUES_MAX,
    PROBE_FORMS_MAX,
    PROBE_FRAMES_MAX,
    PROBE_LATENT_VALUES_MAX,
    PROBE_MEANS_MAX,
    PROBE_SIDE_PX_MAX,
    PROBE_TOKENS_MAX,
    PROBE_TOLERANCE_MAX,
    PROBE_VALUES_MAX,
    TRAIN_TIMESTEPS_MAX,
)
from tests.unit.engine.tiny_engine import edit_json

FORM = {"shape": [PROBE_VALUES_MAX + 1], "positions": [0], "values": [0.5], "deviation": 1.0, "tolerance": 0.1}
EXPERT_FORM = {**FORM, "means": [0.5], "means_tolerance": 0.1}
PROBE = {
    "prompt": "a",
    "ids": [1],
    "context": {"rows": 1, "width": 1, "deviation": 1.0},
    "stages": {
        "text": {"answers": {"digest": FORM}},
        "high": {
            "seed": 1, "latents": [1] * 5, "clips": 1, "timestep": 0, "answers": {"digest": EXPERT_FORM},
        },
        "frames": {"seed": 2, "latents": [1] * 5, "answers": {"digest": FORM}},
    },
}  # fmt: skip


def changed(*path, value):
    """The probe with one field set."""
    made = copy.deepcopy(PROBE)
    *way, last = path
    inside = made
    for key in way:
        inside = inside[key]
    inside[last] = value
    return Fields(made, "probe")


HIGH = ("stages", "high")
FIRST = (*HIGH, "answers", "digest")
BOUNDS = {
    "tokens": (("ids",), [1] * PROBE_TOKENS_MAX, [1] * (PROBE_TOKENS_MAX + 1), "no list of at most"),
    "rows": (("context", "rows"), PROBE_TOKENS_MAX, PROBE_TOKENS_MAX + 1, "no integer from 1"),
    "width": (("context", "width"), PROBE_CONTEXT_VALUES_MAX, PROBE_CONTEXT_VALUES_MAX + 1, "no integer from 1"),
    "clips": ((*HIGH, "clips"), PROBE_CLIPS_MAX, PROBE_CLIPS_MAX + 1, "no integer from 1"),
    "timestep": ((*HIGH, "timestep"), TRAIN_TIMESTEPS_MAX, TRAIN_TIMESTEPS_MAX + 1, "no integer from 0"),
    "latents": (
        (*HIGH, "latents"), [1, PROBE_LATENT_VALUES_MAX, 1, 1, 1], [1, PROBE_LATENT_VALUES_MAX + 1, 1, 1, 1],
        "no shape of one clip, or more than"),
    "forms": (
        (*HIGH, "answers"), {str(number): EXPERT_FORM for number in range(PROBE_FORMS_MAX)},
        {str(number): EXPERT_FORM for number in range(PROBE_FORMS_MAX + 1)}, "none, or more than"),
    "means": ((*FIRST, "means"), [0.5] * PROBE_MEANS_MAX, [0.5] * (PROBE_MEANS_MAX + 1), "no list of at most"),
    "tolerance": ((*FIRST, "tolerance"), PROBE_TOLERANCE_MAX, PROBE_TOLERANCE_MAX * 1.01, "no number from 0"),
    "tolerance of means": (
        (*FIRST, "means_tolerance"), PROBE_TOLERANCE_MAX, PROBE_TOLERANCE_MAX * 1.01, "no number from 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BOUNDS)
def test_what_is_over_a_bound_is_refused_by_it(case):
    """What stands at the bound is read, and one over it is not; no model is asked anything."""
    path, most, over, why = BOUNDS[case]
    read_stages(changed(*path, value=most))
    with pytest.raises(MalformedError, match=why):
        read_stages(changed(*path, value=over))


def test_the_values_of_a_context_are_bounded():
    """Rows and width may each be as many as there are values, and not both."""
    width = PROBE_CONTEXT_VALUES_MAX // 2
    assert read_stages(changed("context", value={"rows": 2, "width": width, "deviation": 1})).inputs.context.rows == 2
    with pytest.raises(MalformedError, match=f"more than {PROBE_CONTEXT_VALUES_MAX} values"):
        read_stages(changed("context", value={"rows": 2, "width": width + 1, "deviation": 1}))


REFUSED = {
    "no tokens": (("ids",), [], "ids: none"),
    "no text": (("stages", "text"), None, "expects no text"),
    "no expert": (HIGH, None, "expects no expert"),
    "two clips": ((*HIGH, "latents"), [2, 1, 1, 1, 1], "no shape of one clip"),
    "an expert without means": ((*FIRST, "means"), None, "experts have means, and others none"),
    "values without a place": ((*FIRST, "positions"), [], "do not belong together"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_belong_together_is_refused_by_its_own_rule(case):
    """Each is told by what is wrong with it."""
    path, value, why = REFUSED[case]
    with pytest.raises(MalformedError, match=why):
        read_stages(changed(*path, value=value))


def test_a_recorded_clip_is_small_whatever_the_model_makes(engine):
    """The latents that are asked about stand for no larger and no longer a clip than a node has time for."""
    edit_json(engine / "engine.json", lambda top: top["video"].update(height=512, width=512, frames=33))
    described = read_description(engine)
    _, _, frames, height, width = probe_record._shape(described)
    assert 0 < height * described.latent.spatial <= PROBE_SIDE_PX_MAX
    assert 0 < width * described.latent.spatial <= PROBE_SIDE_PX_MAX
    assert 1 <= 1 + (frames - 1) * described.latent.temporal <= PROBE_FRAMES_MAX


def test_a_recorded_context_holds_no_more_than_is_read(engine, monkeypatch):
    """Where a text would be more values than a probe may have, fewer of its rows are asked about."""
    monkeypatch.setattr(probe_record, "PROBE_CONTEXT_VALUES_MAX", 16)
    with open_pipeline(engine) as pipeline:
        context = probe_record._inputs(pipeline, "a red circle", 7).context
    assert (context.rows, context.width) == (2, 8)
