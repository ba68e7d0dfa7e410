"""The one expert of `small` is kept in coarse codes, and its checkpoint is built of them without torch."""

import json
import lzma
import subprocess
import sys

import numpy as np
import pytest
from wan_tiny import small

import environment
from p2psync.compress import read_recipe

FILE_BYTES_MAX = 1_600_000
# All weights of the example that are committed, in whatever form.
COMMITTED_BYTES_MAX = 40_000_000
WEIGHTS = {".xz", ".safetensors"}


@pytest.fixture
def weights():
    """A coded matrix of each fineness, one of zeros, and two tensors that are too short to be coded."""
    random = np.random.RandomState(7)
    shapes = {
        "patch_embedding.weight": (64, 96),
        "blocks.0.ffn.net.2.weight": (96, 64),
        "blocks.0.attn1.to_q.weight": (64, 64),
        "blocks.0.attn2.to_q.weight": (64, 64),
        "scale_shift_table": (2, 64),
        "proj_out.bias": (64,),
    }
    drawn = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**drawn, "blocks.1.attn1.to_q.weight": np.zeros((64, 64), np.float32)}


def narrow(value):
    """The nearest BF16, as float32."""
    return small._wide(small._narrow(value)).reshape(value.shape)


def parts_of(checkpoint):
    """Each tensor of a safetensors file in BF16, as float32, without the reader under test."""
    data = checkpoint.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__")
    assert {entry["dtype"] for entry in header.values()} == {"BF16"}
    return {
        name: small._wide(data[begin + entry["data_offsets"][0] : begin + entry["data_offsets"][1]])
        for name, entry in header.items()
    }


def test_what_was_written_is_read(tmp_path, weights):
    """Short tensors come back in BF16, matrices within half a step, zeros as zeros, and the config as it was."""
    small.write(tmp_path / "kept.xz", weights, {"num_layers": 1})
    found, config = small.read(tmp_path / "kept.xz")
    assert config == {"num_layers": 1}
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        fine = small.fineness(name, value.size)
        if not fine:
            assert np.array_equal(found[name], narrow(value))
            continue
        step = np.sqrt(np.mean(np.square(value, dtype=np.float64))) / fine
        assert np.abs(found[name] - value).max() <= 0.501 * step
    assert not found["blocks.1.attn1.to_q.weight"].any()


def test_what_was_read_is_written_again_in_the_same_bytes(tmp_path, weights):
    """Two writings of the same weights agree in every bit."""
    sizes = {small.write(tmp_path / name, weights, {}) for name in ("one.xz", "two.xz")}
    assert sizes == {(tmp_path / "one.xz").stat().st_size}
    assert (tmp_path / "one.xz").read_bytes() == (tmp_path / "two.xz").read_bytes()


def test_first_and_last_layers_are_finer(weights):
    """Rounding harms most there; what is short is not rounded at all."""
    fine = {name: small.fineness(name, value.size) for name, value in weights.items()}
    assert fine["patch_embedding.weight"] > 2 * fine["blocks.0.ffn.net.2.weight"]
    assert fine["blocks.0.attn1.to_q.weight"] > fine["blocks.0.attn2.to_q.weight"] > 0
    assert fine["scale_shift_table"] == fine["proj_out.bias"] == 0


