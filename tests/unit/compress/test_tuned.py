"""A fine-tune is kept as what it added, and comes back on the same checkpoint alone."""

import lzma

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra compress)")
pytest.importorskip("diffusers", reason="diffusers is not installed (extra compress)")

from p2psync.compress import parse_recipe  # noqa: E402 - After the question whether it can be.
from p2psync.compress.learn import learn  # noqa: E402
from p2psync.compress.prune import pruned  # noqa: E402
from p2psync.compress.tuned import read_tuned, write_tuned  # noqa: E402
from p2psync.errors import MalformedError, ModelNotFoundError, UnsupportedModelError  # noqa: E402

KEPT = {
    f"blocks.{block}.{place}": kept
    for block in range(2)
    for place, kept in (("attn1", [0, 2]), ("attn2", [1, 2, 3]), ("ffn", list(range(1, 101))))
}


@pytest.fixture(scope="module")
def whole(make_expert):
    """One expert wide enough that its FFN is kept as steps."""
    return {"high": make_expert(1, ffn=160)}


@pytest.fixture(scope="module")
def tuned(whole):
    """The expert cut, and every weight moved a little."""
    small = pruned(whole["high"], KEPT, ())
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return {"high": small}


def test_it_comes_back(whole, tuned, tmp_path):
    """Indices and short tensors exactly, long ones within half a step, and the checkpoint is as it was."""
    before = {name: value.clone() for name, value in whole["high"].state_dict().items()}
    path = str(tmp_path / "tuned.xz")
    size = write_tuned(path, whole, {"high": KEPT}, tuned, fineness=32)
    assert size == (tmp_path / "tuned.xz").stat().st_size
    kept, experts = read_tuned(path, whole)
    assert kept == {"high": KEPT}
    coded = 0
    for (name, found), right in zip(experts["high"].named_parameters(), tuned["high"].parameters(), strict=True):
        step = float(right.detach().square().mean().sqrt()) / 32
        assert float((found - right).detach().abs().max()) <= 0.501 * step, name
        coded += not torch.equal(found, right)
    assert coded >= 4
    assert all(torch.equal(value, before[name]) for name, value in whole["high"].state_dict().items())


def test_a_recipe_takes_it(pipeline, tmp_path):
    """A recipe that names the file prunes as it says and learns nothing."""
    kept = {f"blocks.{b}.{p}": k for b in range(2) for p, k in (("attn1", [0, 1]), ("attn2", [3]), ("ffn", [5, 9]))}
    experts = {"high": pipeline.transformer, "low": pipeline.transformer_2}
    both = dict.fromkeys(experts, kept)
    write_tuned(str(tmp_path / "t.xz"), experts, both, {name: pruned(e, kept, ()) for name, e in experts.items()})
    text = b'name = "tiny"\n[variants.small]\nprune = { tuned = "t.xz" }\n'
    recipe = parse_recipe(text, directory=str(tmp_path))
    told = []
    learned = learn(pipeline, recipe, recipe.variants[0], before="", tell=told.append)
    assert learned.kept == both
    assert learned.pipeline.transformer.blocks[0].attn1.heads == 2
    assert learned.pipeline.transformer_2.blocks[1].ffn.net[2].in_features == 2
    assert told == ["small: taking the fine-tune in t.xz"]


def test_what_is_no_fine_tune_is_named(whole, tmp_path):
    """A missing file, bytes that are none, and XZ around something else are three errors of ours."""
    with pytest.raises(ModelNotFoundError):
        read_tuned(str(tmp_path / "none.xz"), whole)
    for data in (b"nothing", lzma.compress(b"nothing")):
        (tmp_path / "bad.xz").write_bytes(data)
        with pytest.raises(MalformedError):
            read_tuned(str(tmp_path / "bad.xz"), whole)


def test_another_checkpoint_is_refused(whole, tuned, make_expert, tmp_path):
    """An expert of another shape is not what was tuned."""
    path = str(tmp_path / "tuned.xz")
    write_tuned(path, whole, {"high": KEPT}, tuned)
    with pytest.raises(UnsupportedModelError):
        read_tuned(path, {"high": make_expert(1, layers=1, ffn=160)})
    with pytest.raises(UnsupportedModelError):
        read_tuned(path, {"high": make_expert(1, ffn=64)})
