"""The quality report of a variant, and the gate that it must pass. Read without torch and NumPy."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from p2psync import disk
from p2psync.errors import MalformedError, QualityError
from p2psync.limits import QUALITY_REPORT_BYTES_MAX, WORST_LAYERS

FILE_NAME: Final = "quality.json"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured of a variant, and what it had to reach.

    ``ssim`` is the mean over ``clips`` of equal prompt and seed against ``reference``, ``ssim_least`` the lowest of
    them. ``accuracy`` is the share of clips that show what was asked, of 1, and None where nobody judged. ``layers``
    are (layer, error) pairs, worst first: how far the layer, changed alone, moves its expert's answer.
    """

    variant: str
    reference: str
    clips: int
    ssim: float
    ssim_least: float
    ssim_floor: float
    accuracy: float | None
    accuracy_floor: float
    layers: tuple[tuple[str, float], ...]


def gate(report: Report) -> None:
    """Refuse a variant that is under a floor.

    Raises:
        QualityError: names the measure, its value, the floor and the worst layers.
    """
    _at_least(report, "SSIM", report.ssim, report.ssim_floor)
    if report.accuracy is not None:
        _at_least(report, "accuracy", report.accuracy, report.accuracy_floor)
    elif report.accuracy_floor > 0:
        raise QualityError(
            f"variant {report.variant} declares an accuracy of at least {report.accuracy_floor:g} and nobody judged it",
            measure="accuracy",
            value=math.nan,
            floor=report.accuracy_floor,
            hint="name a judge, or take the floor out of the recipe",
        )


def _at_least(report: Report, measure: str, value: float, floor: float) -> None:
    # A NaN is not under any floor, so the question is whether it is at least the floor.
    if value >= floor:
        return
    worst = tuple(layer for layer, _ in report.layers[:WORST_LAYERS])
    named = f"; worst layers: {', '.join(worst)}" if worst else ""
    against = f" against {report.reference}" if measure == "SSIM" else ""
    raise QualityError(
        f"variant {report.variant} has {measure} {value:.4f}{against}, under its floor of {floor:g}{named}",
        measure=measure,
        value=value,
        floor=floor,
        worst=worst,
        hint="keep more layers precise (variants.NAME.keep), calibrate on more prompts, or prune less",
    )


def write_report(directory: str, report: Report) -> None:
    """Write ``quality.json`` into a variant's directory."""
    text = json.dumps({"format": FORMAT, **asdict(report)}, indent=1, ensure_ascii=False)
    disk.write_durably(Path(directory, FILE_NAME), f"{text}\n".encode())


def read_report(directory: str) -> Report | None:
    """Read the ``quality.json`` of a variant's directory; None where there is none.

    Raises:
        MalformedError: it does not follow the format.
    """
    path = Path(directory) / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(QUALITY_REPORT_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    if len(data) > QUALITY_REPORT_BYTES_MAX:
        raise MalformedError(f"{path} is longer than {QUALITY_REPORT_BYTES_MAX} bytes")
    try:
        top = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{path} is no JSON") from error
    if not isinstance(top, dict) or top.get("format") != FORMAT:
        raise MalformedError(f"{path} is no quality report of format {FORMAT}")
    return _report(top, str(path))


def _report(top: dict[str, Any], path: str) -> Report:
    layers = top.get("layers")
    sound = (
        all(isinstance(top.get(key), str) for key in ("variant", "reference"))
        and type(top.get("clips")) is int
        and all(_is_number(top.get(key)) for key in ("ssim", "ssim_least", "ssim_floor", "accuracy_floor"))
        and "accuracy" in top
        and (top["accuracy"] is None or _is_number(top["accuracy"]))
        and isinstance(layers, list)
        and all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) and _is_number(p[1]) for p in layers)
    )
    if not sound or not isinstance(layers, list):
        raise MalformedError(f"{path} is no quality report: a value is missing or of the wrong type")
    fields = {key: top[key] for key in Report.__dataclass_fields__ if key != "layers"}
    return Report(**fields, layers=tuple((name, float(error)) for name, error in layers))


def _is_number(value: Any) -> bool:
    return type(value) in {int, float}
