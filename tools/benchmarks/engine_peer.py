"""The peer of the engine's start: diffusers and torch open a bundle in a cold process and make two clips.

usage: python3 engine_peer.py BUNDLE
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main(bundle: Path) -> dict[str, Any]:
    """Times of the machine's monotonic clock, in seconds, as ``engine_one.py start`` says them."""
    import torch
    from diffusers import WanPipeline

    settings = json.loads((bundle / "wan_tiny.json").read_text())
    sampling, clip = settings["recommended"], settings["clip"]
    pipeline = WanPipeline.from_pretrained(str(bundle), dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    opened = time.monotonic()
    reached: list[float] = []

    def at_step(_pipeline: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        reached.append(time.monotonic())
        return values

    ends = []
    for seed in (0, 1):
        pipeline(
            prompt=["a red circle moves left"],
            generator=torch.Generator().manual_seed(seed),
            num_inference_steps=sampling["steps"],
            guidance_scale=sampling["guidance_scale"],
            max_sequence_length=sampling["max_sequence_length"],
            height=clip["height"],
            width=clip["width"],
            num_frames=clip["frames"],
            output_type="np",
            callback_on_step_end=at_step,
        )
        ends.append(time.monotonic())
    return {"opened": opened, "first_step": reached[0], "clips": ends}


if __name__ == "__main__":
    print(json.dumps({**main(Path(sys.argv[1])), "load_average": round(os.getloadavg()[0], 2)}))
