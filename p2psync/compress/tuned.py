"""What a fine-tune of pruned experts came to, in one file: kept indices, and what it added to the weights that stayed.

A fine-tune needs a GPU and never gives the same bits twice; its outcome is small. Large tensors are kept as whole
steps away from the checkpoint's own weights, of which the fine-tune moves most by little, and the rest as they are.
The file is XZ (LZMA2) around safetensors. Whoever has the checkpoint gets the same experts from it, on any machine.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from p2psync.compress.prune import Kept, pruned
from p2psync.errors import MalformedError, ModelNotFoundError, UnsupportedModelError

# Unpacked; a tensor is at most as long as the expert's own, and a forged file must not fill the memory.
_BYTES_MAX: Final = 1 << 32
# Codes of noise: no literal says anything about the next one, so LZMA is told to look at none.
_FILTERS: Final = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]
# Shorter tensors (biases, norms, tables) are under 1 % of the bytes, and the mean of what was cut is in them.
_CODED_MIN: Final = 4096
_KEPT: Final = "kept/"
_STEP: Final = "/step"


def write_tuned(
    path: str, whole: Mapping[str, Any], kept: Mapping[str, Kept], tuned: Mapping[str, Any], *, fineness: float = 32
) -> int:
    """Write what was learned.

    Args:
        path: The file.
        whole: The checkpoint's experts by name.
        kept: What pruning kept of each.
        tuned: The pruned experts after the fine-tune.
        fineness: Steps in the root mean square of a tensor's weights. INT8 has about 30.

    Returns:
        The file's length in bytes.
    """
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {}
    for expert, table in kept.items():
        for place, indices in table.items():
            tensors[f"{expert}/{_KEPT}{place}"] = np.array(indices, np.int32)
        base = _values(pruned(whole[expert], table, ()))
        for name, value in _values(tuned[expert]).items():
            tensors |= _coded(f"{expert}/{name}", value, base[name], fineness)
    packed = lzma.compress(save(tensors), format=lzma.FORMAT_XZ, filters=_FILTERS)
    with open(path, "wb") as file:
        return file.write(packed)


def read_tuned(path: str, whole: Mapping[str, Any]) -> tuple[dict[str, dict[str, list[int]]], dict[str, Any]]:
    """Read what ``write_tuned`` wrote.

    Args:
        path: The file.
        whole: The experts of the same checkpoint by name; not changed.

    Returns:
        Kept indices and pruned experts, each by name.

    Raises:
        ModelNotFoundError: there is no such file.
        MalformedError: it is no such file.
        UnsupportedModelError: it belongs to another checkpoint.
    """
    tensors = _unpack(path)
    kept: dict[str, dict[str, list[int]]] = {}
    experts: dict[str, Any] = {}
    for expert, module in whole.items():
        own = {name.removeprefix(f"{expert}/"): v for name, v in tensors.items() if name.startswith(f"{expert}/")}
        kept[expert] = {n.removeprefix(_KEPT): v.tolist() for n, v in own.items() if n.startswith(_KEPT)}
        experts[expert] = pruned(module, kept[expert], ())
        _fill(experts[expert], own, path)
    return kept, experts


def _coded(name: str, value: Tensor, base: Tensor, fineness: float) -> dict[str, NDArray[Any]]:
    if value.numel() < _CODED_MIN:
        return {name: value.numpy()}
    step = float(value.square().mean().sqrt()) / fineness or 1.0
    codes = torch.round((value - base) / step)
    if float(codes.abs().max()) > np.iinfo(np.int16).max:
        return {name: value.numpy()}
    small = float(codes.abs().max()) <= np.iinfo(np.int8).max
    return {
        name: codes.to(torch.int8 if small else torch.int16).numpy(),
        f"{name}{_STEP}": np.array([step], np.float32),
    }


def _fill(expert: nn.Module, own: Mapping[str, NDArray[Any]], path: str) -> None:
    parameters = dict(expert.named_parameters())
    for name in sorted(parameters.keys() ^ {n for n in own if not n.startswith(_KEPT) and not n.endswith(_STEP)}):
        raise UnsupportedModelError(f"{path} is not of this checkpoint: one of them has no {name}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            found = own[name]
            if found.shape != tuple(parameter.shape):
                raise UnsupportedModelError(f"{path} is not of this checkpoint: {name} has another shape")
            value = torch.from_numpy(found.astype(np.float32)).to(parameter)
            step = own.get(f"{name}{_STEP}")
            parameter.copy_(value if step is None else parameter + value * float(step[0]))


def _values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().float().cpu().contiguous() for name, value in module.named_parameters()}


def _unpack(path: str) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        with open(path, "rb") as file:
            data = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(file.read(), _BYTES_MAX)
        found: dict[str, NDArray[Any]] = load(data)
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            f"{path} is not there", hint="leave prune.tuned out of the recipe to learn anew"
        ) from (error)
    except (lzma.LZMAError, SafetensorError, OSError) as error:
        raise MalformedError(f"{path} holds no fine-tune: {error}") from error
    return found
