"""Measure a bundle: per cent right in each language, over steps and guidance, on combinations it was never trained on.

usage: python -m wan_tiny.evaluate BUNDLE [--results FILE] [--sheet FILE] [--prompts N] [--only main|rest|pink|damage]
                                   [--variant NAME]

Run it in examples/. Rows are added to FILE as they are measured; a row of the same bundle and setting is replaced. A
variant is one of recipe.toml, made from BUNDLE and computed in torch as its graphs compute; it needs p2psync.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from wan_tiny import exam
from wan_tiny.bundle import read
from wan_tiny.captions import LANGUAGES
from wan_tiny.exam import Setting
from wan_tiny.loop import log
from wan_tiny.modules import with_euler
from wan_tiny.render import render
from wan_tiny.sheet import Shot, describe, save_sheet
from wan_tiny.world import COLOURS, COLOURS_KNOWN_FIRST, Frame, split_triples

_SEED = 1000
_SHOTS_EACH = 3


@dataclass(frozen=True, slots=True)
class Question:
    """One row to measure. ``trained`` asks for combinations that training saw; ``pink`` for the ninth colour alone."""

    language: str
    objects: int
    setting: Setting = Setting()  # noqa: RUF009 - frozen
    trained: bool = False
    pink: bool = False
    euler: bool = False


def main_questions() -> list[Question]:
    """Return what every version is measured by: one object and two in each language."""
    return [Question(language, objects) for objects in (1, 2) for language in LANGUAGES]


def rest_questions() -> list[Question]:
    """Return what shows small damage and the way the settings matter."""
    harder = (Setting(steps=4), Setting(guidance=3.0))
    rows = [Question(language, 1, setting) for setting in harder for language in LANGUAGES]
    others = (Setting(steps=16), Setting(guidance=1.0), Setting(guidance=2.0), Setting(guidance=5.0))
    for objects in (1, 2):
        rows += [Question("en", objects, setting) for setting in (*others, Setting(tokens=64), Setting(tokens=512))]
        rows += [Question("en", objects, trained=True), Question("en", objects, euler=True)]
    return [*rows, *(Question("en", 2, setting) for setting in harder)]


def damage_questions() -> list[Question]:
    """Return what a smaller variant is measured by: as it is meant to be used, and where small damage shows."""
    settings = (Setting(), Setting(steps=4), Setting(guidance=3.0))
    rows = [Question(language, 1, setting) for setting in settings for language in LANGUAGES]
    return [*rows, *(Question(language, 2) for language in LANGUAGES)]


def pink_questions() -> list[Question]:
    """Return what measures the ninth colour."""
    return [Question(language, objects, pink=True) for objects in (1, 2) for language in LANGUAGES]


def triples_of(question: Question) -> NDArray[np.int64]:
    """Return the combinations that the question's scenes are drawn from."""
    triples = split_triples().of_colours(0, COLOURS_KNOWN_FIRST)
    if question.pink:
        new = split_triples().of_colours(COLOURS_KNOWN_FIRST, len(COLOURS)).held_out
        # Two objects are never of one colour, so half of the rows are of the known ones.
        known = triples.held_out[:: len(triples.held_out) // len(new)]
        return np.concatenate([new, known]) if question.objects == 2 else new
    return triples.trained if question.trained else triples.held_out


def main() -> int:
    """Measure, print and keep."""
    stack = ExitStack()
    arguments = _parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline, note = read(Path(arguments.bundle), device)
    variant = arguments.variant or note.get("variant")
    if arguments.variant:
        # Imported only here: a bundle by itself is examined without p2psync.
        from wan_tiny import variants

        whole, opened = pipeline, variants.open_variant(arguments.bundle, arguments.variant, device)
        pipeline = stack.enter_context(opened)
    frame = Frame(**note["clip"])
    results = Path(arguments.results)
    kept: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {"rows": []}
    kept["judge"] = judge_itself(frame, arguments.prompts)
    log(f"judge on rendered clips: {kept['judge']}")
    if arguments.variant:
        rows = [row for row in kept.get("likeness", []) if row["variant"] != variant]
        settings = (Setting(), Setting(steps=4), Setting(guidance=3.0))
        rows += [
            {"variant": variant, "version": note["version"], **asdict(s), "ssim": variants.likeness(whole, pipeline, s)}
            for s in settings
        ]
        kept["likeness"] = rows
        log(f"likeness: {rows}")
    questions = {"main": main_questions, "rest": rest_questions, "pink": pink_questions, "damage": damage_questions}
    asked = [question for name in arguments.only.split(",") for question in questions[name]()]
    shots: list[Shot] = []
    for question in asked:
        paper = exam.draw_paper(
            question.language,
            triples_of(question),
            arguments.prompts,
            objects=question.objects,
            seed=_SEED,
            frame=frame,
        )
        used = with_euler(pipeline) if question.euler else pipeline
        began = time.monotonic()
        outcome = exam.sit(used, paper, question.setting, frame, _SEED)
        row = {"version": note["version"], "variant": variant} if variant else {"version": note["version"]}
        row |= {**asdict(question), "prompts": arguments.prompts}
        row |= {"device": _name(device), "torch": torch.__version__, "diffusers": diffusers.__version__}
        _keep(kept["rows"], row, exam.table(paper, outcome.marks))
        log(f"{question}: {kept['rows'][-1]['per_cent']}, {time.monotonic() - began:.1f} s")
        results.write_text(json.dumps(kept, indent=1) + "\n")
        if len(shots) < _SHOTS_EACH * 2 * len(LANGUAGES):
            titles = [f"[{question.language}] {describe(paper.scenes, i)}" for i in range(_SHOTS_EACH)]
            shots += [Shot(outcome.clips[i], titles[i], outcome.marks[i].right) for i in range(_SHOTS_EACH)]
    if arguments.sheet:
        save_sheet(Path(arguments.sheet), shots)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("bundle")
    parser.add_argument("--results", default="results.json", help="JSON file to add the rows to")
    parser.add_argument("--sheet", help="PNG of some of the clips")
    parser.add_argument("--prompts", type=int, default=200, help="for each row")
    parser.add_argument(
        "--only", default="main,rest", help="groups of rows, with commas between: main, rest, pink, damage"
    )
    parser.add_argument("--variant", help="measure this variant of recipe.toml instead of the bundle itself")
    return parser.parse_args()


def judge_itself(frame: Frame, n: int) -> dict[str, dict[str, float]]:
    """Return what the judge says of rendered clips, held against their own scene and against another one."""
    result = {}
    for objects in (1, 2):
        paper = exam.draw_paper("en", split_triples().every, n, objects=objects, seed=_SEED, frame=frame)
        clips = (render(paper.scenes, frame)[0].transpose(0, 2, 3, 4, 1) * 255).round().astype(np.uint8)
        right = exam.table(paper, exam.mark(clips, paper.scenes))["right"]
        wrong = exam.table(paper, exam.mark(clips, exam.told_wrong(paper)))["right"]
        result[f"{objects} object{'s' if objects > 1 else ''}"] = {"own_scene": right, "other_scene": wrong}
    return result


def _name(device: torch.device) -> str:
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "cpu"


def _keep(rows: list[dict[str, Any]], row: dict[str, Any], per_cent: dict[str, float]) -> None:
    """Add a measured row in place of an older one of the same question."""
    identity = {"variant": None, **row}
    for name in ("device", "torch", "diffusers"):
        del identity[name]
    rows[:] = [old for old in rows if any(old.get(name) != value for name, value in identity.items())]
    rows.append({**row, "per_cent": per_cent})


if __name__ == "__main__":
    sys.exit(main())
