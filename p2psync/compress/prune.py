"""Structured pruning of an expert: whole FFN channels and whole attention heads go, shapes really shrink.

What a channel or a head adds to the residual stream is its importance: the energy of its activations on the
pipeline's own calls, through the columns of the output projection that read it (the magnitude of weight and activation
together, as in Wanda, Sun et al. 2023, https://arxiv.org/abs/2306.11695, for whole columns). The mean of what goes is
added to the output bias, so only its variation is lost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from p2psync.compress.calibrate import Call
from p2psync.compress.recipe import Pruning
from p2psync.errors import InvalidConfigError, UnsupportedModelError

# Kernels work on 16 INT8 values at a time; a width between would save nothing.
_CHANNELS_STEP: Final = 16
_ATTENTIONS: Final = ("attn1", "attn2")

Kept = Mapping[str, Sequence[int]]


@dataclass(slots=True)
class _Seen:
    """Sums over tokens of one projection's input: (in,) first and second moment, and their number."""

    total: Tensor
    squares: Tensor
    count: int = 0


def choose(expert: Any, calls: Sequence[Call], recipe: Pruning) -> dict[str, list[int]]:
    """Which FFN channels and heads of each block to keep, ascending.

    Args:
        expert: A ``WanTransformer3DModel``.
        calls: What it is asked.
        recipe: Shares to remove, and the bound on parameters.

    Returns:
        ``blocks.N.ffn`` to channels, ``blocks.N.attn1`` and ``blocks.N.attn2`` to heads.

    Raises:
        InvalidConfigError: more parameters would go than ``recipe.parameters_max``.
    """
    seen = _watch(expert, calls)
    kept: dict[str, list[int]] = {}
    for number, block in enumerate(expert.blocks):
        for place in _ATTENTIONS:
            name, attention = f"blocks.{number}.{place}", getattr(block, place)
            energy = _energy(attention.to_out[0], seen[name]).unflatten(0, (attention.heads, -1)).sum(1)
            kept[name] = _best(energy, max(1, round(attention.heads * (1 - recipe.heads))))
        name, out = f"blocks.{number}.ffn", block.ffn.net[2]
        width = round(out.in_features * (1 - recipe.ffn) / _CHANNELS_STEP) * _CHANNELS_STEP
        kept[name] = _best(_energy(out, seen[name]), min(out.in_features, max(_CHANNELS_STEP, width)))
    removed = 1 - _count(pruned(expert, kept, calls)) / _count(expert)
    if removed > recipe.parameters_max:
        raise InvalidConfigError(
            f"pruning would remove {removed:.1%} of an expert's parameters; at most {recipe.parameters_max:.0%} may go",
            hint="lower prune.ffn or prune.heads",
        )
    return kept


def pruned(expert: Any, kept: Kept, calls: Sequence[Call]) -> Any:
    """A smaller copy of ``expert`` with only the channels and heads of ``kept``.

    Args:
        expert: A ``WanTransformer3DModel``; not changed.
        kept: As ``choose`` returns it, of this version or, frozen, of the one before.
        calls: Show the mean of what goes.

    Raises:
        UnsupportedModelError: ``kept`` does not fit the expert.
    """
    seen = _watch(expert, calls)
    small = copy.deepcopy(expert)
    for number, block in enumerate(small.blocks):
        for place in _ATTENTIONS:
            name, attention = f"blocks.{number}.{place}", getattr(block, place)
            heads = _checked(kept, name, attention.heads)
            width = attention.to_q.out_features // attention.heads
            channels = (heads[:, None] * width + torch.arange(width)).flatten()
            _cut_attention(attention, channels, len(heads), seen[name])
        name = f"blocks.{number}.ffn"
        inner, outer = block.ffn.net[0].proj, block.ffn.net[2]
        channels = _checked(kept, name, outer.in_features)
        block.ffn.net[0].proj = _rows(inner, channels)
        block.ffn.net[2] = _columns(outer, channels, seen[name])
    return small


def _cut_attention(attention: Any, channels: Tensor, heads: int, seen: _Seen) -> None:
    for place in ("to_q", "to_k", "to_v"):
        setattr(attention, place, _rows(getattr(attention, place), channels))
    for place in ("norm_q", "norm_k"):
        norm = getattr(attention, place)
        fresh = nn.RMSNorm(len(channels), eps=norm.eps).to(norm.weight)
        fresh.weight.data.copy_(norm.weight.detach()[channels])
        setattr(attention, place, fresh)
    attention.to_out[0] = _columns(attention.to_out[0], channels, seen)
    attention.heads = heads
    attention.inner_dim = attention.kv_inner_dim = len(channels)


def _rows(linear: nn.Linear, channels: Tensor) -> nn.Linear:
    fresh = nn.Linear(linear.in_features, len(channels)).to(linear.weight)
    fresh.weight.data.copy_(linear.weight.detach()[channels])
    fresh.bias.data.copy_(linear.bias.detach()[channels])
    return fresh


def _columns(linear: nn.Linear, channels: Tensor, seen: _Seen) -> nn.Linear:
    fresh = nn.Linear(len(channels), linear.out_features).to(linear.weight)
    gone = torch.ones(linear.in_features, dtype=torch.bool)
    gone[channels] = False
    weight, mean = linear.weight.detach(), (seen.total / max(1, seen.count)).to(linear.weight)
    fresh.weight.data.copy_(weight[:, channels])
    fresh.bias.data.copy_(linear.bias.detach() + weight[:, gone] @ mean[gone])
    return fresh


def _watch(expert: Any, calls: Sequence[Call]) -> dict[str, _Seen]:
    """Moments of the inputs of every output projection, on ``calls``."""
    seen: dict[str, _Seen] = {}
    handles = []
    for number, block in enumerate(expert.blocks):
        outputs = {f"blocks.{number}.{place}": getattr(block, place).to_out[0] for place in _ATTENTIONS}
        outputs[f"blocks.{number}.ffn"] = block.ffn.net[2]
        for name, linear in outputs.items():
            zeros = torch.zeros(linear.in_features, device=linear.weight.device)
            seen[name] = _Seen(zeros, zeros.clone())
            handles.append(linear.register_forward_pre_hook(_summing(seen[name])))
    try:
        with torch.no_grad():
            for call in calls:
                expert(call.latents, call.timestep, call.text, return_dict=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _summing(seen: _Seen) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tokens = inputs[0].detach().float().flatten(0, -2)
        seen.total += tokens.sum(0)
        seen.squares += tokens.square().sum(0)
        seen.count += len(tokens)

    return hook


def _energy(linear: nn.Linear, seen: _Seen) -> Tensor:
    """(in,): variance of each input channel times the squared length of the column that reads it."""
    mean = seen.total / max(1, seen.count)
    variance = seen.squares / max(1, seen.count) - mean.square()
    return variance.clamp_min(0) * linear.weight.detach().float().square().sum(0)


def _best(energy: Tensor, count: int) -> list[int]:
    return sorted(energy.topk(count).indices.tolist())


def _checked(kept: Kept, name: str, limit: int) -> Tensor:
    indices = list(kept.get(name, ()))
    if not indices or indices != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= limit:
        raise UnsupportedModelError(f"the kept indices of {name} do not fit a width of {limit}")
    return torch.tensor(indices)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
