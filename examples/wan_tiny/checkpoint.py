"""Keep weights between runs: in parts small enough to carry anywhere, with a note of how far each phase has come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

PART_BYTES_MAX = 15 << 20
_NOTE = "progress.json"


def save(folder: Path, modules: dict[str, Any], progress: dict[str, Any]) -> None:
    """Write the modules' weights as FP32 into ``weights-NN.safetensors``, and the progress beside them.

    The optimizer's memory is not kept: a resumed phase warms up again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("weights-*.safetensors"):
        old.unlink()
    tensors = {
        f"{name}/{key}": value.detach().float().cpu().contiguous().clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    parts: list[dict[str, Any]] = [{}]
    room = PART_BYTES_MAX
    for key, value in tensors.items():
        if value.nbytes > room and parts[-1]:
            parts.append({})
            room = PART_BYTES_MAX
        parts[-1][key] = value
        room -= value.nbytes
    for number, part in enumerate(parts):
        save_file(part, folder / f"weights-{number:02}.safetensors")
    (folder / _NOTE).write_text(json.dumps(progress, indent=1) + "\n")


def progress(folder: Path) -> dict[str, Any]:
    """Return how far the run in ``folder`` has come, nothing if there is none."""
    note = folder / _NOTE
    read: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {}
    return read


def load(folder: Path, modules: dict[str, Any]) -> list[str]:
    """Set the weights of those modules that ``folder`` has, and return their names."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("weights-*.safetensors")):
        with safe_open(path, framework="pt") as part:
            for key in part.keys():  # noqa: SIM118 - not a mapping
                name, tensor = key.split("/", 1)
                found.setdefault(name, {})[tensor] = part.get_tensor(key)
    for name, state in found.items():
        if name in modules:
            modules[name].load_state_dict(state)
    return [name for name in found if name in modules]
