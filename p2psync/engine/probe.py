"""The golden probe: what a publisher's engine answered, and whether this one answers the same.

Bytes that are right can still give wrong answers: scales in another order, a kernel that saturates, a driver. A probe
asks every part of an engine about inputs that its publisher wrote down, and holds the answers against the publisher's,
within tolerances that were signed with them. Format 2 is written (``probe_record``, ``probe_stages``), format 1 of
older versions is still answered (``probe_chain``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from p2psync.engine.answers import Answer
from p2psync.engine.choice import Candidate, choose
from p2psync.engine.pipeline import Pipeline, open_pipeline
from p2psync.engine.probe_chain import ChainProbe, read_chain
from p2psync.engine.probe_record import record, record_at
from p2psync.engine.probe_stages import StageProbe, read_stages
from p2psync.engine.strict_json import Fields, read_object
from p2psync.errors import UnsupportedVersionError, WrongAnswerError

__all__ = ["Answer", "GoldenProbe", "check", "measure", "probe_of", "read_probe", "record", "record_at", "verify"]

GoldenProbe = ChainProbe | StageProbe

FILE_NAME: Final = "probe.json"
_READERS: Final[Mapping[int, Callable[[Fields], GoldenProbe]]] = {1: read_chain, 2: read_stages}
_HINT: Final = "the engine that ran before stays; p2psync verify REF proves the bytes, another variant may answer"


def read_probe(path: Path) -> GoldenProbe:
    """Read a probe file.

    Raises:
        IncompleteModelError: there is none.
        UnsupportedVersionError: a newer p2psync wrote it.
        MalformedError: it does not follow the format.
    """
    top = read_object(path)
    reader = _READERS.get(major := top.integer("format"))
    if reader is None:
        raise UnsupportedVersionError(
            f"{path} has format {major}; this p2psync reads formats {min(_READERS)} to {max(_READERS)}", hint="upgrade"
        )
    return reader(top)


def check(pipeline: Pipeline, probe: GoldenProbe) -> tuple[Answer, ...]:
    """Run the probe.

    Returns:
        One answer per stage, all within their tolerance.

    Raises:
        WrongAnswerError: one is not; the message names the stages that are off, and by how much.
        ModelError: the engine does not run.
    """
    answers = measure(pipeline, probe)
    wrong = [answer for answer in answers if not answer.passed]
    if wrong:
        off = ", ".join(f"{a.stage} by {a.distance:.3g} (allowed {a.tolerance:.3g})" for a in wrong)
        raise WrongAnswerError(
            f"{pipeline.described.name} does not answer its probe on {pipeline.backend}: {off}, in units of the spread",
            hint=probe.hint(pipeline.backend) or _HINT,
        )
    return answers


def measure(pipeline: Pipeline, probe: GoldenProbe) -> tuple[Answer, ...]:
    """Run the probe and say how far each stage is from what was expected."""
    return probe.measure(pipeline)


def verify(among: Sequence[Candidate], *, variant: str | None = None, backend: str | None = None) -> dict[str, Any]:
    """Answer the golden probe of the variant that would run here, with all weights proved: ``verify --run``.

    Returns:
        ``variant``, ``backend``, ``seconds`` and one distance per stage; ``probe`` False where the version has none.

    Raises:
        WrongAnswerError: the answers are off.
        ModelError: it does not run.
    """
    choice = choose(among, variant=variant, backend=backend)
    begun = time.monotonic()
    with open_pipeline(choice.candidate.directory, choice.backend, prove=True) as pipeline:
        file = probe_of(choice.candidate.directory)
        answers: tuple[Answer, ...] = ()
        if file is None:
            pipeline.parts.load_all()
        else:
            answers = check(pipeline, read_probe(file))
    return {
        "variant": choice.candidate.name,
        "backend": choice.backend,
        "probe": file is not None,
        "seconds": round(time.monotonic() - begun, 3),
        "stages": {a.stage: {"distance": round(a.distance, 6), "tolerance": a.tolerance} for a in answers},
        "steps_down": list(choice.steps_down),
    }


def probe_of(directory: str | os.PathLike[str]) -> Path | None:
    """The probe file of an engine directory, if it has one."""
    path = Path(directory) / FILE_NAME
    return path if path.is_file() else None
