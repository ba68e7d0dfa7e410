"""A transformer of 43 million random weights through p2psync's own export: FP32, INT8 and pruned INT8, with torch.

usage: PYTHONPATH=.:tools python3 -m benchmarks.engine_dit OUT

It is Wan2.2's denoiser at another size: the same classes, blocks and text attention. A random one is as fast as a
trained one; only its accuracy says nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch  # noqa: TID253 - A program of its own.
from diffusers import WanTransformer3DModel
from torch import Tensor, nn  # noqa: TID253 - As above.

from p2psync.compress import forms, parts, prune
from p2psync.compress.calibrate import Call
from p2psync.compress.learn import chosen_layers
from p2psync.compress.pipeline import trace_expert
from p2psync.compress.quantize import Range, grid_of, layers_of, quantized
from p2psync.compress.recipe import Pruning, VariantRecipe
from p2psync.compress.trace import Graph

_SEED: Final = 7
_LATENTS: Final = (1, 16, 1, 32, 32)  # 256 tokens, as patches are 2 x 2.
_TEXT: Final = (1, 32, 256)
_CALLS: Final = 4


def transformer() -> Any:
    """10 blocks of width 512, 8 heads, FFN of 4 times the width."""
    torch.manual_seed(_SEED)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=8,
        attention_head_dim=64,
        in_channels=16,
        out_channels=16,
        text_dim=_TEXT[2],
        freq_dim=256,
        ffn_dim=2048,
        num_layers=10,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    ).eval()


def calls() -> list[Call]:
    """What the calibration asks: noise at several timesteps, seeded."""
    draws = torch.Generator().manual_seed(_SEED)
    times = torch.linspace(100, 900, _CALLS)
    return [
        Call(torch.randn(_LATENTS, generator=draws), time.reshape(1), torch.randn(_TEXT, generator=draws))
        for time in times
    ]


def ranges(module: nn.Module, asked: Sequence[Call]) -> dict[str, Range]:
    """The interval of each linear layer's inputs over the calls."""
    found: dict[str, Range] = {}

    def widening(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            known = found.get(name, Range(0.0, 0.0))
            low, high = (float(bound) for bound in torch.aminmax(inputs[0]))
            found[name] = Range(min(known.low, low), max(known.high, high))

        return hook

    linears = [(name, child) for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    handles = [child.register_forward_pre_hook(widening(name)) for name, child in linears]
    with torch.no_grad():
        for call in asked:
            module(call.latents, call.timestep, call.text, return_dict=False)
    for handle in handles:
        handle.remove()
    return found


def int8(graph: Graph, seen: Mapping[str, Range], variant: VariantRecipe) -> Graph:
    """The graph of ``ort-cpu``, as a build writes it: what is not INT8 is stored as float16."""
    plain = forms.portable(graph)
    layers = chosen_layers(layers_of(plain), variant)
    grid = grid_of(plain, layers, seen)
    return forms.store_half(quantized(forms.fused(graph), layers, grid, signed=False))


def main(out: Path) -> dict[str, Any]:
    """Write one directory per form. Returns parameters of the whole and of the pruned one."""
    whole, asked = transformer(), calls()
    small = prune.pruned(whole, prune.choose(whole, asked, Pruning()), asked)
    every = VariantRecipe("int8", "int8", keep_first=0, keep_last=0)
    graph, seen = trace_expert(whole), ranges(whole, asked)
    graphs = {
        "fp32": forms.fused(graph),
        "int8": int8(graph, seen, every),
        "int8-ends-precise": int8(graph, seen, VariantRecipe("int8", "int8")),
        "int8-pruned": int8(trace_expert(small), ranges(small, asked), every),
    }
    for name, graph in graphs.items():
        (out / name).mkdir(parents=True)
        parts.write_part(str(out / name), "weights.safetensors", {"model.onnx": graph})
    return {name: _count(module) for name, module in (("parameters", whole), ("pruned_parameters", small))} | {
        "torch": torch.__version__
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
