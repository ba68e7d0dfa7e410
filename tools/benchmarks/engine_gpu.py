"""What a GPU makes of transformer blocks: our graph for ort-cuda, the naive one, torch, and INT8 through torch.

usage: PYTHONPATH=.:tools python3 -m benchmarks.engine_gpu OUT.json [--small]

It stands apart from tools/bench.py, because the GPU is mostly another machine's: it needs torch, onnxscript and
onnxruntime-gpu, and writes a group that ``engine.gpu`` takes over into benchmarks/engine.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch  # noqa: TID253 - A program of its own; and before onnxruntime, which takes its CUDA libraries.
from torch import Tensor, nn  # noqa: TID253 - As above.
from torch.nn import functional  # noqa: TID253 - As above.

_WARM, _ROUNDS, _CALLS = 10, 7, 20
_TOKENS: Final = 4096


class Blocks(nn.Module):  # type: ignore[misc]
    """Transformer blocks as a DiT has them: norm, attention, norm, FFN of four times the width."""

    def __init__(self, count: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width, elementwise_affine=False),
                    "norm2": nn.LayerNorm(width, elementwise_affine=False),
                    **{name: nn.Linear(width, width) for name in ("q", "k", "v", "out")},
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(count)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(1, tokens, width) to the same."""
        for layer in self.layers:
            seen = layer["norm1"](hidden)
            hidden = hidden + layer["out"](self.attend(*(layer[name](seen) for name in "qkv")))
            hidden = hidden + layer["down"](functional.gelu(layer["up"](layer["norm2"](hidden)), approximate="tanh"))
        return hidden

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of (1, tokens, width) with torch's own kernel."""
        split = [x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (query, key, value)]
        return functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class Int8Linear(nn.Module):  # type: ignore[misc]
    """A linear layer in INT8: one scale per output channel and per token, as ``torch._int_mm`` multiplies."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True) / 127
        # (out, in) row by row, handed over transposed: the other layout is several times slower.
        self.register_buffer("codes", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = linear.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """(1, tokens, in) to (1, tokens, out)."""
        flat = hidden.flatten(0, 1).float()
        step = flat.abs().amax(1, keepdim=True) / 127
        codes = (flat / step).round().to(torch.int8)
        # The compiler fuses what is around the product, so float32 in between costs no memory traffic.
        product = torch._int_mm(codes, self.codes.t()).float()  # noqa: SLF001 - It has no public name.
        product = product * step * self.scale + self.bias.float()
        return product.to(hidden.dtype).unsqueeze(0)


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--small", action="store_true", help="tiny, and on the CPU where there is no GPU: shows that it runs"
    )
    arguments = parser.parse_args()
    report: dict[str, Any] = {"card": _card(), "torch": torch.__version__, "rows": []}
    for group in (_width_1536, _width_5120):
        try:
            report["rows"] += group(small=arguments.small)
        except Exception as error:  # noqa: BLE001 - One group that fails must not cost the other's figures.
            report["rows"].append({"what": group.__name__, "error": f"{type(error).__name__}: {str(error)[:400]}"})
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0


def _card() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except OSError:
        return "none"


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _milliseconds(call: Callable[[], object]) -> dict[str, float]:
    """Median and spread of rounds of several calls, each round waited for."""
    few = _device() == "cpu"
    for _ in range(1 if few else _WARM):
        call()
    rounds = [_round(call, 1 if few else _CALLS) for _ in range(2 if few else _ROUNDS)]
    return {
        "median_ms": round(statistics.median(rounds), 3),
        "least_ms": round(min(rounds), 3),
        "most_ms": round(max(rounds), 3),
    }


def _round(call: Callable[[], object], calls: int) -> float:
    if _device() == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    if _device() == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls * 1000


def _width_1536(*, small: bool) -> list[dict[str, Any]]:
    width, heads, tokens = (64, 2, 128) if small else (1536, 12, _TOKENS)
    torch.manual_seed(0)
    blocks = Blocks(4, width, heads).eval().requires_grad_(requires_grad=False)
    what = f"4 blocks, d={width}, {heads} heads, {tokens} tokens"
    rows = []
    hidden = torch.randn(1, tokens, width)
    with torch.no_grad():
        right = blocks(hidden)
    with tempfile.TemporaryDirectory() as folder:
        for label, file in _skeletons(blocks, hidden, Path(folder)).items():
            rows.append({"what": what, "way": f"ort-cuda FP16, {label}", **_ort(file, hidden, right)})
    fast = blocks.to(_device(), torch.float16 if _device() == "cuda" else torch.float32)
    example = hidden.to(_device(), next(fast.parameters()).dtype)
    with torch.no_grad():
        rows.append({"what": what, "way": "torch FP16", **_milliseconds(lambda: fast(example))})
    return rows


def _skeletons(blocks: Blocks, hidden: Tensor, folder: Path) -> dict[str, Path]:
    """Our graph for ort-cuda and the one that an export without it would be, over one weights file."""
    from p2psync.compress import forms, graphs, half, parts, trace

    class Traced(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = graphs.prepared(blocks)
            self.model.attend = lambda query, key, value: graphs.attention(query, key, value, blocks.heads)

        def forward(self, hidden: Tensor) -> Tensor:
            return self.model(hidden)

    graph = trace.trace(Traced(), (hidden,), axes={"hidden": {}}, inputs=("hidden",), outputs=("result",))
    made = {"one.onnx": half.half(forms.fused(graph)), "naive.onnx": half.half(forms.portable(graph))}
    parts.write_part(str(folder), "blocks.safetensors", made)
    return {"attention as one node": folder / "one.onnx", "attention written out": folder / "naive.onnx"}


def _ort(file: Path, hidden: Tensor, right: Tensor) -> dict[str, Any]:
    """Time a graph with its input and output on the device, as steps of the pipeline are."""
    import onnxruntime

    from p2psync.engine import backends

    name = "ort-cuda" if _device() == "cuda" else "ort-cpu"
    session: Any = backends.backend(name).open(file, packed=True)
    found = torch.from_numpy(session.run({"hidden": hidden.numpy()})[0])
    inner = session._session  # noqa: SLF001 - What a step costs without the copies in and out.
    binding = inner.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(hidden.numpy(), "cuda" if name == "ort-cuda" else "cpu", 0)
    binding.bind_ortvalue_input("hidden", value)
    binding.bind_output("result", "cuda" if name == "ort-cuda" else "cpu")

    def call() -> None:
        inner.run_with_iobinding(binding)
        binding.synchronize_outputs()

    error = float((found - right).norm() / right.norm())
    timed = _milliseconds(call)
    return {
        **timed,
        "error": round(error, 6),
        "providers": list(session.providers),
        "onnxruntime": onnxruntime.__version__,
    }


def _width_5120(*, small: bool) -> list[dict[str, Any]]:
    width, heads, tokens = (64, 2, 128) if small else (5120, 40, _TOKENS)
    torch.manual_seed(0)
    blocks = Blocks(2, width, heads).eval().requires_grad_(requires_grad=False).to(_device(), torch.bfloat16)
    hidden = torch.randn(1, tokens, width, device=_device(), dtype=torch.bfloat16)
    what = f"2 blocks, d={width}, {heads} heads, {tokens} tokens"
    mode = {} if small else {"mode": "max-autotune-no-cudagraphs"}
    rows = []
    with torch.no_grad():
        plain = torch.compile(blocks, **mode) if not small else blocks
        right = plain(hidden).float()
        rows.append({"what": what, "way": "torch BF16, compiled", **_milliseconds(lambda: plain(hidden))})
        for layer in blocks.layers:
            for name in ("q", "k", "v", "out", "up", "down"):
                layer[name] = Int8Linear(layer[name])
        torch.compiler.reset()
        coded = torch.compile(blocks, **mode) if not small else blocks
        error = float((coded(hidden).float() - right).norm() / right.norm())
        rows.append(
            {
                "what": what,
                "way": "torch INT8, compiled",
                **_milliseconds(lambda: coded(hidden)),
                "error": round(error, 5),
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
