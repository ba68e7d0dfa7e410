"""A diffusers Wan pipeline as the graphs of an engine: which module becomes which part, which axes vary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from p2psync.compress.graphs import DecodeFirst, DecodeNext, ExpertGraph, TextGraph, cache_slots, prepared
from p2psync.compress.trace import Graph, trace
from p2psync.errors import MalformedError, ModelNotFoundError, UnsupportedModelError

_PIPELINES: Final = ("WanPipeline",)
_FRAME: Final = {0: "batch", 3: "height", 4: "width"}


def open_pipeline(directory: str, *, dtype: torch.dtype = torch.float32) -> Any:
    """Load a directory that ``WanPipeline.save_pretrained`` wrote, in one or several shards per part.

    Returns:
        A ``diffusers.WanPipeline`` in evaluation mode on the CPU. ``transformer`` is the expert for high noise,
        ``transformer_2`` the one for low noise; a pipeline with one expert has only the first.

    Raises:
        ModelNotFoundError: there is no ``model_index.json``.
        UnsupportedModelError: another kind of pipeline, or parts that diffusers cannot load.
        MalformedError: the index is no JSON object.
    """
    index = _read_index(directory)
    kind = index.get("_class_name")
    if kind not in _PIPELINES:
        raise UnsupportedModelError(
            f"{directory} is a {kind}; {', '.join(_PIPELINES)} can be exported",
            hint="publish the directory as it is: p2psync publish DIR REF --key NAME",
        )
    from diffusers import WanPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    try:
        pipeline = WanPipeline.from_pretrained(directory, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UnsupportedModelError(f"{directory} cannot be loaded: {str(error)[:300]}") from error
    for part in experts(pipeline).values():
        part.eval()
    pipeline.text_encoder.eval()
    pipeline.vae.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def experts(pipeline: Any) -> dict[str, nn.Module]:
    """The transformers of a pipeline by the name of their part: ``high`` and ``low``, or ``high`` alone."""
    found = {"high": pipeline.transformer, "low": getattr(pipeline, "transformer_2", None)}
    return {name: module for name, module in found.items() if module is not None}


def with_experts(pipeline: Any, modules: Mapping[str, nn.Module]) -> Any:
    """The same pipeline around other experts; text encoder, decoder and tokenizer are shared."""
    parts = {**pipeline.components, "transformer": modules["high"], "transformer_2": modules.get("low")}
    # Without a second expert there is no boundary, or diffusers would look for one behind it.
    boundary = pipeline.config.boundary_ratio if "low" in modules else None
    fresh = type(pipeline)(**parts, boundary_ratio=boundary)
    fresh.set_progress_bar_config(disable=True)
    return fresh


def trace_text(encoder: Any) -> Graph:
    """ids, mask (batch, tokens) int64 to hidden (batch, tokens, width)."""
    axes = {0: "batch", 1: "tokens"}
    ids = torch.ones(2, 9, dtype=torch.int64)
    return trace(
        TextGraph(prepared(encoder)),
        (ids, torch.ones_like(ids)),
        axes={"input_ids": axes, "mask": axes},
        inputs=("input_ids", "mask"),
        outputs=("hidden",),
    )


def trace_experts(pipeline: Any) -> tuple[Graph, Graph]:
    """The graphs for high and for low noise."""
    modules = experts(pipeline)
    high = trace_expert(modules["high"])
    if "low" not in modules:
        return high, high
    if dict(modules["low"].config) == dict(modules["high"].config) and _shapes(modules["low"]) == _shapes(
        modules["high"]
    ):
        return high, high.with_weights_of(ExpertGraph(prepared(modules["low"])))
    return high, trace_expert(modules["low"])


def trace_expert(transformer: Any) -> Graph:
    """Latents (batch, channels, frames, height, width), timestep (batch,), text (batch, tokens, width) to velocity."""
    config = transformer.config
    latents = torch.zeros(2, config.in_channels, 3, 4 * config.patch_size[1], 6 * config.patch_size[2])
    return trace(
        ExpertGraph(prepared(transformer)),
        (latents, torch.ones(2), torch.zeros(2, 8, config.text_dim)),
        axes={"latents": {**_FRAME, 2: "frames"}, "timestep": {0: "batch"}, "text": {0: "batch", 1: "tokens"}},
        inputs=("latents", "timestep", "text"),
        outputs=("velocity",),
    )


def trace_decoder(vae: Any) -> tuple[Graph, Graph]:
    """The graphs for the first latent frame and for each later one; see ``DecodeFirst``."""
    slots = cache_slots(vae)
    model = prepared(vae)
    latents = torch.zeros(2, vae.config.z_dim, 1, 4, 6)
    fresh = [f"next_{slot}" for slot in range(slots)]
    start = DecodeFirst(model, slots)
    with torch.no_grad():
        _, *caches = start(latents)
    first = trace(start, (latents,), axes={"latents": _FRAME}, inputs=("latents",), outputs=("frames", *fresh))
    following = trace(
        DecodeNext(model),
        (latents, caches),
        axes={"latents": _FRAME, "caches": [_cache_axes(slot) for slot in range(slots)]},
        inputs=("latents", *(f"cache_{slot}" for slot in range(slots))),
        outputs=("frames", *fresh),
    )
    return first, following


def _cache_axes(slot: int) -> dict[int, str]:
    """Caches stand at several resolutions; one name for different lengths would let a runtime reuse buffers wrongly."""
    return {0: "batch", 3: f"height_{slot}", 4: f"width_{slot}"}


def _shapes(module: nn.Module) -> Mapping[str, torch.Size]:
    return {name: value.shape for name, value in module.named_parameters()}


def _read_index(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, "model_index.json")
    try:
        with open(path, "rb") as file:
            index = json.loads(file.read(1 << 20))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{directory} holds no pipeline: there is no model_index.json") from error
    except ValueError as error:
        raise MalformedError(f"{path} is no JSON: {error}") from error
    if not isinstance(index, dict):
        raise MalformedError(f"{path} is no JSON object")
    return index
