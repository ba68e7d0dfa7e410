"""``swap``: what a client of a serving engine notices when other versions take over while it keeps asking.

The client asks for clips of wan-tiny without a break. Each takeover loads a version beside the one that serves, hashes
its weights and lets it answer its golden probe, on the same processors.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import engine_process, measure
from benchmarks.report import Bench, Group, Row

_PAUSE_S_MAX: Final = 1.0
# Answers between two takeovers: enough for a median of quiet ones.
_QUIET_ANSWERS: Final = 3


def swap_group(bench: Bench, engines: Sequence[Path]) -> Group:
    """Serve and take over, in a process per round.

    Args:
        bench: Where, and how often.
        engines: The engines of two versions.
    """
    runs = []
    for number in range(bench.rounds):
        folder = bench.folder(f"swap-{number}")
        said = engine_process.ask("swap", str(folder), str(_QUIET_ANSWERS), *map(str, engines))
        runs.append({"round": number, **noticed(said)})
    return group(runs)


def noticed(said: dict[str, Any]) -> dict[str, Any]:
    """What one process's stamps come to.

    Args:
        said: ``signs`` (ends of steps, and frames), ``answers``, ``takeovers`` (start, end) and ``lost`` requests.

    Returns:
        Gaps in seconds between signs of life, and between answers: the median of the quiet ones, and for each
        takeover the longest that began before its end and ended after its start.
    """
    takeovers = [(began, ended) for began, ended in said["takeovers"]]
    signs, answers = (_gaps(said[name]) for name in ("signs", "answers"))
    return {
        "quiet_step_s": round(_quiet(signs, takeovers), 4),
        "quiet_answer_s": round(_quiet(answers, takeovers), 4),
        "longest_step_s": [round(_longest(signs, takeover), 4) for takeover in takeovers],
        "longest_answer_s": [round(_longest(answers, takeover), 4) for takeover in takeovers],
        "takeover_s": [round(ended - began, 3) for began, ended in takeovers],
        "answered": len(said["answers"]),
        "lost": said["lost"],
        "load_average": said["load_average"],
    }


Gap = tuple[float, float]


def _gaps(stamps: Sequence[float]) -> list[Gap]:
    return list(itertools.pairwise(stamps))


def _touch(gap: Gap, takeover: Gap) -> bool:
    return gap[0] < takeover[1] and gap[1] > takeover[0]


def _quiet(gaps: Sequence[Gap], takeovers: Sequence[Gap]) -> float:
    return statistics.median(
        end - start for start, end in gaps if not any(_touch((start, end), takeover) for takeover in takeovers)
    )


def _longest(gaps: Sequence[Gap], takeover: Gap) -> float:
    return max(end - start for start, end in gaps if _touch((start, end), takeover))


def group(runs: list[dict[str, Any]]) -> Group:
    """The rows: the worst of all takeovers decides.

    Args:
        runs: As ``noticed`` gives them.
    """
    quiet_step, quiet_answer = (
        statistics.median(run[name] for run in runs) for name in ("quiet_step_s", "quiet_answer_s")
    )
    step = max(longest for run in runs for longest in run["longest_step_s"])
    answer = max(longest for run in runs for longest in run["longest_answer_s"])
    takeovers = [took for run in runs for took in run["takeover_s"]]
    asked = sum(run["answered"] + len(run["lost"]) for run in runs)
    lost = sum(len(run["lost"]) for run in runs)
    count = f"the longest of {len(takeovers)} takeovers"
    # What a takeover adds to the wait for an answer; a clip takes its time also without one.
    pause = answer - quiet_answer
    table = [
        Row(
            f"pause of an engine that serves wan-tiny int8-pruned when a version takes over, {count}",
            f"an answer every {quiet_answer:.2f} s without, {answer:.2f} s with",
            f"{pause:.2f} s more",
            f"<= {_PAUSE_S_MAX:g} s",
            pause <= _PAUSE_S_MAX,
        ),
        Row(
            f"time without a step or frames, {count}",
            f"median step without {quiet_step * 1000:.0f} ms",
            f"{step * 1000:.0f} ms",
            f"<= {_PAUSE_S_MAX:g} s",
            step <= _PAUSE_S_MAX,
        ),
        Row("requests lost in them", f"{asked} asked", str(lost), "0", lost == 0),
    ]
    return Group(runs, {"takeover_s": measure.summary(takeovers), "asked": asked, "lost": lost}, table)
