"""The verbs that run a model: run, and the part of verify that does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2psync.cli import describe
from p2psync.cli.output import Output
from p2psync.errors import ModelNotFoundError, UsageError

if TYPE_CHECKING:
    from p2psync.engine import Candidate, Wish

Options = Mapping[str, Any]
Json = dict[str, Any]

LOG_NAME: Final = "generations.jsonl"
_SEEDS: Final = 1 << 32


def run(options: Options, out: Output) -> int:
    """Make a clip from a prompt, or with ``--plan`` say what it would take."""
    planning = options["plan"]
    if not planning and not (options["prompt"] and options["out"]):
        raise UsageError(
            "--prompt and --out are needed", hint=f'p2psync run {options["ref"]} --prompt "..." --out clip.mp4'
        )
    shown, among = engines_of(options)

    from p2psync.engine import Identity, Job, choose, estimate
    from p2psync.engine import run as make

    wish = _wish(options)
    if planning:
        choice = choose(among, variant=options["variant"], backend=options["backend"])
        plan = estimate(choice.candidate.directory, wish, backend=choice.backend).record()
        plan = {"variant": choice.candidate.name, **plan}
        out.result(plan, text=describe.plan(plan), ids=[choice.candidate.name])
        return 0
    job = Job(
        among,
        wish,
        Path(options["out"]),
        Path(options["frames_dir"]) if options["frames_dir"] else None,
        options["variant"],
        options["backend"],
        Identity(shown["reference"].partition("@")[0], shown["digest"], shown["version"]),
        Path(options["home"]) / LOG_NAME,
    )
    clip = _make(job, options, out, make)
    for reason in clip["steps_down"]:
        out.note(reason)
    if not out.as_json:
        for line in describe.clip(clip):
            out.note(line)
    out.result(clip, text=[clip["out"]], ids=[clip["out"]])
    return 0


def answers_of(options: Options) -> Json:
    """Answer the golden probe of a version that is here, as ``verify --run`` does.

    Raises:
        WrongAnswerError: the answers are not those that its publisher signed.
        ModelError: it does not run here.
    """
    _shown, among = engines_of(options)

    from p2psync.engine.probe import verify

    answer: Json = verify(among, variant=options["variant"], backend=options["backend"])
    stages = [{"stage": stage, **figures} for stage, figures in answer["stages"].items()]
    return {**answer, "stages": stages}


def engines_of(options: Options) -> tuple[Json, tuple[Candidate, ...]]:
    """What ``show`` says of a version, and the engines that it holds.

    Raises:
        ModelNotFoundError: it is not installed here.
    """
    from p2psync.manifest import Reference
    from p2psync.node.inspect import inspect

    reference = str(Reference.parse(options["ref"]))
    shown: Json = inspect(Path(options["home"]), "show", {"reference": reference})
    if shown["path"] is None:
        raise ModelNotFoundError(f"{reference} is not installed here", hint=f"p2psync pull {reference} --from URL")

    from p2psync.engine import candidates

    here = [variant for variant in shown["variants"] if variant["installed"]]
    needs = {v["name"]: (v["backend"], v["memory_bytes"], v["default"]) for v in here}
    return shown, candidates(Path(shown["path"]), needs)


def _wish(options: Options) -> Wish:
    import secrets

    from p2psync.engine import Wish

    height, width = options["size"] or (None, None)
    seed = secrets.randbelow(_SEEDS) if options["seed"] is None else options["seed"]
    return Wish(options["prompt"] or "", seed, options["steps"], options["guidance"], height, width, options["frames"])


def _make(job: Any, options: Options, out: Output, make: Any) -> Json:
    """Run the job with a bar per step where people watch."""
    from p2psync.cli.steps import Steps

    with Steps(out, wanted=not options["no_progress"]) as steps:
        record: Json = make(job, on_event=steps.take).record()
    return record
