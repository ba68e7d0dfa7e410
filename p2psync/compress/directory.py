"""The engine directory of a variant: its parts, what it shares with its siblings, and ``engine.json`` over both.

``DST/VARIANT/`` holds what only this variant has, ``DST/shared/`` what several have, ``DST/tokenizer/`` the tokenizer.
A skeleton and its weights always stand in one directory, since a runtime refuses data outside the model's own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from p2psync import disk
from p2psync.compress.parts import Written
from p2psync.compress.pipeline import experts
from p2psync.compress.recipe import Recipe, VariantRecipe
from p2psync.compress.trace import Port
from p2psync.errors import UnsupportedModelError

FORMAT: Final = 1
PROBE_NAME: Final = "probe.json"
_DTYPES: Final = {"float": "float32", "float16": "float16", "int64": "int64"}
_SCHEDULERS: Final = {"UniPCMultistepScheduler": "unipc"}


@dataclass(frozen=True, slots=True)
class Part:
    """One entry of ``parts``: the portable skeleton, others by backend, the folder beside the variant's or none."""

    folder: str
    portable: Written
    others: Mapping[str, Written]

    def entry(self) -> dict[str, Any]:
        """As ``engine.json`` says it."""
        fields: dict[str, Any] = {
            "skeleton": self._path(self.portable.skeleton),
            "skeleton_digest": str(self.portable.skeleton_digest),
            "weights": self._path(self.portable.weights),
            "weights_digest": str(self.portable.weights_digest),
            "inputs": [_port(port) for port in self.portable.inputs],
            "outputs": [_port(port) for port in self.portable.outputs],
        }
        if self.others:
            fields["skeletons"] = {backend: self._path(other.skeleton) for backend, other in self.others.items()}
            fields["skeleton_digests"] = {backend: str(other.skeleton_digest) for backend, other in self.others.items()}
        return fields

    def _path(self, name: str) -> str:
        return f"../{self.folder}/{name}" if self.folder else name


def write_description(
    directory: str, pipeline: Any, recipe: Recipe, variant: VariantRecipe, parts: Mapping[str, Part]
) -> None:
    """Write ``engine.json`` of a variant.

    Args:
        directory: The variant's directory.
        pipeline: The ``WanPipeline`` whose graphs ``parts`` are.
        recipe: What it is made by.
        variant: Which of its variants.
        parts: By name: ``text``, ``high``, ``low``, ``decode_first``, ``decode_next``.

    Raises:
        UnsupportedModelError: the pipeline samples in a way that an engine does not know.
    """
    described = {
        "format": FORMAT,
        "pipeline": "wan",
        "name": recipe.name,
        "precision": variant.precision,
        "recipe": str(recipe.digest),
        "parts": {name: part.entry() for name, part in parts.items()},
        "sampling": _sampling(pipeline, recipe),
        "video": _video(pipeline, recipe),
        "latent": _latent(pipeline.vae),
        "tokenizer": "../tokenizer/tokenizer.json",
        "cost": _cost(pipeline),
    }
    _write_text(directory, "engine.json", json.dumps(described, indent=1, ensure_ascii=False) + "\n")


