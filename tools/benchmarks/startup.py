"""How long a user waits before anything happens: ``p2psync --help`` and ``import p2psync``."""

from __future__ import annotations

import subprocess
import sys

import command
from benchmarks import measure
from benchmarks.report import Bench, Group, Row

_HELP_S_MAX = 0.35
_IMPORT_S_MAX = 0.15
_HEAVY = ("aiohttp", "torch", "onnxruntime", "tensorrt")
_LOADED = f"import sys, p2psync; print(*sorted(set({_HEAVY!r}) & set(sys.modules)))"


def startup(bench: Bench) -> Group:
    """Start each often, in turn, in a new process."""
    ways = {
        "bare Python": [sys.executable, "-c", "pass"],
        "import p2psync": [sys.executable, "-c", "import p2psync"],
        "p2psync --help": [command.PROGRAM, "--help"],
        "p2psync --version": [command.PROGRAM, "--version"],
    }
    runs = [
        {"way": way, "round": number, "seconds": round(measure.run(argv).seconds, 4)}
        for number in range(3 * bench.rounds)
        for way, argv in ways.items()
    ]
    seconds = {way: measure.summary([float(str(run["seconds"])) for run in runs if run["way"] == way]) for way in ways}
    loaded = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True).stdout.split()
    bare = f"bare Python {seconds['bare Python']['median']:.3f} s"
    table = [
        Row(
            f"`{way}`",
            bare,
            f"{seconds[way]['median']:.3f} s",
            f"<= {bound:g} s",
            seconds[way]["median"] <= bound,
        )
        for way, bound in (("p2psync --help", _HELP_S_MAX), ("import p2psync", _IMPORT_S_MAX))
    ]
    heavy = ", ".join(loaded) or "none"
    table.append(Row("heavy libraries that `import p2psync` loads", ", ".join(_HEAVY), heavy, "none", not loaded))
    return Group(runs, {"seconds": seconds, "loaded": loaded}, table)
