"""Pruning removes whole channels and heads, the least important ones, and never more than a recipe allows."""

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra compress)")
pytest.importorskip("diffusers", reason="diffusers is not installed (extra compress)")

from p2psync.compress import lineage  # noqa: E402 - After the question whether it can be.
from p2psync.compress.calibrate import Call  # noqa: E402
from p2psync.compress.distil import Lessons, distil  # noqa: E402
from p2psync.compress.prune import choose, pruned  # noqa: E402
from p2psync.compress.recipe import Pruning  # noqa: E402
from p2psync.errors import InvalidConfigError, QualityError, UnsupportedModelError  # noqa: E402

HALF = Pruning(ffn=0.5, heads=0.25, parameters_max=0.6)


@pytest.fixture(scope="module")
def calls():
    torch.manual_seed(5)
    return [Call(torch.randn(1, 16, 2, 4, 4), torch.tensor([900.0]), torch.randn(1, 6, 16)) for _ in range(4)]


def answers(expert, calls):
    with torch.no_grad():
        return torch.cat([expert(c.latents, c.timestep, c.text, return_dict=False)[0] for c in calls])


def test_shapes_shrink(pipeline, calls):
    """Every block loses half its channels and one head of four; the whole expert is left as it was."""
    expert = pipeline.transformer
    before = {name: value.clone() for name, value in expert.state_dict().items()}
    kept = choose(expert, calls, HALF)
    small = pruned(expert, kept, calls)
    for block in small.blocks:
        assert block.ffn.net[0].proj.weight.shape == (32, 48)
        assert block.ffn.net[2].weight.shape == (48, 32)
        for attention in (block.attn1, block.attn2):
            assert attention.heads == 3
            assert attention.to_q.weight.shape == (36, 48)
            assert attention.to_out[0].weight.shape == (48, 36)
            assert attention.norm_k.weight.shape == (36,)
    assert answers(small, calls).isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in expert.state_dict().items())


def test_what_adds_nothing_goes_first(pipeline, calls):
    """Channels and a head whose output columns are zero are the ones that go, and the answer does not change."""
    expert = pruned(pipeline.transformer, everything(pipeline.transformer), calls)
    for block in expert.blocks:
        block.ffn.net[2].weight.data[:, 10:42] = 0
    kept = choose(expert, calls, dataclasses.replace(HALF, heads=0.0))
    assert kept["blocks.1.ffn"] == [*range(10), *range(42, 64)]
    small = pruned(expert, kept, calls)
    assert torch.allclose(answers(small, calls), answers(expert, calls), atol=1e-5)


def test_keeping_everything_changes_nothing(pipeline, calls):
    """The cut itself is exact."""
    expert = pipeline.transformer
    small = pruned(expert, everything(expert), calls)
    assert torch.allclose(answers(small, calls), answers(expert, calls), atol=1e-6)


def test_constant_channels_live_on_in_the_bias(pipeline, calls):
    """The mean of what goes is added to the bias: a channel that is constant is removed without a trace."""
    expert = pruned(pipeline.transformer, everything(pipeline.transformer), calls)
    for block in expert.blocks:
        block.ffn.net[0].proj.weight.data[:16] = 0
        block.ffn.net[0].proj.bias.data[:16] = 1.0
    kept = everything(expert) | {f"blocks.{n}.ffn": list(range(16, 64)) for n in range(2)}
    small = pruned(expert, kept, calls)
    assert torch.allclose(answers(small, calls), answers(expert, calls), atol=1e-5)


def test_too_much_is_refused(pipeline, calls):
    """A recipe that removes more parameters than its bound names both shares."""
    with pytest.raises(InvalidConfigError, match="at most 10% may go"):
        choose(pipeline.transformer, calls, dataclasses.replace(HALF, parameters_max=0.1))


@pytest.mark.parametrize("indices", [[], [3, 1], [1, 1], [-1, 2], [64]])
def test_kept_indices_that_do_not_fit_are_refused(indices, pipeline, calls):
    """Indices come from the version before; what does not fit this one is an error, not a guess."""
    kept = everything(pipeline.transformer) | {"blocks.0.ffn": indices}
    with pytest.raises(UnsupportedModelError, match=r"blocks\.0\.ffn"):
        pruned(pipeline.transformer, kept, calls)


def test_kept_indices_come_back(pipeline, calls, tmp_path):
    """What one version kept, the next can read; a variant that was not pruned has none."""
    assert lineage.read_kept(str(tmp_path), ["high"]) is None
    kept = choose(pipeline.transformer, calls, HALF)
    lineage.write_kept(str(tmp_path), {"high": kept})
    assert lineage.read_kept(str(tmp_path), ["high"]) == {"high": kept}


def test_the_student_comes_closer(pipeline, calls):
    """A short fine-tune against the whole expert halves the distance that pruning opened."""
    teacher = pipeline.transformer
    student = pruned(teacher, choose(teacher, calls, HALF), calls)
    torch.manual_seed(6)
    lessons = Lessons(torch.randn(8, 16, 2, 4, 4), torch.randn(8, 6, 16), torch.zeros(1, 6, 16))
    recipe = dataclasses.replace(HALF, steps=60, batch=4, rate=2e-3)
    told = []
    losses = distil(student, teacher, lessons, recipe, span=(0.875, 1.0), tell=lambda *news: told.append(news))
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert len(told) == 10
    assert not student.training


def test_divergence_is_named(pipeline, calls):
    """A loss that is no number ends the fine-tune with an error instead of a broken student."""
    teacher = pipeline.transformer
    student = pruned(teacher, everything(teacher), calls)
    student.proj_out.bias.data[0] = float("nan")
    lessons = Lessons(torch.zeros(2, 16, 2, 4, 4), torch.zeros(2, 6, 16), torch.zeros(1, 6, 16))
    with pytest.raises(QualityError, match="diverged"):
        distil(student, teacher, lessons, dataclasses.replace(HALF, batch=2), span=(0.0, 1.0), tell=lambda *_: None)


def everything(expert):
    kept = {}
    for number, block in enumerate(expert.blocks):
        kept[f"blocks.{number}.ffn"] = list(range(block.ffn.net[2].in_features))
        kept |= {f"blocks.{number}.{place}": list(range(4)) for place in ("attn1", "attn2")}
    return kept
