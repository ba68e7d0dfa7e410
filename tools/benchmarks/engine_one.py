"""One process of the engine's benchmark: `engine_one.py decode ENGINE FRAMES` decodes a clip and says what it took."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def decode(engine: Path, frames: int) -> dict[str, float]:
    """Decode random latents frame by frame. Returns seconds, and the most memory of this process, in bytes."""
    import numpy as np

    from p2psync.engine.pipeline import latent_shape, open_pipeline
    from p2psync.engine.request import Wish, settle

    with open_pipeline(engine, "ort-cpu") as pipeline:
        request = settle(pipeline.described, Wish("a clip", frames=frames))
        latents = np.random.RandomState(0).standard_normal(latent_shape(pipeline.described, request))
        start = time.perf_counter()
        count = sum(len(part) for part in pipeline.decode(latents.astype(np.float32)))
        seconds = time.perf_counter() - start
    if count != frames:
        raise SystemExit(f"{count} frames came out where {frames} were asked for")
    return {"seconds": round(seconds, 3), "peak_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    print(json.dumps(decode(Path(sys.argv[2]), int(sys.argv[3]))))
