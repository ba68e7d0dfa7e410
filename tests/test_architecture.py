"""The rooms of p2psync stand where docs/architecture.md says, and what keeps them there catches what it must."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import environment
import rules

PACKAGE = environment.ROOT / "p2psync"
LINTER = Path(sys.prefix) / "bin" / "lint-imports"

VIOLATIONS = {
    "a module that no layer names": ("names.py", "import json\n"),
    "a room beside another": ("store/stray.py", "import p2psync.transport\n"),
    "a room above": ("manifest/stray.py", "import p2psync.store\n"),
    "a clock in a pure room": ("swarm/stray.py", "import time\n"),
    "a path in a pure room": ("content/stray.py", "from pathlib import Path\n"),
    "a library outside its home": ("node/stray.py", "import aiohttp\n"),
    "a database outside the store": ("trust/stray.py", "import sqlite3\n"),
    "a runtime of models, even inside a function": ("node/stray.py", "def load():\n    import onnxruntime\n"),
    "torch outside its modules of the engine": ("engine/stray.py", "def load():\n    import torch\n"),
}


def contracts_hold(root: Path) -> bool:
    done = subprocess.run([LINTER, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    return done.returncode == 0


def test_contracts_hold():
    """No room imports beside or above itself, the pure rooms stay pure, and each library has one home."""
    assert contracts_hold(environment.ROOT)


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_contracts_catch(violation, tmp_path):
    """A planted violation breaks the contracts."""
    file, text = VIOLATIONS[violation]
    shutil.copy(environment.ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "p2psync", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "p2psync" / file).write_text(text)
    assert not contracts_hold(tmp_path)


def test_coroutines_stay_in_their_rooms():
    """Only transport, node and cli define coroutines."""
    assert rules.stray_coroutines(PACKAGE) == []


def test_stray_coroutines_are_found(tmp_path):
    """A coroutine in another room is named with its place, however deep it stands."""
    package = tmp_path / "p2psync"
    for room in ("store", "transport"):
        (package / room).mkdir(parents=True)
        (package / room / "work.py").write_text("class Work:\n    async def run(self):\n        pass\n")
    assert rules.stray_coroutines(package) == ["p2psync/store/work.py:2 run"]


def test_sizes_are_within_bounds():
    """No file is longer than 600 lines and no function longer than 70."""
    files = rules.python_files(environment.ROOT, "p2psync", "tools", "examples", "tests")
    assert [size for size in rules.file_sizes(environment.ROOT, files) if size.lines > 600] == []
    assert [size for size in rules.function_sizes(environment.ROOT, files) if size.lines > 70] == []


def test_import_is_light():
    """Importing p2psync loads no network library and nothing that runs models."""
    heavy = "{'aiohttp', 'asyncio', 'zeroconf', 'sqlite3', 'numpy', 'torch', 'onnxruntime', 'tensorrt'}"
    code = f"import sys, p2psync; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_engine_is_light():
    """Importing the engine, and its backends, loads none of the libraries behind them."""
    heavy = "{'torch', 'onnx', 'onnxruntime', 'tensorrt', 'cuda', 'av', 'tokenizers'}"
    modules = "p2psync.engine, p2psync.engine.ort, p2psync.engine.trt, p2psync.engine.torch_backend"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_package_is_typed_and_versioned():
    """The package says that it is typed, and its version is the one that is distributed."""
    import tomllib

    import p2psync

    project = tomllib.loads((environment.ROOT / "pyproject.toml").read_text())["project"]
    assert (PACKAGE / "py.typed").exists()
    assert p2psync.__version__ == project["version"]


def test_pins_satisfy_what_the_package_asks():
    """Every dependency that the package declares is pinned in requirements/base.txt."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((environment.ROOT / "pyproject.toml").read_text())["project"]
    lines = (environment.ROOT / "requirements" / "base.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    for text in project["dependencies"]:
        asked = Requirement(text)
        assert asked.specifier.contains(versions[canonicalize_name(asked.name)])
