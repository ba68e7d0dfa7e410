"""What a pipeline's own runs say about quantising it: input ranges, and how much each layer alone would cost.

Each expert sees only its own timesteps, because the pipeline calls it only there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from p2psync.compress.pipeline import experts
from p2psync.compress.quantize import Grid, Range, weight_codes
from p2psync.compress.recipe import Recipe, Sampling, Video

# Values of one call that stand for all where a percentile is asked for; sorting more takes longer than the call.
_SAMPLE_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an expert: latents (b, c, t, h, w), timestep (b,), text (b, s, d)."""

    latents: Tensor
    timestep: Tensor
    text: Tensor


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Of one expert: the range of each linear layer's input, and calls for judging layers by."""

    ranges: Mapping[str, Range]
    calls: Sequence[Call]


def generate(
    pipeline: Any, prompt: str, *, seed: int, sampling: Sampling, video: Video, steps: int = 0
) -> NDArray[np.float32]:
    """One clip of a ``WanPipeline``: (frames, height, width, 3), 0..1.

    The first noise comes from NumPy's frozen generator, so that any other implementation can start from the same.
    """
    result = sample(pipeline, [prompt], [seed], sampling=sampling, video=video, steps=steps, output="np")
    return np.asarray(result[0], dtype=np.float32)


def sample(  # noqa: PLR0913 - What a clip depends on.
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    sampling: Sampling,
    video: Video,
    steps: int = 0,
    output: str,
) -> Any:
    """Clips of several prompts at once: decoded (``np``), or the latents that the decoder would get (``latent``)."""
    shape = (
        pipeline.transformer.config.in_channels,
        (video.frames - 1) // pipeline.vae_scale_factor_temporal + 1,
        video.height // pipeline.vae_scale_factor_spatial,
        video.width // pipeline.vae_scale_factor_spatial,
    )
    draws = [np.random.RandomState(seed).standard_normal(shape) for seed in seeds]
    noise = torch.from_numpy(np.stack(draws).astype(np.float32)).to(pipeline.transformer.device)
    with torch.no_grad():
        result = pipeline(
            prompt=list(prompts),
            latents=noise,
            num_inference_steps=steps or sampling.steps,
            guidance_scale=sampling.guidance,
            max_sequence_length=sampling.max_sequence_length,
            height=video.height,
            width=video.width,
            num_frames=video.frames,
            output_type=output,
        )
    return result.frames


def calibrate(pipeline: Any, recipe: Recipe, *, calls_max: int = 4) -> dict[str, Calibrated]:
    """Run the recipe's prompts and watch the inputs of every linear layer of every expert.

    Args:
        pipeline: A ``WanPipeline``.
        recipe: Names prompts, steps and the percentile of values that a range covers.
        calls_max: Calls to keep of each expert, spread over the run.

    Returns:
        By name of the expert.
    """
    settings = recipe.calibration
    prompts = settings.prompts[: settings.clips_max]
    watchers = {name: _Watcher(module, settings.percentile) for name, module in experts(pipeline).items()}
    try:
        for number, prompt in enumerate(prompts):
            sample(
                pipeline,
                [prompt],
                [settings.seed + number],
                sampling=recipe.sampling,
                video=recipe.video,
                steps=settings.steps,
                output="latent",
            )
    finally:
        for watcher in watchers.values():
            watcher.close()
    return {name: watcher.result(calls_max) for name, watcher in watchers.items()}


class _Watcher:
    def __init__(self, module: nn.Module, percentile: float) -> None:
        self._share = percentile / 100
        self._low: dict[str, float] = {}
        self._high: dict[str, float] = {}
        self._calls: list[Call] = []
        self._handles = [module.register_forward_pre_hook(self._keep, with_kwargs=True)]
        for name, child in module.named_modules():
            if isinstance(child, nn.Linear):
                self._handles.append(child.register_forward_pre_hook(self._widen(name)))

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def result(self, calls_max: int) -> Calibrated:
        ranges = {name: Range(self._low[name], self._high[name]) for name in self._low}
        stride = max(1, len(self._calls) // calls_max)
        return Calibrated(ranges, self._calls[::stride][:calls_max])

    def _keep(self, _module: nn.Module, _args: Any, named: dict[str, Any]) -> None:
        values = (named[key] for key in ("hidden_states", "timestep", "encoder_hidden_states"))
        self._calls.append(Call(*(value.detach().clone() for value in values)))

    def _widen(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = _interval(inputs[0].detach().float(), self._share)
            self._low[name] = min(self._low.get(name, 0.0), low)
            self._high[name] = max(self._high.get(name, 0.0), high)

        return hook


def _interval(values: Tensor, share: float) -> tuple[float, float]:
    if share >= 1:
        return float(values.amin()), float(values.amax())
    flat = values.flatten()
    sample = flat[:: max(1, flat.numel() // _SAMPLE_MAX)]
    bounds = torch.quantile(sample, torch.tensor([1 - share, share], device=sample.device))
    return float(bounds[0]), float(bounds[1])


class _QuantizedLinear(nn.Module):
    """A linear layer as the INT8 graph computes it, in float32: rounded input, rounded weight."""

    def __init__(self, linear: nn.Linear, interval: Range, scales: NDArray[np.float32]) -> None:
        super().__init__()
        weight = linear.weight.detach().float().cpu().numpy()
        rounded = weight_codes(weight, scales, axis=0).astype(np.float32) * scales[:, None]
        self.register_buffer("weight", torch.from_numpy(rounded).to(linear.weight.device), persistent=False)
        self.bias, self.in_features, self.out_features = linear.bias, linear.in_features, linear.out_features
        scale, zero = interval.unsigned()
        self._scale, self._zero = float(scale), int(zero)

    def forward(self, hidden: Tensor) -> Tensor:
        codes = torch.clamp(torch.round(hidden / self._scale) + self._zero, 0, 255)
        return nn.functional.linear((codes - self._zero) * self._scale, self.weight, self.bias)


@contextmanager
def as_quantized(module: nn.Module, layers: Collection[str], grid: Grid) -> Iterator[None]:
    """Let ``module`` compute ``layers`` as their INT8 graph does, while the context lasts."""
    plain = {layer: module.get_submodule(layer) for layer in layers}
    try:
        for layer, linear in plain.items():
            module.set_submodule(layer, _QuantizedLinear(linear, grid.ranges[layer], grid.scales[layer]))
        yield
    finally:
        for layer, linear in plain.items():
            module.set_submodule(layer, linear)


def layer_errors(module: nn.Module, calls: Sequence[Call], layers: Sequence[str], grid: Grid) -> dict[str, float]:
    """How far each layer, quantised alone, moves the expert's answer: |difference| over |answer|, root mean square.

    Returns:
        By layer, the worst first.
    """
    with torch.no_grad():
        answers = [_answer(module, call) for call in calls]
        errors = {}
        for layer in layers:
            with as_quantized(module, [layer], grid):
                moved = [
                    float((_answer(module, call) - right).norm() / right.norm())
                    for call, right in zip(calls, answers, strict=True)
                ]
            errors[layer] = sum(moved) / len(moved)
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def _answer(module: nn.Module, call: Call) -> Tensor:
    return module(call.latents, call.timestep, call.text, return_dict=False)[0]
