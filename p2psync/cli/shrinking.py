"""The verb that shrinks a model, and the gate that a publish holds what was shrunk against."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2psync.cli import describe
from p2psync.cli.output import Output
from p2psync.errors import BackendUnavailableError, UsageError

if TYPE_CHECKING:
    from p2psync.compress import Report

Options = Mapping[str, Any]


def compress(options: Options, out: Output) -> int:
    """Make the variants of a recipe from a checkpoint, and measure them on the engine that nodes run."""
    from p2psync.compress import read_recipe

    recipe = read_recipe(options["recipe"])
    try:
        from p2psync.compress.build import Options as How
        from p2psync.compress.build import build
        from p2psync.engine.probe import record_at
    except ImportError as error:
        raise BackendUnavailableError(
            f"models are shrunk by torch, and it is not here: {error}", hint="pip install 'p2psync[compress]'"
        ) from error
    how = How(
        before=options["lineage"] or "",
        device=options["device"] or "cpu",
        judge=_judge(options["judge"]) if options["judge"] else None,
        engine=_engine,
        probe=record_at,
    )
    reports = build(options["src"], options["dst"], recipe, tell=out.note, options=how)
    rows = [
        {**asdict(report), "layers": [{"layer": layer, "error": error} for layer, error in report.layers]}
        for report in reports
    ]
    out.result({"path": options["dst"], "variants": rows}, text=describe.compressed(rows), ids=[options["dst"]])
    return 0


def _row(report: Report) -> dict[str, Any]:
    return {**asdict(report), "layers": [{"layer": layer, "error": error} for layer, error in report.layers]}


def gate(folder: Path) -> None:
    """Hold the quality reports in a folder that is to be published against their floors.

    Raises:
        QualityError: a variant is under one.
        MalformedError: a report cannot be read.
    """
    reported = [path.parent for path in sorted(folder.glob("*/quality.json"))]
    if not reported:
        return
    from p2psync.compress import gate as hold
    from p2psync.compress import read_report

    for directory in reported:
        report = read_report(str(directory))
        if report is not None:
            hold(report)


def _judge(text: str) -> Callable[..., bool]:
    """The function MODULE:FUNCTION, which says whether a clip shows its prompt."""
    module, colon, name = text.partition(":")
    try:
        found: Callable[..., bool] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"there is no judge {text!r}: {error}", hint="--judge MODULE:FUNCTION") from error
    if not colon or not callable(found):
        raise UsageError(f"{text!r} names no function", hint="--judge MODULE:FUNCTION")
    return found


def _engine(directory: str) -> Callable[[str, int], Any]:
    """Make clips as a node would, so that what is measured is what is delivered."""
    from p2psync.engine import open_pipeline

    pipeline = open_pipeline(directory)
    return lambda prompt, seed: pipeline.generate(prompt, seed=seed).astype("float32") / 255
