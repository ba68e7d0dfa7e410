"""The engine in processes of its own: without torch, killed at any moment, interrupted, twice at once."""

import signal
import subprocess
import sys
import textwrap

import av
import pytest

from p2psync.engine import generations
from p2psync.engine.pointers import Pointers, Target
from tests.unit.engine.tiny_engine import make_engine, with_probe

# Importing any of these fails: what the node must not need.
NO_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "diffusers", "transformers", "onnx", "safetensors", "aiohttp", "zeroconf"}:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refuse())
"""

RUN = """
import sys
from pathlib import Path
from p2psync.engine import Job, Wish, candidates, run

engine, out, steps = sys.argv[1:]
def tell(what, done, of):
    print(what, done, of, flush=True)
wish = Wish("a red circle moves left", seed=1, steps=int(steps))
clip = run(Job(candidates(Path(engine)), wish, Path(out), log=Path(out).parent / "log.jsonl"), on_event=tell)
print("made", clip.out, clip.sheet)
"""


def python(code, *arguments, **options):
    """Run code in a new process and return it when it has ended."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def start(code, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """An engine with its probe."""
    return with_probe(make_engine(tmp_path_factory.mktemp("engine") / "v1" / "fp32"))


def test_without_torch(engine, tmp_path):
    """Where ``import torch`` fails, and onnx and aiohttp too, a prompt becomes an mp4 with its contact sheet."""
    done = python(NO_TORCH + RUN, engine, tmp_path / "clip.mp4", 4)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"made {tmp_path / 'clip.mp4'} {tmp_path / 'clip.sheet.png'}"
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9


def test_torch_is_refused_in_that_test():
    """The check above can fail."""
    assert "torch is not here" in python(NO_TORCH + "import torch").stderr


def test_imports_nothing_heavy():
    """Importing the engine loads no runtime and nothing of the network half."""
    code = """
    import sys
    import p2psync.engine
    heavy = {"onnxruntime", "tokenizers", "av", "torch", "onnx", "aiohttp", "zeroconf", "asyncio", "sqlite3"}
    print(sorted(heavy & set(sys.modules)), [m for m in sys.modules if m.startswith(("p2psync.node", "p2psync.store"))])
    """
    assert python(code).stdout.strip() == "[] []"


def test_interrupt_between_steps(engine, tmp_path):
    """SIGINT ends a run within a step, leaves no output, and the log says so."""
    # It sleeps in its first step, so that it cannot have ended before the signal comes.
    waiting = RUN.replace("flush=True)", "flush=True)\n    what == 'step' and done == 1 and time.sleep(60)", 1)
    process = start("import time" + waiting, engine, tmp_path / "clip.mp4", 1000)
    assert process.stdout.readline().startswith("step 1 ")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode not in {0, None}
    assert "KeyboardInterrupt" in stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [".log.jsonl.lock", "log.jsonl"]
    assert generations.last(tmp_path / "log.jsonl", 1)[0]["outcome"] == "interrupted"


def test_kill_leaves_no_half_clip(engine, tmp_path):
    """SIGKILL in the middle leaves no file under the output's name, and the next run makes it."""
    process = start(RUN, engine, tmp_path / "clip.mp4", 1000)
    assert process.stdout.readline().startswith("step 1 ")
    process.kill()
    process.communicate(timeout=30)
    assert not (tmp_path / "clip.mp4").exists()
    assert python(RUN, engine, tmp_path / "clip.mp4", 1).returncode == 0
    assert (tmp_path / "clip.mp4").stat().st_size > 0


def test_two_runs_at_once(engine, tmp_path):
    """Two runs on one engine and one log both end well, with one line each."""
    processes = [start(RUN, engine, tmp_path / f"clip{at}.mp4", 20) for at in range(2)]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert [line["outcome"] for line in generations.last(tmp_path / "log.jsonl", 9)] == ["done", "done"]


SWITCH = """
import os
import signal
import sys
from pathlib import Path
from p2psync.engine import Pointers, Serving, Target

pointers, path, kill_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
count = 0

def step(*event):
    # Every system call that changes the directory, every rename and sync, is a moment to die.
    global count
    name, arguments = event
    if name in {"open", "os.rename", "os.remove", "os.mkdir"} and str(pointers) in str(arguments):
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

place = Serving(Pointers(pointers))
sys.addaudithook(step)
place.activate(Target(path, "demo/tiny:v2", "b3:2", "fp32", "ort-cpu"))
print("switched", count)
"""


def test_kill_between_any_two_steps_of_a_switch(engine, tmp_path):
    """Killed at each of its file operations in turn, a switch leaves two pointers that name engines that run."""
    second = with_probe(make_engine(tmp_path / "v2" / "fp32", seed=2))
    first = Target(str(engine), "demo/tiny:v1", "b3:1", "fp32", "ort-cpu")
    kill_at, killed = 1, 0
    while True:
        directory = tmp_path / f"pointers{kill_at}"
        Pointers(directory).switch(first)
        done = python(SWITCH, directory, second, kill_at)
        after = Pointers(directory)
        assert after.usable() is not None
        assert after.current().path in {str(engine), str(second)}
        assert after.last_good() in {None, first}
        if after.current().path == str(second):
            assert after.last_good() == first
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        kill_at += 1
    assert killed >= 5
    assert after.current().path == str(second)
    after.switch(first)
    assert after.last_good().path == str(second)


def test_back_without_network(engine, tmp_path):
    """With the current engine's files gone and no socket to be had, a new process serves the last good one."""
    second = with_probe(make_engine(tmp_path / "v2" / "fp32", seed=2))
    pointers = Pointers(tmp_path / "pointers")
    for at, directory in enumerate((engine, second), 1):
        pointers.switch(Target(str(directory), f"demo/tiny:v{at}", f"b3:{at}", "fp32", "ort-cpu"))
    (second / "high.safetensors").unlink()
    code = (
        NO_TORCH
        + """
def no_network(name, arguments):
    if name.startswith("socket."):
        raise OSError("the network is cut")

sys.addaudithook(no_network)
from pathlib import Path
from p2psync.engine import Pointers, Serving
place = Serving(Pointers(Path(sys.argv[1])))
print(place.start().reference)
with place.pipeline() as pipeline:
    print(pipeline.generate("a", steps=1).shape)
"""
    )
    done = python(code, tmp_path / "pointers")
    assert done.stdout.split("\n")[:2] == ["demo/tiny:v1", "(9, 32, 48, 3)"], done.stderr
    assert pointers.current().reference == "demo/tiny:v1"


def test_full_disk_while_writing(engine, tmp_path):
    """When the disk fills while the clip is written, the error is this disk's and nothing half is left."""
    limit = """
import resource
import signal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
clip = run("""
    code = RUN.replace("\nclip = run(", limit)
    done = python(code, engine, tmp_path / "clip.mp4", 1)
    assert done.returncode == 1
    assert "StoreUnwritableError" in done.stderr or "StoreFullError" in done.stderr
    assert not (tmp_path / "clip.mp4").exists()
