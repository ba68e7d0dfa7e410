"""What ``doctor`` finds of interpreter, packages, engines, bounds and environment, each really or nearly broken."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from p2psync.limits import DESCRIPTORS_BUSY, MIB, OPEN_FILES_MAX
from p2psync.node import machine_checks as machine
from p2psync.node.findings import Finding, Outcome

SHOW_LIMIT = (
    "import json; from p2psync.node.machine_checks import check_open_files as c; f = c(); "
    "print(json.dumps([f.outcome, f.found, f.hint]))"
)


@pytest.fixture
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is alone on the path, for distributions that are nothing but metadata."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def install(folder: Path, name: str, version: str = "1.0", requires: tuple[str, ...] = ()) -> None:
    """Put the metadata of a distribution there."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {text}" for text in requires)]) + "\n")


def outcome(finding: Finding | None) -> Outcome:
    assert finding is not None
    return finding.outcome


def test_python_and_platform() -> None:
    """An old Python or another system fails, an untested processor warns."""
    assert outcome(machine.check_python((3, 11, 0), "Linux", "aarch64")) is Outcome.OK
    assert outcome(machine.check_python((3, 10, 9), "Linux", "x86_64")) is Outcome.FAILED
    assert outcome(machine.check_python((3, 12, 0), "Darwin", "arm64")) is Outcome.FAILED
    assert outcome(machine.check_python((3, 12, 0), "Linux", "riscv64")) is Outcome.WARNING


def test_packages_here_are_whole() -> None:
    """What the tests run on has what it needs."""
    assert machine.check_packages().outcome is Outcome.OK


def test_packages_missing_old_and_unknown(distributions: Path) -> None:
    """One that is missing fails, one that is too old warns; extras are not asked for."""
    assert machine.check_packages().outcome is Outcome.WARNING
    install(distributions, "p2psync", "0.1", ("aio>=3.14", "zero>=0.150,<2", 'torch>=2; extra == "compress"'))
    found = machine.check_packages()
    assert (found.outcome, found.found) == (Outcome.FAILED, "missing: aio, zero")
    install(distributions, "aio", "3.9.5")
    install(distributions, "zero", "0.150.0")
    found = machine.check_packages()
    assert (found.outcome, found.found) == (Outcome.WARNING, "too old: aio 3.9.5 (needs 3.14)")


def test_two_runtimes_overwrite_each_other(distributions: Path) -> None:
    """Onnxruntime beside onnxruntime-gpu fails and names both; either alone is well."""
    assert machine.check_runtimes().outcome is Outcome.OK
    install(distributions, "onnxruntime", "1.20")
    assert machine.check_runtimes().found == "onnxruntime 1.20"
    install(distributions, "onnxruntime-gpu", "1.19")
    found = machine.check_runtimes()
    assert (found.outcome, found.found) == (Outcome.FAILED, "onnxruntime 1.20 and onnxruntime-gpu 1.19")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in found.hint


def test_backends_by_metadata(distributions: Path) -> None:
    """What is installed is named, and what an engine needs besides is missed. Nothing is imported."""
    assert machine.check_backends().found.startswith("none")
    for name in ("onnxruntime-gpu", "tensorrt_cu12", "tensorrt_rtx_cu13", "cuda-bindings"):
        install(distributions, name)
    found = machine.check_backends()
    assert found.outcome is Outcome.WARNING
    assert found.found.startswith("ort-cpu, ort-cuda, tensorrt, tensorrt-rtx installed")
    assert found.found.endswith("missing: numpy, tokenizers, av")
    for name in ("numpy", "tokenizers", "av"):
        install(distributions, name)
    assert machine.check_backends().outcome is Outcome.OK


@pytest.mark.parametrize(
    ("soft", "expected"),
    [(OPEN_FILES_MAX - 1, "failed"), (OPEN_FILES_MAX, "warning"), (DESCRIPTORS_BUSY, "ok")],
)
def test_open_file_limit(soft: int, expected: str) -> None:
    """A child with a low limit says so, and what to set."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); {SHOW_LIMIT}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, found, hint = json.loads(done.stdout)
    assert told == expected
    assert found.startswith(str(soft))
    assert bool(hint) == (expected != "ok")


def test_open_file_limit_that_only_root_can_raise() -> None:
    """A low hard limit is not raised by ulimit, and the hint does not say so."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)); {SHOW_LIMIT}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LimitNOFILE" in json.loads(done.stdout)[2]


def test_memory_inside_the_control_group(tmp_path: Path) -> None:
    """The smaller of the machine's and the group's counts, and pages of files are no use of it."""
    meminfo = tmp_path / "meminfo"
    assert machine.check_memory(meminfo, tmp_path) is None
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    4194304 kB\n")
    assert outcome(machine.check_memory(meminfo, tmp_path)) is Outcome.OK
    (tmp_path / "memory.max").write_text(f"{512 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{500 * MIB}\n")
    found = machine.check_memory(meminfo, tmp_path)
    assert outcome(found) is Outcome.WARNING
    assert found is not None
    assert found.found.startswith("12 MiB")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {400 * MIB}\n")
    assert outcome(machine.check_memory(meminfo, tmp_path)) is Outcome.OK


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Outcome.OK),
        ({"HTTPS_PROXY": "http://me:secret@proxy:3128"}, Outcome.OK),
        ({"https_proxy": "socks5://proxy:1080"}, Outcome.WARNING),
        ({"http_proxy": "proxy:3128"}, Outcome.WARNING),
        ({"ALL_PROXY": "http://me:secret@proxy:3128"}, Outcome.WARNING),
    ],
)
def test_proxies(environ: dict[str, str], expected: Outcome) -> None:
    """A proxy that cannot be used, or that nothing here reads, warns; no password is told."""
    found = machine.check_proxies(environ)
    assert found.outcome is expected
    assert "secret" not in found.found + found.hint
