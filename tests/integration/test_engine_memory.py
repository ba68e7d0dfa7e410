"""An engine in a process that may have only so much memory: a clip, or the error that says so, and nothing half."""

import json
import subprocess
import sys
import textwrap

import pytest

from tests.unit.engine.tiny_engine import make_engine, with_probe

BEFORE = b"the clip that was here"

# How much more address space a process may have than it has when the libraries of the engine are still to be loaded.
# Two processors, since onnxruntime waits for ever for threads of which it got only some.
LIMITED = """
import json
import os
import resource
import sys
from pathlib import Path
from p2psync.engine import Job, Wish, candidates, run
from p2psync.errors import P2PSyncError

engine, out, more = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

def now(field):
    (line,) = (line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024

begun = now("VmSize")
if more:
    resource.setrlimit(resource.RLIMIT_AS, (begun + more, begun + more))
try:
    job = Job(candidates(engine), Wish("a red circle", seed=1, steps=2), out, backend="ort-cpu", log=out.parent / "log")
    run(job)
except P2PSyncError as error:
    print(json.dumps({"code": error.code, "exit": error.exit_code, "hint": error.hint, "message": error.message}))
else:
    print(json.dumps({"code": "", "took": now("VmPeak") - begun}))
"""


def limited(engine, folder, more):
    """What a run ends with that may take ``more`` bytes."""
    folder.mkdir()
    (folder / "clip.mp4").write_bytes(BEFORE)
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(engine), str(folder / "clip.mp4"), str(more)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return with_probe(make_engine(tmp_path_factory.mktemp("engine") / "v1" / "fp32"))


def test_too_little_memory_has_a_name(engine, tmp_path):
    """From nearly nothing to nearly enough: whoever is refused memory, a library or a graph, the error is one and the
    same, the clip that was there before stays, and the log says why there is no new one.
    """
    enough = limited(engine, tmp_path / "enough", 0)["took"]
    outcomes = []
    for tenth in (2, 4, 6, 8, 12):
        folder = tmp_path / f"{tenth}"
        outcome = limited(engine, folder, enough * tenth // 10)
        outcomes.append(outcome["code"])
        names = {path.name for path in folder.iterdir() if path.name != ".log.lock"}
        made = (folder / "clip.mp4").read_bytes() != BEFORE
        if outcome["code"]:
            assert outcome["code"] == "memory_short", outcome
            assert outcome["exit"] == 9
            assert "smaller" in outcome["hint"]
            assert not made
            assert names <= {"clip.mp4", "log"}
            if "log" in names:
                assert json.loads((folder / "log").read_text())["outcome"] == "memory_short"
        else:
            assert made
            assert names == {"clip.mp4", "clip.sheet.png", "log"}
    assert outcomes[0] == "memory_short"
    assert outcomes[-1] == ""
