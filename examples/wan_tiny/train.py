"""Train the first version from nothing: VAE, text encoder, one transformer for all noise levels, then two experts.

usage: python -m wan_tiny.train --work DIR --bundle DIR [--seconds N] (and the sizes of each phase, see --help)

Run it in examples/. It ends when the bundle is written, or when its seconds are over; then the same command goes on
from what DIR holds: finished phases, and the weights of the one that was cut. Schedules are tied to steps, not to time.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wan_tiny import checkpoint, exam
from wan_tiny.bundle import write
from wan_tiny.data_phase import TEXT_TOKENS, Data, Mixture, make_data
from wan_tiny.denoiser import BOUNDARY_BEFORE_SHIFT, Phase, Trainer
from wan_tiny.loop import Schedule, log
from wan_tiny.modules import Sizes, assemble, build_text_encoder, build_transformer, build_vae
from wan_tiny.text_phase import draw_lines, train_text
from wan_tiny.vae_phase import fidelity, train_vae
from wan_tiny.vocabulary import build_tokenizer
from wan_tiny.world import COLOURS_KNOWN_FIRST, Frame, split_triples

VERSION = "v1"
# The text encoder can read when the transformer begins; it follows at this part of its rate.
_TEXT_RATE = 0.3
_READS_MIN = 0.9


@dataclass(slots=True)
class Run:
    """What every phase needs: where the work lies, how far it has come, and when to stop."""

    arguments: argparse.Namespace
    device: Any
    progress: dict[str, Any]
    deadline: float

    @property
    def work(self) -> Path:
        """The folder of weights and latents."""
        return Path(self.arguments.work)

    def finished(self, phase: str, steps: int, began: float, wanted: int) -> bool:
        """Note how far a phase has come, and say whether it is done."""
        self.progress[f"{phase}_steps"] = steps
        spent = float(self.progress.get(f"{phase}_seconds", 0))
        self.progress[f"{phase}_seconds"] = round(spent + time.monotonic() - began, 1)
        return steps >= wanted


def main() -> int:
    """Train as far as the seconds allow."""
    arguments = _parse()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = Path(arguments.work)
    run = Run(arguments, device, checkpoint.progress(work), time.monotonic() + arguments.seconds)
    log(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu'}, torch {torch.__version__}")
    log(f"so far {run.progress}")
    torch.manual_seed(arguments.seed)
    tokenizer = build_tokenizer()
    modules = {
        "vae": build_vae(Sizes()),
        "text": build_text_encoder(Sizes(), len(tokenizer)),
        "transformer": build_transformer(Sizes()),
    }
    checkpoint.load(work, modules)
    modules = {name: module.to(device) for name, module in modules.items()}
    if not _vae(run, modules):
        return 0
    if arguments.upto == "vae":
        return 0
    _text(run, modules, tokenizer)
    data = _data(run, modules["vae"], tokenizer)
    trainer = Trainer(modules["text"], modules["transformer"], data)
    if not _joint(run, modules, tokenizer, trainer) or arguments.upto == "joint":
        return 0
    experts = _split(run, trainer)
    parts = {"text_encoder": trainer.mean_text, "vae": modules["vae"], **experts}
    note = {"name": "wan-tiny", "version": VERSION, "seed": arguments.seed, "training": run.progress}
    size = write(Path(arguments.bundle), tokenizer, parts, note, Frame())
    log(f"bundle: {size} bytes; {_counts(parts)}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--work", required=True, help="folder for weights and latents between runs")
    parser.add_argument("--bundle", required=True, help="folder for the trained pipeline")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop and keep the weights after this time")
    parser.add_argument("--upto", choices=("vae", "joint", "split"), default="split", help="last phase to run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=16_000)
    parser.add_argument("--text-steps", type=int, default=4000)
    parser.add_argument("--clips", type=int, default=160_000)
    parser.add_argument("--two-share", type=float, default=0.4, help="part of the clips that shows two objects")
    parser.add_argument("--joint-steps", type=int, default=32_000)
    parser.add_argument("--split-steps", type=int, default=5000, help="for each expert")
    parser.add_argument(
        "--watch", type=int, default=100, help="prompts to try every tenth of the joint phase, 0 for none"
    )
    return parser.parse_args()


def _vae(run: Run, modules: dict[str, Any]) -> bool:
    """Train the VAE, or take it as it is; say whether it is finished."""
    wanted, vae = run.arguments.vae_steps, modules["vae"]
    done, began = run.progress.get("vae_steps", 0), time.monotonic()
    if done < wanted:
        schedule = Schedule(wanted, peak=1.5e-3, end=0.02, warm_up=100)
        done = train_vae(vae, run.arguments.seed, Frame(), schedule, done, run.deadline)
        finished = run.finished("vae", done, began, wanted)
        if finished:
            run.progress["vae_fidelity"] = fidelity(vae, run.arguments.seed, Frame())
            log(f"vae: {run.progress['vae_fidelity']}")
        checkpoint.save(run.work, {"vae": vae}, run.progress)
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
        return finished
    vae.eval()
    return True


def _text(run: Run, modules: dict[str, Any], tokenizer: Any) -> None:
    """Teach the text encoder to read, unless it can."""
    began, wanted = time.monotonic(), run.arguments.text_steps
    if run.progress.get("text_steps", 0) >= wanted:
        return
    known = split_triples().of_colours(0, COLOURS_KNOWN_FIRST).trained
    lines = draw_lines(tokenizer, known, run.arguments.seed, TEXT_TOKENS)
    run.progress |= train_text(modules["text"], lines, run.arguments.seed, Schedule(wanted, 1e-3, 0.05, 200))
    run.finished("text", wanted, began, wanted)
    if run.progress["tokens_right_share"] < _READS_MIN:
        raise SystemExit("the text encoder did not learn to read: give it more --text-steps")
    checkpoint.save(run.work, {name: modules[name] for name in ("vae", "text")}, run.progress)


def _data(run: Run, vae: Any, tokenizer: Any) -> Data:
    """Make the latents and captions, or read those of an earlier run in the same folder."""
    began, path, vae_config = time.monotonic(), run.work / "data.pt", run.progress.get("latents")
    vae.requires_grad_(requires_grad=False)
    if vae_config:
        vae.register_to_config(**vae_config)
    if vae_config and path.exists():
        kept = torch.load(path, map_location=run.device)
        return Data(kept["latents"], kept["tokens"])
    known = split_triples().of_colours(0, COLOURS_KNOWN_FIRST)
    mixture = Mixture([(known.trained, run.arguments.clips)], run.arguments.two_share)
    data = make_data(vae, tokenizer, run.arguments.seed, Frame(), mixture)
    run.progress["latents"] = {name: vae.config[name] for name in ("latents_mean", "latents_std")}
    torch.save({"latents": data.latents, "tokens": data.tokens}, path)
    run.progress["data_seconds"] = round(time.monotonic() - began, 1)
    log(f"data: {tuple(data.latents.shape)} latents, {tuple(data.tokens.shape)} tokens")
    return data


def _joint(run: Run, modules: dict[str, Any], tokenizer: Any, trainer: Trainer) -> bool:
    """Train text encoder and transformer together on all noise levels; say whether that is finished."""
    wanted, done, began = run.arguments.joint_steps, run.progress.get("joint_steps", 0), time.monotonic()
    if done >= wanted:
        return True
    held_out = split_triples().of_colours(0, COLOURS_KNOWN_FIRST).held_out

    def watch(_: int) -> None:
        if run.arguments.watch:
            parts = (trainer.mean_text, modules["vae"], trainer.mean_transformer, trainer.mean_transformer)
            log(f"  {exam.quick(assemble(tokenizer, *parts), held_out, Frame(), run.arguments.watch)}")

    schedule = Schedule(wanted, peak=1e-3, end=0.15, warm_up=300)
    done = trainer.run(Phase("joint", schedule, done, run.deadline, text_rate=_TEXT_RATE), watch)
    finished = run.finished("joint", done, began, wanted)
    kept = {"vae": modules["vae"], "text": trainer.mean_text, "transformer": trainer.mean_transformer}
    checkpoint.save(run.work, kept, run.progress)
    return finished


def _split(run: Run, trainer: Trainer) -> dict[str, Any]:
    """Train an expert for the high noise levels and one for the low; the text encoder stays as it is."""
    began, wanted = time.monotonic(), run.arguments.split_steps
    joint = {name: value.clone() for name, value in trainer.mean_transformer.state_dict().items()}
    text = {name: value.clone() for name, value in trainer.mean_text.state_dict().items()}
    schedule = Schedule(wanted, peak=3e-4, end=0.02, warm_up=100)
    experts = {}
    for name, noise in (("transformer", (BOUNDARY_BEFORE_SHIFT, 1.0)), ("transformer_2", (0.0, BOUNDARY_BEFORE_SHIFT))):
        trainer.start_from(joint, text)
        trainer.run(Phase(f"split {name}", schedule, noise=noise))
        experts[name] = build_transformer(Sizes())
        experts[name].load_state_dict(trainer.mean_transformer.state_dict())
    run.finished("split", wanted, began, wanted)
    return experts


def _counts(parts: dict[str, Any]) -> dict[str, int]:
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}


if __name__ == "__main__":
    sys.exit(main())
