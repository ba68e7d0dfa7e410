"""Examine a pipeline: prompts of scenes it never saw together, clips of them, and marks given by the judge."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from numpy.typing import NDArray

from wan_tiny.captions import Caption, caption
from wan_tiny.data_phase import TEXT_TOKENS
from wan_tiny.judge import Marks, compare, look
from wan_tiny.world import Frame, Scenes, sample

_BATCH = 100
_THREADS = 8


@dataclass(frozen=True, slots=True)
class Setting:
    """How clips are made; what the bundle recommends, unless something else is to be tried."""

    steps: int = 8
    guidance: float = 1.5
    tokens: int = TEXT_TOKENS


@dataclass(frozen=True, slots=True)
class Paper:
    """Prompts in one language, and the scenes they describe, which are the same in every language for one seed."""

    language: str
    scenes: Scenes
    captions: tuple[Caption, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The clips made for a paper, [n, frames, height, width, 3] as bytes, and the marks of each."""

    clips: NDArray[np.uint8]
    marks: tuple[Marks, ...]


def draw_paper(language: str, triples: NDArray[np.int64], n: int, *, objects: int, seed: int, frame: Frame) -> Paper:
    """Draw ``n`` scenes of one or of two objects, each of the given triples, and say them."""
    rng = np.random.default_rng([seed, 21])
    scenes = sample(rng, n, triples, two_share=float(objects - 1), frame=frame)
    spoken = np.random.default_rng([seed, 22])
    return Paper(language, scenes, tuple(caption(scenes, i, language, spoken) for i in range(n)))


def make_clips(
    pipeline: WanPipeline, prompts: Sequence[str], setting: Setting, frame: Frame, seed: int
) -> NDArray[np.uint8]:
    """Make a clip of each prompt; the noise depends on the seed alone."""
    made = []
    for start in range(0, len(prompts), _BATCH):
        output = pipeline(
            prompt=list(prompts[start : start + _BATCH]),
            height=frame.height,
            width=frame.width,
            num_frames=frame.frames,
            num_inference_steps=setting.steps,
            guidance_scale=setting.guidance,
            max_sequence_length=setting.tokens,
            generator=torch.Generator("cpu").manual_seed(seed + start),
            output_type="pt",
        )
        clips = output.frames.permute(0, 1, 3, 4, 2).float().clamp(0, 1)
        made.append((clips * 255).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(made)


def mark(clips: NDArray[np.uint8], scenes: Scenes) -> tuple[Marks, ...]:
    """Judge each clip and compare it with its scene."""
    with ThreadPoolExecutor(_THREADS) as threads:
        verdicts = list(threads.map(look, clips))
    return tuple(compare(verdict, scenes, i) for i, verdict in enumerate(verdicts))


def sit(pipeline: WanPipeline, paper: Paper, setting: Setting, frame: Frame, seed: int) -> Outcome:
    """Make the clips of a paper and mark them."""
    clips = make_clips(pipeline, [said.text for said in paper.captions], setting, frame, seed)
    return Outcome(clips, mark(clips, paper.scenes))


def table(paper: Paper, marks: Sequence[Marks]) -> dict[str, float]:
    """Return per cent right, overall and by attribute; size and speed only among the captions that say them."""
    rows: dict[str, list[bool]] = {
        name: [getattr(m, name) for m in marks] for name in ("right", "count", "colour", "shape", "direction")
    }
    if int(paper.scenes.count[0]) == 2:
        rows["order"] = [m.order for m in marks]
    rows["size"] = [m.size for m, said in zip(marks, paper.captions, strict=True) if said.says_size]
    rows["speed"] = [m.speed for m, said in zip(marks, paper.captions, strict=True) if said.says_speed]
    return {name: round(100 * float(np.mean(values)), 1) for name, values in rows.items() if values}


def quick(pipeline: WanPipeline, triples: NDArray[np.int64], frame: Frame, n: int = 100) -> dict[str, Any]:
    """Return a short table, for looking on while training: one object and two, in two languages."""
    result = {}
    for language, objects in (("en", 1), ("ar", 1), ("zh", 2), ("de", 2)):
        paper = draw_paper(language, triples, n, objects=objects, seed=99, frame=frame)
        result[f"{language} {objects}"] = table(paper, sit(pipeline, paper, Setting(), frame, 99).marks)
    return result


def told_wrong(paper: Paper) -> Scenes:
    """Return the paper's scenes in another order, so that each clip is held against a scene it was not made for."""
    return replace(paper.scenes.map(lambda array: np.roll(array, 1, axis=0)))
