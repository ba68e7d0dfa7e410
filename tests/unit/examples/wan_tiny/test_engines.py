"""The engine directories that are kept are built again without torch, and every file is proved."""

import hashlib
import json
import subprocess
import sys

import pytest
from wan_tiny import engines

import environment
from p2psync.engine.description import read_description
from p2psync.engine.residency import prove_skeleton, prove_weights


@pytest.fixture(scope="module", params=engines.ORDER)
def built(request, tmp_path_factory):
    return engines.build(request.param, tmp_path_factory.mktemp("engines") / request.param)


def test_what_is_built_is_what_its_description_names(built):
    """Skeletons and weights are those of ``engine.json``, by their digests."""
    described = read_description(built / "int8-pruned")
    for part in described.parts:
        prove_skeleton(described, part, "ort-cpu")
        prove_skeleton(described, part, "tensorrt")
    prove_weights(described)
    assert described.precision == "int8"
    assert (built / "p2psync.toml").read_text().startswith("[variants.int8-pruned]")


def test_no_torch_is_needed(tmp_path):
    """Another process builds it with torch hidden."""
    code = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path; from wan_tiny import engines; "
        f"engines.build('v1', Path({str(tmp_path)!r}))"
    )
    path = {"PYTHONPATH": str(environment.ROOT / "examples")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "int8-pruned" / "engine.json").is_file()


def test_few_codes_change_from_version_to_version(tmp_path):
    """Scales and kept channels are frozen: of the INT8 codes under one in a hundred are new."""
    first, second = (engines.build(name, tmp_path / name) / "int8-pruned" for name in ("v1", "v2"))
    assert (first / "kept.safetensors").read_bytes() == (second / "kept.safetensors").read_bytes()
    assert (first / "high.onnx").read_bytes() == (second / "high.onnx").read_bytes()
    _, before = engines._read((first / "high.safetensors").read_bytes())
    _, after = engines._read((second / "high.safetensors").read_bytes())
    codes = changed = 0
    for name, (dtype, _shape, raw) in before.items():
        if dtype == "I8" and name.endswith(".T"):
            codes += len(raw)
            changed += sum(a != b for a, b in zip(raw, after[name][2], strict=True))
        if name.endswith(".scale"):
            assert raw == after[name][2]
    assert codes > 1_000_000
    assert 0 < changed < codes / 100


def test_keeping_and_building_is_exact(tmp_path, monkeypatch):
    """What is kept of a directory gives it back; what was damaged is refused."""
    built = engines.build("v1", tmp_path / "v1")
    monkeypatch.setattr(engines, "FOLDER", tmp_path / "kept")
    size = engines.keep(built, "v1")
    assert size < 400_000
    again = engines.build("v1", tmp_path / "again")
    names = sorted(str(path.relative_to(built)) for path in built.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(again)) for path in again.rglob("*") if path.is_file())
    assert all(digest(built / name) == digest(again / name) for name in names)
    pieces, index = engines._kept("v1")
    path = next(path for path, entry in index.items() if "piece" in entry)
    monkeypatch.setattr(engines, "_kept", lambda _name: ({**pieces, index[path]["piece"]: b"other"}, index))
    with pytest.raises(ValueError, match="is not the file that was kept"):
        engines.build("v1", tmp_path / "third")
    assert json.loads((built / "int8-pruned" / "engine.json").read_text())["precision"] == "int8"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
