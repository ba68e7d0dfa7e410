"""One process of the engine's benchmark: `engine_one.py VERB ARGUMENT...` does one thing and says in JSON what it took.

Each is a process of its own, since what is measured is a process: its memory, its start, its answers.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

_PROMPT: Final = "a red circle moves left"
_CALLS: Final = 5
_WARM_CALLS: Final = 3


def decode(engine: str, frames: str) -> dict[str, Any]:
    """Decode random latents frame by frame. Returns seconds, and the most memory of this process, in bytes."""
    import numpy as np

    from p2psync.engine.pipeline import latent_shape, open_pipeline
    from p2psync.engine.request import Wish, settle

    with open_pipeline(engine, "ort-cpu") as pipeline:
        request = settle(pipeline.described, Wish("a clip", frames=int(frames)))
        latents = np.random.RandomState(0).standard_normal(latent_shape(pipeline.described, request))
        start = time.perf_counter()
        count = sum(len(part) for part in pipeline.decode(latents.astype(np.float32)))
        seconds = time.perf_counter() - start
    if count != int(frames):
        raise SystemExit(f"{count} frames came out where {frames} were asked for")
    return {"seconds": round(seconds, 3), "peak_bytes": _status("VmHWM")}


def steps(rounds: str, *files: str) -> dict[str, Any]:
    """Time the same call of several graphs, in turn. Returns each one's milliseconds a call, and its answer's error.

    ``fast_int8`` says whether this processor multiplies INT8 by itself; without, a node takes FP16 where there is one.
    """
    import numpy as np

    from p2psync.engine import backends
    from p2psync.engine.model import load

    models = {file: load(file) for file in files}
    feeds = {}
    draws = np.random.RandomState(0)
    for name, shape in (("latents", (1, 16, 1, 32, 32)), ("text", (1, 32, 256))):
        feeds[name] = draws.standard_normal(shape).astype(np.float32)
    feeds["timestep"] = np.array([500], np.float32)
    answers = {file: [model.run(feeds)[0] for _ in range(_WARM_CALLS)][-1] for file, model in models.items()}
    took: dict[str, list[float]] = {file: [] for file in files}
    for _ in range(int(rounds)):
        for file, model in models.items():
            start = time.perf_counter()
            for _ in range(_CALLS):
                model.run(feeds)
            took[file].append((time.perf_counter() - start) / _CALLS * 1000)
    right = answers[files[0]]
    errors = {file: float(np.linalg.norm(found - right) / np.linalg.norm(right)) for file, found in answers.items()}
    return {"ms": took, "errors": errors, "fast_int8": "int8" in backends.probe("ort-cpu").fast}


def load(file: str) -> dict[str, Any]:
    """Load a model as a node does, and say so; run it when a line comes in, and stay until the next one."""
    import numpy as np
    import onnxruntime  # noqa: F401 - Its import is no part of what loading takes.

    from p2psync.engine import model

    before = _memory()
    start = time.perf_counter()
    opened = model.load(file)
    seconds = time.perf_counter() - start
    loaded = _memory()
    (tensor,) = opened.inputs
    row = np.ones([size if isinstance(size, int) else 1 for size in tensor.dims], np.float32)
    opened.run({tensor.name: row})
    _say({"seconds": round(seconds, 4), "before": before, "loaded": loaded, "peak_bytes": _status("VmHWM")})
    sys.stdin.readline()
    found = _memory()
    _say(found)
    # The pages count as shared only while both processes hold them.
    sys.stdin.readline()
    return found


def start(engine: str) -> dict[str, Any]:
    """Open an engine in this cold process and make two clips. Times are seconds of the machine's monotonic clock."""
    from p2psync.engine.pipeline import open_pipeline

    reached: list[float] = []
    with open_pipeline(engine, "ort-cpu") as pipeline:
        opened = time.monotonic()
        ends = []
        for seed in (0, 1):
            pipeline.generate(_PROMPT, seed=seed, on_step=lambda _done, _of: reached.append(time.monotonic()))
            ends.append(time.monotonic())
    return {"opened": opened, "first_step": reached[0], "clips": ends}


def swap(folder: str, answers: str, *engines: str) -> dict[str, Any]:
    """Ask for clips without a break while versions take over in turn.

    Returns:
        When each sign of life came (a step, or frames), when each answer ended, and each takeover's start and end.
    """
    from p2psync.engine import Pointers, Serving, Target

    targets = [
        Target(engine, f"demo/wan-tiny:v{n}", f"b3:{n}", "int8-pruned", "ort-cpu")
        for n, engine in enumerate(engines, 1)
    ]
    serving = Serving(Pointers(Path(folder)))
    serving.activate(targets[0])
    asking = _Asking(serving)
    asking.start()
    takeovers = []
    for number in range(1, 2 * len(targets)):
        asking.wait(int(answers))
        began = time.monotonic()
        serving.activate(targets[number % len(targets)])
        takeovers.append((began, time.monotonic()))
    asking.wait(int(answers))
    asking.over.set()
    asking.join()
    serving.close()
    return {"signs": asking.signs, "answers": asking.answers, "lost": asking.lost, "takeovers": takeovers}


class _Asking(threading.Thread):
    """A client that asks for the next clip as soon as it has the last."""

    def __init__(self, serving: Any) -> None:
        super().__init__()
        self._serving = serving
        self.over = threading.Event()
        self.signs: list[float] = []
        self.answers: list[float] = []
        self.lost: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                with self._serving.pipeline() as pipeline:
                    self._clip(pipeline)
            except Exception as error:  # noqa: BLE001 - Whatever a request ends with, it is lost.
                self.lost.append(f"{type(error).__name__}: {error}")
            else:
                self.answers.append(time.monotonic())

    def _clip(self, pipeline: Any) -> None:
        from p2psync.engine.pipeline import Hooks
        from p2psync.engine.request import Wish, settle

        request = settle(pipeline.described, Wish(_PROMPT))
        for _ in pipeline.stream(request, Hooks(on_step=lambda _done, _of: self.signs.append(time.monotonic()))):
            self.signs.append(time.monotonic())

    def wait(self, answers: int) -> None:
        """Until so many more requests have ended."""
        wanted = len(self.answers) + len(self.lost) + answers
        while len(self.answers) + len(self.lost) < wanted:
            time.sleep(0.05)


def _memory() -> dict[str, int]:
    """This process's memory by smaps_rollup of proc(5), in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return {"rss": fields["Rss"], "pss": fields["Pss"], "anonymous": fields["Anonymous"]}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


_VERBS: Final[Mapping[str, Callable[..., dict[str, Any]]]] = {
    "decode": decode,
    "steps": steps,
    "load": load,
    "start": start,
    "swap": swap,
}

if __name__ == "__main__":
    _say({**_VERBS[sys.argv[1]](*sys.argv[2:]), "load_average": round(os.getloadavg()[0], 2)})