def test_training_rounds_as_the_file_does(tmp_path, weights):
    """What the pupil answers with while it learns is what the file will give, but for BF16 of what is short."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from wan_tiny.shrink import show_rounded

    behind, shown = torch.nn.ParameterDict(), torch.nn.ParameterDict()
    for name, value in weights.items():
        for module in (behind, shown):
            module[name.replace(".", "/")] = torch.nn.Parameter(torch.from_numpy(value.copy()))
    # Names of parameters have no dots of their own here; the table of fineness looks for them.
    behind.named_parameters = lambda: ((name.replace("/", "."), value) for name, value in behind.items())
    show_rounded(behind, shown)
    small.write(tmp_path / "kept.xz", weights, {})
    found, _ = small.read(tmp_path / "kept.xz")
    for name, value in shown.items():
        plain = name.replace("/", ".")
        limit = 0.01 if not small.fineness(plain, value.numel()) else 1e-5
        assert np.abs(value.detach().numpy() - found[plain]).max() <= limit


def test_other_codes_are_refused(tmp_path, weights):
    """One code that changed, in a file that is whole otherwise."""
    small.write(tmp_path / "kept.xz", weights, {})
    data = bytearray(lzma.decompress((tmp_path / "kept.xz").read_bytes()))
    data[4 + int.from_bytes(data[:4], "little") + 100] ^= 1
    (tmp_path / "kept.xz").write_bytes(lzma.compress(bytes(data)))
    with pytest.raises(ValueError, match="does not give the weights that were kept"):
        small.read(tmp_path / "kept.xz")


def test_a_torn_file_is_refused(tmp_path):
    """Nothing is built of a half."""
    (tmp_path / "kept.xz").write_bytes(small.FILE.read_bytes()[:700_000])
    with pytest.raises(ValueError, match="does not give the weights"):
        small.build(tmp_path / "out", tmp_path / "kept.xz")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_refused(tmp_path):
    """A bit of it that turned over shows in the check sum of the format, or in the digest."""
    data = bytearray(small.FILE.read_bytes())
    data[len(data) // 2] ^= 0x10
    (tmp_path / "kept.xz").write_bytes(data)
    with pytest.raises(ValueError, match="does not give the weights"):
        small.read(tmp_path / "kept.xz")


def test_the_committed_weights_are_few_bytes():
    """The file, and all weights of the example together."""
    assert small.FILE.stat().st_size <= FILE_BYTES_MAX
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", str(small.HERE)],
        cwd=environment.ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split("\0")
    paths = [environment.ROOT / name for name in files if name]
    if not paths:
        pytest.skip("no checkout of git")
    kept = [path for path in paths if path.suffix in WEIGHTS]
    assert small.FILE in kept
    assert sum(path.stat().st_size for path in kept) <= COMMITTED_BYTES_MAX


def test_the_checkpoint_is_one_narrow_expert(tmp_path):
    """Its weights are the kept ones in BF16; all but the experts is the bundle's, and no boundary is left."""
    out = small.build(tmp_path / "out")
    weights, config = small.read(small.FILE)
    found = parts_of(out / small.WEIGHTS)
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[name], narrow(value).ravel()) for name, value in weights.items())
    assert sum(value.size for value in weights.values()) < 3_000_000
    assert json.loads((out / "transformer" / "config.json").read_text()) == config
    index = json.loads((out / "model_index.json").read_text())
    assert index["transformer_2"] == [None, None]
    assert index["boundary_ratio"] is None
    assert not (out / "transformer_2").exists()
    for part in ("text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        assert (out / part).read_bytes() == (small.BUNDLE / part).read_bytes()


def test_no_torch_is_needed(tmp_path):
    """Another process builds it with torch and the package hidden."""
    code = "import sys; sys.modules['torch'] = sys.modules['p2psync'] = None; from wan_tiny import small; small.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(environment.ROOT / "examples")},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / small.WEIGHTS).is_file()


def test_the_recipe_names_the_folder_that_is_built():
    """`small` has a checkpoint of its own, is measured against the bundle in half precision, and has a floor."""
    recipe = read_recipe(str(small.HERE / "small.toml"))
    (variant,) = [one for one in recipe.variants if one.name == "small"]
    assert (variant.source, variant.precision) == ("small-bundle", "fp16")
    assert recipe.quality.reference == "fp16"
    assert recipe.quality.ssim == 0.85
    assert f"examples/wan_tiny/{variant.source}/" in (environment.ROOT / ".gitignore").read_text().split()