def write_tokenizer(source: str, directory: str, pipeline: Any) -> None:
    """Put ``tokenizer.json`` into ``directory``: the checkpoint's own bytes, or the same tokenizer written anew.

    Raises:
        UnsupportedModelError: the tokenizer has no fast form.
    """
    own = os.path.join(source, "tokenizer", "tokenizer.json")
    target = os.path.join(directory, "tokenizer.json")
    if os.path.isfile(own):
        shutil.copyfile(own, target)
        return
    backend = getattr(pipeline.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedModelError("the tokenizer has no fast form; there is no tokenizer.json to ship")
    backend.save(target)


def write_probe(directory: str, recorded: Mapping[str, Any]) -> None:
    """Write ``probe.json`` into a variant's directory."""
    _write_text(directory, PROBE_NAME, json.dumps(recorded, ensure_ascii=False, allow_nan=False) + "\n")


def write_settings(directory: str, recipe: Recipe, memory_bytes: Mapping[str, int]) -> None:
    """Write ``p2psync.toml``, by which publishing knows the variants, and the golden probes of those that have one.

    Args:
        directory: What will be published.
        recipe: Names the variants.
        memory_bytes: For each variant how much memory its weights take, in bytes.
    """
    lines = []
    for variant in recipe.variants:
        with open(os.path.join(directory, variant.name, "engine.json"), encoding="utf-8") as file:
            shares = '"../shared/' in file.read()
        folders = [variant.name, "tokenizer", *(["shared"] if shares else [])]
        needs = f'precision = "{variant.precision}", memory_bytes = {memory_bytes[variant.name]}'
        lines += [f'[variants."{variant.name}"]', f"files = {json.dumps([f'{folder}/**' for folder in folders])}"]
        lines += [f"needs = {{ {needs} }}", *(["default = true"] if variant.default else [])]
        if os.path.isfile(os.path.join(directory, variant.name, PROBE_NAME)):
            lines.append(f'probe = "{variant.name}/{PROBE_NAME}"')
        lines.append("")
    _write_text(directory, "p2psync.toml", "\n".join(lines))


def _write_text(directory: str, name: str, text: str) -> None:
    disk.write_new(Path(directory, name), text.encode())


def _port(port: Port) -> list[Any]:
    return [port.name, _DTYPES[port.dtype], list(port.dims)]


def _sampling(pipeline: Any, recipe: Recipe) -> dict[str, Any]:
    config = pipeline.scheduler.config
    name = _SCHEDULERS.get(type(pipeline.scheduler).__name__)
    if name is None or config.get("prediction_type") != "flow_prediction" or not config.get("use_flow_sigmas"):
        raise UnsupportedModelError(f"{type(pipeline.scheduler).__name__} in this form is no scheduler of an engine")
    two = "low" in experts(pipeline)
    return {
        "steps": recipe.sampling.steps,
        "guidance": recipe.sampling.guidance,
        **({"boundary_ratio": pipeline.config.boundary_ratio} if two else {}),
        "flow_shift": config["flow_shift"],
        "train_timesteps": config["num_train_timesteps"],
        "max_sequence_length": recipe.sampling.max_sequence_length,
        "scheduler": name,
    }


def _video(pipeline: Any, recipe: Recipe) -> dict[str, Any]:
    patch = pipeline.transformer.config.patch_size
    return {
        "height": recipe.video.height,
        "width": recipe.video.width,
        "frames": recipe.video.frames,
        "fps": recipe.video.fps,
        "frames_step": pipeline.vae_scale_factor_temporal,
        "size_step": pipeline.vae_scale_factor_spatial * patch[1],
    }


def _latent(vae: Any) -> dict[str, Any]:
    config = vae.config
    return {
        "channels": config.z_dim,
        "spatial": config.scale_factor_spatial,
        "temporal": config.scale_factor_temporal,
        "mean": list(config.latents_mean),
        "std": list(config.latents_std),
    }


def _cost(pipeline: Any) -> dict[str, Any]:
    """Facts by which a node tells what a size costs before it runs; of experts of several widths, the mean."""
    modules, text, vae = experts(pipeline), pipeline.text_encoder, pipeline.vae
    blocks = [block for module in modules.values() for block in module.blocks]
    config = modules["high"].config
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    return {
        "parameters": {
            "text": _count(text.parameters()),
            **{name: _count(module.parameters()) for name, module in modules.items()},
            "decoder": _count(decoder),
        },
        "expert": {
            "hidden": config.num_attention_heads * config.attention_head_dim,
            "layers": len(modules["high"].blocks),
            "heads": round(sum(block.attn1.heads for block in blocks) / len(blocks)),
            "ffn": round(sum(block.ffn.net[2].in_features for block in blocks) / len(blocks)),
            "patch": list(config.patch_size),
        },
        "text": {
            "hidden": text.config.d_model,
            "layers": text.config.num_layers,
            "heads": text.config.num_heads,
            "ffn": text.config.d_ff,
        },
        "decoder": {
            "base": vae.config.base_dim,
            "multipliers": list(vae.config.dim_mult),
            "blocks": vae.config.num_res_blocks,
        },
    }


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)
