"""Train on from a bundle: finish v1, or make v2, a gentle fine-tune, or v3, which learns the ninth colour.

usage: python -m wan_tiny.refine v1|v2|v3 FROM TO --steps N --rate R [--text-rate R] [--clips N]

Run it in examples/. A later version is made to travel as a small difference: v2 moves the weights of the experts a
little, v3 only those that carry words into pictures, and the new words' rows of the text encoder's table. Weights start
from the BF16 values of FROM.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from wan_tiny.bundle import read, write
from wan_tiny.data_phase import Mixture, make_data
from wan_tiny.denoiser import BOUNDARY_BEFORE_SHIFT, Phase, Trainer, Tuning
from wan_tiny.loop import Schedule, log
from wan_tiny.world import COLOURS, COLOURS_KNOWN_FIRST, Frame, split_triples

# A new word starts between the words for red and for white of its language and form.
_NEW_WORDS = {
    "▁pink": ("▁red", "▁white"),
    "粉": ("红", "白"),
    "▁rosa": ("▁rojo", "▁roja", "▁blanco", "▁blanca"),
    "▁وردي": ("▁أحمر", "▁أبيض"),
    "▁وردية": ("▁حمراء", "▁بيضاء"),
    "▁rosafarbener": ("▁roter", "▁weißer"),
    "▁rosafarbenes": ("▁rotes", "▁weißes"),
}
_ONE, _TWO = ("transformer", (BOUNDARY_BEFORE_SHIFT, 1.0)), ("transformer_2", (0.0, BOUNDARY_BEFORE_SHIFT))


def main() -> int:
    """Train both experts, write the bundle, and say what changed."""
    arguments = _parse()
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline, note = read(Path(arguments.source), device)
    began = time.monotonic()
    pipeline.vae.requires_grad_(requires_grad=False)
    data = make_data(
        pipeline.vae, pipeline.tokenizer, arguments.seed, Frame(), mixture(arguments.version, arguments.clips)
    )
    log(f"data: {time.monotonic() - began:.1f} s")
    if arguments.version == "v3":
        place_new_words(pipeline)
    trainer = Trainer(pipeline.text_encoder, pipeline.transformer, data, tuning(arguments.version, pipeline, device))
    sources = {
        name: {k: v.clone() for k, v in getattr(pipeline, name).state_dict().items()} for name, _ in (_ONE, _TWO)
    }
    schedule = Schedule(arguments.steps, arguments.rate, end=0.05, warm_up=min(100, arguments.steps // 4 + 1))
    parts: dict[str, Any] = {"vae": pipeline.vae}
    # The new words are placed while the first expert learns, which settles colour, and then stand still for the second.
    for (name, noise), text_rate in ((_ONE, arguments.text_rate), (_TWO, 0.0)):
        trainer.start_from(sources[name])
        trainer.run(Phase(f"{arguments.version} {name}", schedule, noise=noise, text_rate=text_rate))
        trainer.text.load_state_dict(trainer.mean_text.state_dict())
        parts[name] = type(pipeline.transformer).from_config(pipeline.transformer.config)
        parts[name].load_state_dict(trainer.mean_transformer.state_dict())
    parts["text_encoder"] = trainer.mean_text
    training = {
        "from": note["version"],
        "steps": arguments.steps,
        "rate": arguments.rate,
        "text_rate": arguments.text_rate,
    }
    training |= {"seed": arguments.seed, "clips": arguments.clips, "seconds": round(time.monotonic() - began, 1)}
    before = note["training"] if note["version"] == arguments.version else {}
    note = {
        "name": note["name"],
        "version": arguments.version,
        "seed": note["seed"],
        "training": {**before, "refined": training},
    }
    write(Path(arguments.target), pipeline.tokenizer, parts, note, Frame())
    log(json.dumps(changes(Path(arguments.source), Path(arguments.target))))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("version", choices=("v1", "v2", "v3"))
    parser.add_argument("source", help="bundle to start from")
    parser.add_argument("target", help="bundle to write")
    parser.add_argument("--steps", type=int, default=200, help="for each expert")
    parser.add_argument("--rate", type=float, default=1e-5, help="learning rate at its peak")
    parser.add_argument("--text-rate", type=float, default=0.0, help="learning rate of the new words, in the experts'")
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=2)
    return parser.parse_args()


def mixture(version: str, clips: int) -> Mixture:
    """Return the scenes to train on: v1 mostly one object, which varies most, v2 one and two alike, v3 half pink."""
    known = split_triples().of_colours(0, COLOURS_KNOWN_FIRST).trained
    if version != "v3":
        return Mixture([(known, clips)], two_share=0.15 if version == "v1" else 0.5)
    new = split_triples().of_colours(COLOURS_KNOWN_FIRST, len(COLOURS)).trained
    # Rows that are pink by half: two objects are never of one colour, so of most pairs one is pink.
    both = torch.cat([torch.from_numpy(known)[:: len(known) // len(new)], torch.from_numpy(new)]).numpy()
    return Mixture([(new, clips // 4), (both, clips // 2), (known, clips - clips // 4 - clips // 2)], two_share=0.5)


def tuning(version: str, pipeline: Any, device: Any) -> Tuning:
    """Return which weights may change."""
    if version == "v1":
        return Tuning(text=lambda _: False)
    if version == "v2":
        return Tuning(text=lambda _: False, weight_decay=0.0, mean_decay=0.98)
    rows = torch.zeros(len(pipeline.tokenizer), device=device)
    rows[_numbers(pipeline, *_NEW_WORDS)] = 1.0
    return Tuning(
        transformer=lambda name: "attn2.to_v" in name or "attn2.to_out" in name,
        text=lambda name: name == "shared.weight",
        text_rows=rows,
        weight_decay=0.0,
        mean_decay=0.99,
    )


def place_new_words(pipeline: Any) -> None:
    """Give each new word the mean of the words it stands between."""
    table = pipeline.text_encoder.shared.weight
    with torch.no_grad():
        for word, between in _NEW_WORDS.items():
            table[_numbers(pipeline, word)] = table[_numbers(pipeline, *between)].mean(dim=0)


def _numbers(pipeline: Any, *words: str) -> list[int]:
    """Return the token number of each word.

    Raises:
        ValueError: If a word is not in the vocabulary.
    """
    vocabulary = pipeline.tokenizer.get_vocab()
    if missing := [word for word in words if word not in vocabulary]:
        raise ValueError(f"not in the vocabulary: {missing}")
    return [vocabulary[word] for word in words]


def changes(source: Path, target: Path) -> dict[str, Any]:
    """Return which tensors of two bundles differ, and how many of all their values, by the bytes on disk."""
    names: list[str] = []
    differing = 0
    for path in sorted(target.rglob("*.safetensors")):
        where = path.relative_to(target)
        with safe_open(source / where, framework="pt") as old, safe_open(path, framework="pt") as new:
            for key in new.keys():  # noqa: SIM118 - not a mapping
                apart = int((old.get_tensor(key) != new.get_tensor(key)).sum())
                differing += apart
                names += [f"{where.parent}/{key}"] if apart else []
    return {"tensors": names, "values": differing}


if __name__ == "__main__":
    sys.exit(main())
