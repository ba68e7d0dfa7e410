"""Write and read the trained pipeline as a directory: diffusers' layout in BF16, with a note of how to use it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from transformers import PreTrainedTokenizerFast

from wan_tiny.captions import LANGUAGES
from wan_tiny.exam import Setting
from wan_tiny.modules import BOUNDARY, FLOW_SHIFT, assemble
from wan_tiny.world import Frame

NOTE = "wan_tiny.json"


def write(
    folder: Path, tokenizer: PreTrainedTokenizerFast, parts: dict[str, Any], note: dict[str, Any], frame: Frame
) -> int:
    """Write a bundle, and return its size in bytes.

    Args:
        parts: ``text_encoder``, ``vae``, ``transformer`` (high noise) and ``transformer_2`` (low noise).
        note: Version, seed and a summary of the training.
    """
    names = ("text_encoder", "vae", "transformer", "transformer_2")
    modules = [copy.deepcopy(parts[name]).to("cpu").to(torch.bfloat16) for name in names]
    assemble(tokenizer, *modules).save_pretrained(folder)
    setting = Setting()
    recommended = {"steps": setting.steps, "guidance_scale": setting.guidance, "max_sequence_length": setting.tokens}
    clip = {"width": frame.width, "height": frame.height, "frames": frame.frames}
    whole = {
        **note,
        "recommended": recommended,
        "clip": clip,
        "boundary_ratio": BOUNDARY,
        "flow_shift": FLOW_SHIFT,
        "languages": list(LANGUAGES),
    }
    (folder / NOTE).write_text(json.dumps(whole, indent=1) + "\n")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read(folder: Path, device: Any) -> tuple[WanPipeline, dict[str, Any]]:
    """Return the pipeline of a bundle, its weights as FP32 on the device, and its note."""
    pipeline = WanPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    note: dict[str, Any] = json.loads((folder / NOTE).read_text())
    return pipeline, note
