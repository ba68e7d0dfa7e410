"""The golden probe of wan-tiny: every backend that is here answers it, and what was damaged does not."""

import json
import shutil
import sys

import numpy as np
import pytest

import environment
from p2psync.content import Digest
from p2psync.engine import backends
from p2psync.engine.pipeline import open_pipeline
from p2psync.engine.probe import check, measure, probe_of, read_probe
from p2psync.errors import WrongAnswerError

EXAMPLES = environment.ROOT / "examples"
STAGES = ["tokens", "text", "high", "high.means", "low", "low.means", "frames"]
_DTYPES = {"F32": "<f4", "F16": "<f2", "I8": "i1"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The engines of both versions that are kept in the repository."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from wan_tiny import engines
    finally:
        sys.path.remove(str(EXAMPLES))
    folder = tmp_path_factory.mktemp("kept")
    return {name: engines.build(name, folder / name) / "int8-pruned" for name in engines.ORDER}


@pytest.fixture
def copy(kept, tmp_path):
    """An engine that a test may damage."""
    return shutil.copytree(kept["v1"].parent, tmp_path / "v1") / "int8-pruned"


def off(engine):
    """The stages that ``ort-cpu`` does not answer, with all weights proved: the bytes are those of engine.json."""
    with open_pipeline(engine, "ort-cpu", prove=True) as pipeline:
        answers = measure(pipeline, read_probe(probe_of(engine)))
    return list(dict.fromkeys(a.stage.removesuffix(".means") for a in answers if not a.passed))


def change(engine, part, name, damage):
    """Replace one tensor in its place by ``damage(array)``, and seal what holds it again."""
    described = json.loads((engine / "engine.json").read_text())
    path = engine / described["parts"][part]["weights"]
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:begin])[name]
    first, last = (begin + offset for offset in entry["data_offsets"])
    array = np.frombuffer(bytes(data[first:last]), _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    changed = np.ascontiguousarray(damage(array), array.dtype)
    assert changed.tobytes() != array.tobytes()
    data[first:last] = changed.tobytes()
    path.write_bytes(data)
    seal(engine)


def seal(engine):
    """Write the digests of all weights and skeletons, as they are now, into engine.json."""
    described = json.loads((engine / "engine.json").read_text())
    for part in described["parts"].values():
        for key in ("skeleton", "weights"):
            part[f"{key}_digest"] = str(Digest.of((engine / part[key]).read_bytes()))
        for backend, path in part.get("skeletons", {}).items():
            part["skeleton_digests"][backend] = str(Digest.of((engine / path).read_bytes()))
    (engine / "engine.json").write_text(json.dumps(described))


def zeros(array):
    return np.zeros_like(array)


def permuted(array):
    return np.random.RandomState(1).permutation(array)


def one_that_is_none(array):
    changed = array.copy()
    changed.flat[array.size // 2] = np.nan
    return changed


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", backends.NAMES)
def test_every_backend_answers_it(kept, name, version):
    """INT8 with signed activations, with unsigned ones, or dequantised: right is right wherever it was recorded."""
    found = backends.probe(name)
    if not found.usable or "int8" not in found.precisions:
        pytest.skip(f"{name}: {found.why_not or 'no INT8'}")
    with open_pipeline(kept[version], name) as pipeline:
        answers = check(pipeline, read_probe(probe_of(kept[version])))
    assert [answer.stage for answer in answers] == STAGES


@pytest.mark.parametrize("variant", ["tensorrt", "ort-cpu"])
def test_both_skeletons_answer_it(kept, variant):
    """What TensorRT would run, run by the library that is here, and what it runs itself."""
    with open_pipeline(kept["v1"], "ort-cpu", skeletons=variant, threads=1, keep_parts=False) as pipeline:
        answers = check(pipeline, read_probe(probe_of(kept["v1"])))
    assert max(a.distance / a.tolerance for a in answers if a.tolerance) < 0.8


@pytest.mark.parametrize("name", backends.NAMES)
def test_every_backend_answers_that_of_small(kept, name):
    """One expert, in half precision: its probe has no stage of another one."""
    found = backends.probe(name)
    if not found.usable or "float16" not in found.precisions:
        pytest.skip(f"{name}: {found.why_not or 'no FP16'}")
    small = kept["v1"].with_name("small")
    with open_pipeline(small, name) as pipeline:
        answers = check(pipeline, read_probe(probe_of(small)))
    assert [answer.stage for answer in answers] == [stage for stage in STAGES if not stage.startswith("low")]


@pytest.mark.parametrize("damage", ["zeros", "permuted"])
def test_damage_of_small_fails_where_it_is(kept, tmp_path, damage):
    """A layer of zeros, and a layer whose rows changed places."""
    small = shutil.copytree(kept["v1"].parent, tmp_path / "v1") / "small"
    change(small, "high", "blocks.2.ffn.net.2.weight.T", {"zeros": zeros, "permuted": permuted}[damage])
    assert off(small) == ["high"]


DAMAGE = [
    ("text", "encoder.block.1.layer.0.SelfAttention.k.weight.T", zeros, "text"),
    ("high", "blocks.2.ffn.net.2.weight.T", zeros, "high"),
    ("low", "blocks.2.attn1.to_v.weight.T", zeros, "low"),
    ("high", "blocks.2.ffn.net.2.weight.T.scale", permuted, "high"),
    ("low", "blocks.3.ffn.net.0.proj.weight.T.scale", permuted, "low"),
    ("high", "blocks.1.ffn.net.0.proj.weight.T.scale", one_that_is_none, "high"),
    ("low", "proj_out.weight.T", one_that_is_none, "low"),
    ("decode_first", "decoder.up_blocks.2.resnets.0.conv1.weight", zeros, "frames"),
]


@pytest.mark.parametrize(("part", "tensor", "damage", "stage"), DAMAGE)
def test_sealed_damage_fails_where_it_is(copy, part, tensor, damage, stage):
    """Whole bytes, wrong answers: one layer of zeros, scales in another order, one weight that is no number."""
    change(copy, part, tensor, damage)
    assert off(copy) == [stage]


@pytest.mark.parametrize(
    ("part", "tensor"),
    [
        ("text", "encoder.block.1.layer.0.SelfAttention.k.weight.T"),
        ("decode_first", "decoder.up_blocks.2.resnets.0.conv1.weight"),
    ],
)
def test_no_number_in_what_is_shared_fails(copy, part, tensor):
    """Text encoder and decoder are refused where they answer, before anything is compared."""
    change(copy, part, tensor, one_that_is_none)
    with pytest.raises(WrongAnswerError, match="not a number"):
        off(copy)


def test_a_wrong_expert_fails(copy):
    """Each expert is known by its own answers, though the other fits its place."""
    described = json.loads((copy / "engine.json").read_text())
    parts = described["parts"]
    parts["high"], parts["low"] = parts["low"], parts["high"]
    (copy / "engine.json").write_text(json.dumps(described))
    assert off(copy) == ["high", "low"]


def test_an_expert_of_another_version_fails(kept, copy):
    """The weights of a gentle fine-tune in the directory of the version before, sealed anew."""
    (copy / "high.safetensors").write_bytes((kept["v2"] / "high.safetensors").read_bytes())
    seal(copy)
    assert off(copy) == ["high"]
