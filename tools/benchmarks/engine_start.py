"""``start``: how long a cold process takes until the first step of a clip, the node's beside diffusers with torch.

Both make the same clip of wan-tiny, by its own settings: the node from the pruned INT8 engine that a site delivers,
diffusers from the bundle that the engine was made of. A process is cold, the page cache is warm.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import engine_process, measure
from benchmarks.report import Bench, Group, Row

_PEER: Final = Path(__file__).with_name("engine_peer.py")
_BUNDLE: Final = engine_process.ROOT / "examples" / "wan_tiny" / "bundle"
_OURS, _PEERS = "p2psync engine, int8-pruned", "diffusers, torch FP32"
_GAIN_MIN: Final = 3.0


def start_group(bench: Bench, engine: Path, python: str) -> Group:
    """Start both in turn, each once before anything counts.

    Args:
        bench: How often.
        engine: The engine of the same version as the committed bundle.
        python: An interpreter with torch and diffusers.
    """
    _ours(engine), _theirs(python)
    runs = []
    for number in range(bench.rounds):
        runs.append({"way": _OURS, "round": number, **_ours(engine)})
        runs.append({"way": _PEERS, "round": number, **_theirs(python)})
    return group(runs)


def _ours(engine: Path) -> dict[str, float]:
    began = time.monotonic()
    return since(began, engine_process.ask("start", str(engine)))


def _theirs(python: str) -> dict[str, float]:
    began = time.monotonic()
    return since(began, engine_process.ask(str(_BUNDLE), script=_PEER, python=python))


def since(began: float, said: dict[str, Any]) -> dict[str, float]:
    """Seconds from the start of a process to what it said on the same clock.

    Returns:
        ``opened_s`` until the pipeline is open, ``first_step_s`` until a step is done, ``first_clip_s`` until a clip
        is whole; ``clip_s`` is what the second one took, in a process that is warm by then.
    """
    first, second = said["clips"]
    return {
        "opened_s": round(said["opened"] - began, 3),
        "first_step_s": round(said["first_step"] - began, 3),
        "first_clip_s": round(first - began, 3),
        "clip_s": round(second - first, 3),
        "load_average": said["load_average"],
    }


def group(runs: list[dict[str, Any]]) -> Group:
    """The rows of what was started: ``way``, ``round`` and seconds as ``since`` gives them."""
    names = ("first_step_s", "first_clip_s", "clip_s")
    seconds = {
        way: {name: measure.summary([run[name] for run in runs if run["way"] == way]) for name in names}
        for way in (_OURS, _PEERS)
    }
    ours, theirs = seconds[_OURS], seconds[_PEERS]
    gain = statistics.median(_ratios(runs))
    table = [
        Row(
            "from the start of a process to the first step of a clip, wan-tiny int8-pruned",
            f"diffusers and torch {_shown(theirs['first_step_s'])}",
            f"{_shown(ours['first_step_s'])}, {gain:.1f}x",
            f">= {_GAIN_MIN:g}x",
            gain >= _GAIN_MIN,
        )
    ]
    for name, what in (("clip_s", "the second clip of a process"), ("first_clip_s", "the first, from its start")):
        table.append(
            Row(
                f"{what}, 96 x 64, 17 frames, 8 steps, wan-tiny int8-pruned",
                f"diffusers and torch, FP32 {_shown(theirs[name])}",
                _shown(ours[name]),
                "",
                met=True,
            )
        )
    return Group(runs, {"seconds": seconds, "first_step_gain": round(gain, 2)}, table)


def _ratios(runs: list[dict[str, Any]]) -> list[float]:
    """How many times sooner the first step came in each round."""
    ours, theirs = ({run["round"]: run["first_step_s"] for run in runs if run["way"] == way} for way in (_OURS, _PEERS))
    return [theirs[number] / ours[number] for number in ours]


def _shown(seconds: dict[str, Any]) -> str:
    return f"{seconds['median']:.2f} s ({seconds['min']:.2f} to {seconds['max']:.2f})"
