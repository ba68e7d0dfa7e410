"""The gate refuses what is under its floor, and says what, by how much and where to look."""

import dataclasses
import json

import pytest

from p2psync.compress import Report, gate, read_report
from p2psync.compress.quality import write_report
from p2psync.errors import MalformedError, ModelError, QualityError
from p2psync.limits import QUALITY_REPORT_BYTES_MAX

GOOD = Report(
    variant="int8",
    reference="fp16",
    clips=8,
    ssim=0.97,
    ssim_least=0.91,
    ssim_floor=0.85,
    accuracy=0.99,
    accuracy_floor=0.98,
    layers=tuple((f"high.blocks.{n}.ffn.net.2", 0.1 / (n + 1)) for n in range(8)),
)


def test_a_good_variant_passes():
    """At the floor is good enough, and a floor of zero asks for no judge."""
    gate(GOOD)
    gate(dataclasses.replace(GOOD, ssim=0.85, accuracy=0.98))
    gate(dataclasses.replace(GOOD, accuracy=None, accuracy_floor=0.0))


@pytest.mark.parametrize(
    ("changes", "measure", "value", "floor"),
    [
        ({"ssim": 0.8499}, "SSIM", 0.8499, 0.85),
        ({"accuracy": 0.979}, "accuracy", 0.979, 0.98),
        ({"ssim": 0.1, "accuracy": 0.1}, "SSIM", 0.1, 0.85),
    ],
)
def test_a_poor_variant_is_refused(changes, measure, value, floor):
    """The error has exit code 9 and names variant, measure, value, floor and the five worst layers."""
    with pytest.raises(QualityError) as caught:
        gate(dataclasses.replace(GOOD, **changes))
    error = caught.value
    assert isinstance(error, ModelError)
    assert error.exit_code == 9
    assert (error.measure, error.value, error.floor) == (measure, value, floor)
    assert error.worst == tuple(f"high.blocks.{n}.ffn.net.2" for n in range(5))
    for part in ("int8", measure, f"{value:.4f}", f"{floor:g}", "high.blocks.0.ffn.net.2"):
        assert part in error.message
    assert error.hint


def test_no_number_is_under_every_floor():
    """A clip of NaN has no similarity, and passes nowhere."""
    with pytest.raises(QualityError, match="nan"):
        gate(dataclasses.replace(GOOD, ssim=float("nan")))


def test_a_floor_that_nobody_measured_is_refused():
    """A declared accuracy without a judge is no accuracy."""
    with pytest.raises(QualityError, match="nobody judged"):
        gate(dataclasses.replace(GOOD, accuracy=None))


def test_reports_come_back(tmp_path):
    """A report is read as it was written; a directory without one has none."""
    assert read_report(str(tmp_path)) is None
    for report in (GOOD, dataclasses.replace(GOOD, accuracy=None, layers=())):
        write_report(str(tmp_path), report)
        assert read_report(str(tmp_path)) == report


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"format": 2}',
        b'{"format": 1}',
        json.dumps({"format": 1, **dataclasses.asdict(GOOD), "ssim": "1"}).encode(),
        json.dumps({"format": 1, **dataclasses.asdict(GOOD), "layers": [["a"]]}).encode(),
        json.dumps({"format": 1, **dataclasses.asdict(GOOD), "accuracy": True}).encode(),
        json.dumps({"format": 1, **{k: v for k, v in dataclasses.asdict(GOOD).items() if k != "accuracy"}}).encode(),
        b" " * (QUALITY_REPORT_BYTES_MAX + 1),
    ],
    ids=["empty", "list", "deep", "newer", "bare", "text", "pair", "truth", "missing", "long"],
)
def test_malformed_reports_are_refused(text, tmp_path):
    """A report is read within bounds, and a wrong type is an error of the bytes."""
    (tmp_path / "quality.json").write_bytes(text)
    with pytest.raises(MalformedError):
        read_report(str(tmp_path))
