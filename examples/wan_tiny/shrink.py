"""Train what is smaller than the bundle: `pruned` experts that learn from the whole ones; `small`, one narrow expert.

usage: python -m wan_tiny.shrink pruned BUNDLE OUT [--steps N] [--rate R] [--clips N]
       python -m wan_tiny.shrink small BUNDLE OUT --work DIR [--steps N] [--rate R] [--rounded-steps N]
                                 [--rounded-rate R] [--clips N] [--seconds S]

Run it in examples/, with p2psync and its extra `compress`. Pupil and teacher are asked about noised latents of freshly
drawn clips, and the pupil moves towards the teacher's velocity. `pruned` writes the file that recipe.toml names as
`tuned`; `small` writes the file that small.py reads. `small` first learns with whole weights, then with weights rounded
as that file rounds them; DIR keeps its weights, and another run goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional

from p2psync.compress import read_recipe
from p2psync.compress.calibrate import calibrate
from p2psync.compress.pipeline import experts, open_pipeline, with_experts
from p2psync.compress.prune import choose, pruned
from p2psync.compress.recipe import Pruning
from p2psync.compress.tuned import write_tuned
from wan_tiny import checkpoint, small
from wan_tiny.data_phase import Data, Mixture, make_data
from wan_tiny.denoiser import BATCH, BOUNDARY_BEFORE_SHIFT
from wan_tiny.loop import Loop, RunningMean, Schedule, captured, forget, log, optimizer, set_rates
from wan_tiny.modules import FLOW_SHIFT, Sizes, build_transformer, embed
from wan_tiny.variants import RECIPE, likeness
from wan_tiny.world import COLOURS_KNOWN_FIRST, Frame, split_triples

# One expert for all noise levels, three quarters as wide.
SMALL: Final = Sizes(heads=3, ffn_width=512, layers=5)
# Guidance asks as often without a caption as with one, and weighs the first half as much.
_CAPTION_DROPPED_SHARE: Final = 0.25
_MEAN_DECAY: Final = 0.999
_SEED: Final = 5
_PHASES: Final = ("whole", "rounded")


@dataclass(frozen=True, slots=True)
class Teacher:
    """A whole expert, the part of a batch that it is asked, and the noise levels, before the shift, of that part."""

    expert: Any
    questions: int
    noise: tuple[float, float]


@dataclass(slots=True)
class Lesson:
    """One pupil and its teachers; ``run`` trains ``mean``, a slow copy of the pupil.

    Where weights are ``rounded``, the pupil answers with rounded copies of them. What it learns so is added to the
    weights behind the copies (a straight-through estimate), and ``mean`` follows those.
    """

    name: str
    pupil: Any
    teachers: list[Teacher]
    text: Any
    data: Data
    rounded: bool = False
    mean: Any = field(init=False)

    def run(self, schedule: Schedule, start: int = 0, deadline: float = float("inf")) -> int:
        """Take the schedule's steps from ``start`` on, until the deadline, and return how many of them are done."""
        torch.manual_seed(_SEED + start)
        device = self.data.latents.device
        self.mean = copy.deepcopy(self.pupil).eval().requires_grad_(requires_grad=False)
        self.pupil.train().requires_grad_(requires_grad=True)
        behind = copy.deepcopy(self.pupil) if self.rounded else self.pupil
        parameters, shown = list(behind.parameters()), list(self.pupil.parameters())
        descent = optimizer([parameters], device, 0.0)
        losses = torch.zeros((), device=device)
        ask, tell = self._compiled(device)

        def step() -> None:
            if self.rounded:
                show_rounded(behind, self.pupil)
            loss = self._loss(ask, tell)
            self.pupil.zero_grad(set_to_none=True)
            loss.backward()
            for parameter, copied in zip(parameters, shown, strict=True):
                parameter.grad = copied.grad
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            descent.step()
            losses.add_(loss.detach())

        set_rates(descent, [0.0])
        replay = captured(step, device)
        forget(descent)
        log(f"{self.name}: step captured")
        mean = RunningMean([(self.mean, behind)], _MEAN_DECAY)
        loop = Loop(self.name, schedule, start, deadline, losses, mean)
        return loop.run(replay, lambda rate: set_rates(descent, [rate]))

    def _compiled(self, device: Any) -> tuple[Any, list[Any]]:
        tell = [teacher.expert for teacher in self.teachers]
        if device.type != "cuda":
            return self.pupil, tell
        return torch.compile(self.pupil), [torch.compile(expert) for expert in tell]

    def _loss(self, ask: Any, tell: list[Any]) -> Any:
        latents, tokens = self.data.latents, self.data.tokens
        drawn = torch.randint(len(latents), (BATCH,), device=latents.device)
        which = torch.randint(tokens.shape[1], (BATCH,), device=latents.device)
        ids = tokens[drawn, which].long()
        empty = torch.zeros_like(ids)
        empty[:, 0] = 1
        mute = torch.rand(BATCH, device=latents.device) < _CAPTION_DROPPED_SHARE
        clips = latents[drawn].float()
        sigma = self._sigma(latents.device)
        s = sigma.view(-1, 1, 1, 1, 1)
        mixed = (1 - s) * clips + s * torch.randn_like(clips)
        with torch.no_grad():
            text = embed(self.text, torch.where(mute[:, None], empty, ids))
            right, start = [], 0
            for teacher, expert in zip(self.teachers, tell, strict=True):
                part = slice(start, start + teacher.questions)
                right.append(expert(mixed[part], sigma[part] * 1000, text[part], return_dict=False)[0])
                start += teacher.questions
        with torch.autocast(latents.device.type, torch.bfloat16, cache_enabled=False):
            said = ask(mixed, sigma * 1000, text, return_dict=False)[0]
        return functional.mse_loss(said.float(), torch.cat(right).float())

    def _sigma(self, device: Any) -> Any:
        """Noise levels spread evenly over each teacher's range, then shifted as the sampler shifts them."""
        parts = []
        for teacher in self.teachers:
            count, (low, high) = teacher.questions, teacher.noise
            spread = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
            parts.append(low + (high - low) * spread)
        u = torch.cat(parts)
        return FLOW_SHIFT * u / (1 + (FLOW_SHIFT - 1) * u)


