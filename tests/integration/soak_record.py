"""What a soak is judged by: samples of processes at rest, what grew between the ends of a run, and the record of it."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
# Libraries are loaded, tables and pools of threads filled within this share of the time.
WARM_UP: Final = 0.2


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process takes at rest: ``anonymous_bytes`` of its smaps_rollup, descriptors, threads."""

    second: float
    anonymous_bytes: int
    fds: int
    threads: int

    @classmethod
    def of(cls, pid: int, second: float) -> Self:
        """Look at a process now."""
        process = Path(f"/proc/{pid}")
        lines = (process / "smaps_rollup").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
        return cls(round(second, 1), kib << 10, len(os.listdir(process / "fd")), len(os.listdir(process / "task")))


@dataclass(frozen=True, slots=True)
class Found:
    """What came out of one node: medians of the first and the last quarter of its samples after the warm-up."""

    anonymous_bytes: tuple[int, int]
    fds: tuple[int, int]
    threads: tuple[int, int]
    growth: float

    @classmethod
    def of(cls, samples: Sequence[Sample], warm_s: float) -> Self:
        """Compare the ends of a run. Less than two samples after the warm-up say nothing and are refused."""
        warm = [sample for sample in samples if sample.second >= warm_s]
        assert len(warm) > 1, f"{len(warm)} samples after the warm-up: too short a run"
        quarter = max(1, len(warm) // 4)
        ends = (warm[:quarter], warm[-quarter:])

        def medians(what: str) -> tuple[int, int]:
            first, last = (int(statistics.median(getattr(sample, what) for sample in end)) for end in ends)
            return first, last

        anonymous = medians("anonymous_bytes")
        return cls(anonymous, medians("fds"), medians("threads"), round(anonymous[1] / anonymous[0] - 1, 4))


def write(path: Path | None, record: dict[str, Any]) -> None:
    """Write a record with the machine that it is of; nowhere without a path."""
    if path is None:
        return
    sys.path.append(str(ROOT / "tools"))
    from benchmarks import report

    head = {key: value for key, value in record.items() if key != "samples"}
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
    text = json.dumps({**head, "date": date, "machine": report.machine(path.resolve().parent)}, indent=1)
    # One sample a line would make a thousand lines.
    samples = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in record["samples"].items())
    path.write_text(f'{text[:-2]},\n "samples": {{\n  {samples}\n }}\n}}\n')