def show_rounded(behind: Any, shown: Any) -> None:
    """Set the parameters of ``shown`` to those of ``behind``, rounded as ``small.write`` does."""
    with torch.no_grad():
        for (name, value), seen in zip(behind.named_parameters(), shown.parameters(), strict=True):
            if fine := small.fineness(name, value.numel()):
                step = value.square().mean().sqrt() / fine
                seen.copy_((value / step.clamp(min=1e-12)).round() * step)
            else:
                seen.copy_(value)


def main() -> int:
    """Train, compare with the bundle, and write."""
    arguments = _parse()
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    log(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu'}, torch {torch.__version__}")
    pipeline = open_pipeline(arguments.bundle).to(device)
    for part in (*experts(pipeline).values(), pipeline.text_encoder, pipeline.vae):
        part.requires_grad_(requires_grad=False)
    known = split_triples().of_colours(0, COLOURS_KNOWN_FIRST).trained
    mixture = Mixture([(known, arguments.clips)], two_share=0.15)
    data = make_data(pipeline.vae, pipeline.tokenizer, _SEED, Frame(), mixture)
    log(f"data: {tuple(data.latents.shape)} latents")
    schedule = Schedule(arguments.steps, arguments.rate, end=0.02, warm_up=min(200, arguments.steps // 4 + 1))
    train = train_pruned if arguments.what == "pruned" else train_small
    train(arguments, pipeline, data, schedule)
    return 0


def train_pruned(arguments: argparse.Namespace, pipeline: Any, data: Data, schedule: Schedule) -> None:
    """Cut both experts, let each learn from the whole one, and write what they learned."""
    whole, spans = experts(pipeline), {"high": (BOUNDARY_BEFORE_SHIFT, 1.0), "low": (0.0, BOUNDARY_BEFORE_SHIFT)}
    recipe = read_recipe(str(RECIPE))
    pruning = next((v.prune for v in recipe.variants if v.prune), Pruning())
    seen = calibrate(pipeline, recipe, calls_max=16)
    kept = {name: choose(expert, seen[name].calls, pruning) for name, expert in whole.items()}
    cut = {name: pruned(expert, kept[name], seen[name].calls) for name, expert in whole.items()}
    for name, expert in whole.items():
        log(f"{name}: {_count(cut[name])} of {_count(expert)} parameters")
    log(f"cut, untaught: SSIM {likeness(pipeline, with_experts(pipeline, cut))}")
    for name, expert in whole.items():
        began = time.monotonic()
        lesson = Lesson(name, cut[name], [Teacher(expert, BATCH, spans[name])], pipeline.text_encoder, data)
        lesson.run(schedule)
        cut[name] = lesson.mean
        log(f"{name}: {time.monotonic() - began:.0f} s")
    log(f"taught: SSIM {likeness(pipeline, with_experts(pipeline, cut))}")
    size = write_tuned(arguments.out, whole, kept, cut)
    log(json.dumps({"file": arguments.out, "bytes": size, "steps": schedule.steps, "rate": schedule.peak}))


def train_small(arguments: argparse.Namespace, pipeline: Any, data: Data, schedule: Schedule) -> None:
    """Let one narrow expert learn from both whole ones, and keep it as small.py reads it."""
    torch.manual_seed(_SEED)
    pupil = build_transformer(SMALL).to(data.latents.device)
    work, deadline = Path(arguments.work), arguments.began + arguments.seconds
    done: dict[str, int] = checkpoint.progress(work)
    checkpoint.load(work, {"pupil": pupil})
    later = Schedule(arguments.rounded_steps, arguments.rounded_rate, schedule.end, schedule.warm_up)
    for phase, part in zip(_PHASES, (schedule, later), strict=True):
        if done.get(phase, 0) >= part.steps or time.monotonic() > deadline:
            continue
        lesson = Lesson(f"small, {phase}", pupil, _both(pipeline), pipeline.text_encoder, data, phase == "rounded")
        done[phase] = lesson.run(part, done.get(phase, 0), deadline)
        pupil = lesson.mean
        checkpoint.save(work, {"pupil": pupil}, done)
    weights = {name: value.detach().float().cpu().numpy() for name, value in pupil.named_parameters()}
    config = json.loads(pupil.to_json_string())
    size = small.write(Path(arguments.out), weights, config)
    log(json.dumps({"file": arguments.out, "bytes": size, "parameters": _count(pupil), "done": done}))


def _both(pipeline: Any) -> list[Teacher]:
    """Both experts as teachers of one pupil, each about its own noise."""
    high = round(BATCH * (1 - BOUNDARY_BEFORE_SHIFT))
    return [
        Teacher(pipeline.transformer, high, (BOUNDARY_BEFORE_SHIFT, 1.0)),
        Teacher(pipeline.transformer_2, BATCH - high, (0.0, BOUNDARY_BEFORE_SHIFT)),
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("what", choices=("pruned", "small"))
    parser.add_argument("bundle", help="the whole pipeline")
    parser.add_argument("out", help="the file to write")
    parser.add_argument("--work", default="small.work", help="small: a folder that keeps weights between runs")
    parser.add_argument("--steps", type=int, default=12_000, help="for each expert")
    parser.add_argument("--rate", type=float, default=8e-4, help="learning rate at its peak")
    parser.add_argument("--clips", type=int, default=60_000)
    parser.add_argument("--rounded-steps", type=int, default=16_000, help="small: more steps, with rounded weights")
    parser.add_argument("--rounded-rate", type=float, default=6e-4)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="small: stop learning after this time")
    return parser.parse_args(namespace=argparse.Namespace(began=time.monotonic()))


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    sys.exit(main())
