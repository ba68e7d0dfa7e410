#!/usr/bin/env python3
"""Show the main job on real models: publish, seed, pull on two nodes, update, prove, spread over a site, and run.

usage: tools/demo.py [--keep DIR]

Everything runs on this machine: a seed and two nodes, each with a home of its own, talk over loopback. Then a site of
four nodes finds itself behind one slow link, in network namespaces where the machine allows that.
Every comparison is made on the real bytes; the first one that fails ends the demonstration with exit code 1.
It ends with a video, which stays. ``--keep`` leaves the homes and the models in DIR too.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import command
import demo_update
import demo_video
import environment
import real_models
import recogniser

ENCODER = "demo/encoder"
RECOGNISER = "demo/recogniser"
CHECKPOINT = "demo/wan-tiny-bf16"
VIDEO = "demo/wan-tiny"
SENTENCE = "Model weights, moved once per building"


class DifferenceError(Exception):
    """What was pulled is not what was published, or an answer is not the one that was due."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the closing table. Bytes, except ``seconds``; ``wire`` counts both links."""

    what: str
    seconds: float
    total: int
    reused: int
    patched: int
    lan: int
    wan: int
    wire: int


@dataclass
class Demo:
    """The three machines, the two models, and what has been measured so far."""

    work: Path
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = command.Home(self.work / "publisher")
        self.a = command.Home(self.work / "node-a")
        self.b = command.Home(self.work / "node-b")
        self.encoder = self.work / "models" / "encoder"
        self.recogniser = self.work / "models" / "recogniser"

    def prepare(self) -> None:
        """Lay out the models, make the publisher's key, and let the nodes trust it for ``demo/*``."""
        say("Two real models: a sentence encoder in safetensors, a text recogniser in ONNX with its weights beside it.")
        real_models.copy_encoder(self.encoder)
        moved = recogniser.split(recogniser.source_model(), self.recogniser)
        say(f"  encoder {size(bytes_in(self.encoder))}, recogniser {size(bytes_in(self.recogniser))}")
        say(f"  of the recogniser, {size(moved)} of weights moved from the ONNX file into model.safetensors")
        run(self.publisher, "key", "new", "demo")
        key = self.publisher.text("key", "export", "demo").strip()
        for node in (self.a, self.b):
            run(node, "trust", "add", "demo/*", key)

    def publish(self, folder: Path, name: str, what: str, *flags: str) -> list[dict[str, Any]]:
        """Publish ``folder``, note what it took, and return the forms that it has."""
        answer = run(self.publisher, "publish", str(folder), name, "--key", "demo", *flags)
        self.rows.append(Row(what, float(answer["seconds"]), int(answer["bytes"]), 0, 0, 0, 0, 0))
        say(f"  {answer['reference']}")
        forms: list[dict[str, Any]] = answer["forms"]
        return forms

    def pull(self, node: command.Home, name: str, sources: list[str], what: str) -> tuple[Row, Path]:
        """Pull on ``node`` and note what came from where.

        Raises:
            DifferenceError: the parts do not sum to the whole.
        """
        began = time.monotonic()
        answer = run(node, "pull", name, *sources)
        seconds = time.monotonic() - began
        parts = answer["bytes"]
        if sum(parts[part] for part in ("reused", "patched", "lan", "wan")) != parts["total"]:
            raise DifferenceError(f"{what}: bytes by source do not sum to the total: {parts}")
        wire = sum(answer["wire"].values())
        row = Row(what, seconds, parts["total"], parts["reused"], parts["patched"], parts["lan"], parts["wan"], wire)
        self.rows.append(row)
        patched = f", from deltas {size(row.patched)}" if row.patched else ""
        moved = f"; {size(wire)} on the wire"
        say(f"  {seconds:.2f} s: reused {size(row.reused)}{patched}, LAN {size(row.lan)}, WAN {size(row.wan)}{moved}")
        return row, Path(answer["path"])


def first_version(demo: Demo, seed: str, a: str) -> Path:
    """Both models reach A from the seed, then B from A and the seed at once. Returns the recogniser on B."""
    for name, source in ((ENCODER, demo.encoder), (RECOGNISER, demo.recogniser)):
        short = name.removeprefix("demo/")
        say(f"Node A pulls the {short} from the seed.")
        _row, path = demo.pull(demo.a, name, ["--from", seed], f"A pulls {short}")
        compare(source, path)
        say(f"Node B pulls the {short} from A and the seed at once.")
        _row, path = demo.pull(demo.b, name, ["--peer", a, "--from", seed], f"B pulls {short}")
        compare(source, path)
    return path


def second_version(demo: Demo, seed: str, a: str) -> None:
    """Two of six layers change; both nodes pull what changed, and nothing else.

    Raises:
        DifferenceError: another number of bytes moved than the changed tensors have.
    """
    layers = " and ".join(str(layer) for layer in real_models.CHANGED_LAYERS)
    say(f"A second version: layers {layers} of six were trained further.")
    changed = real_models.change_two_layers(demo.encoder)
    demo.publish(demo.encoder, ENCODER, "publish encoder v2")
    for node, letter, sources in ((demo.a, "A", ["--from", seed]), (demo.b, "B", ["--peer", a, "--from", seed])):
        say(f"Node {letter} pulls the second version.")
        row, path = demo.pull(node, ENCODER, sources, f"{letter} pulls encoder v2")
        compare(demo.encoder, path)
        if row.lan + row.wan != changed:
            raise DifferenceError(f"{row.lan + row.wan} bytes moved, the changed tensors have {changed}")
    say(f"  exactly the {changed:,} bytes of the changed tensors moved; the rest was there")
    say("Node B asks again: nothing changed.")
    row, path = demo.pull(demo.b, ENCODER, ["--peer", a, "--from", seed], "B asks again")
    compare(demo.encoder, path)
    if row.lan + row.wan:
        raise DifferenceError(f"{row.lan + row.wan} bytes moved although nothing changed")


def fine_tuned(demo: Demo, seed: str, a: str) -> None:
    """A model that was really fine-tuned reaches A from the seed and B from A, as deltas.

    Raises:
        DifferenceError: more moved than the deltas and a tenth, or something was not decoded from them.
    """
    say("A text-to-video model in BF16, and a version of it that was gently fine-tuned: nearly every tensor changed.")
    before, after = demo_update.lay_out(demo.work / "models")
    demo.publish(before, CHECKPOINT, "publish checkpoint v1")
    for node, letter, sources in ((demo.a, "A", ["--from", seed]), (demo.b, "B", ["--peer", a])):
        say(f"Node {letter} pulls the first version, in the form that is here soonest.")
        _row, path = demo.pull(node, CHECKPOINT, sources, f"{letter} pulls checkpoint v1")
        compare(before, path)
    forms = demo.publish(after, CHECKPOINT, "publish checkpoint v2", "--base", CHECKPOINT)
    for form in forms:
        what = "deltas" if form["base"] else "in full"
        say(f"  {what}: {size(form['raw'])} of chunks are {size(form['encoded'])}")
    for node, letter, sources in ((demo.a, "A", ["--from", seed]), (demo.b, "B", ["--peer", a])):
        planned = run(node, "pull", CHECKPOINT, "--dry-run", *sources)
        say(f"Node {letter} would move {size(planned['wire']['bytes'])}, and pulls the second version.")
        row, path = demo.pull(node, CHECKPOINT, sources, f"{letter} pulls checkpoint v2")
        compare(after, path)
        if row.wire > 1.1 * planned["wire"]["bytes"] or not row.patched:
            raise DifferenceError(f"{row.wire} bytes moved where {planned['wire']['bytes']} were foretold")


def video(demo: Demo, seed: str, a: str, keep: Path | None) -> None:
    """The pruned INT8 engine of that model reaches B by way of A; then its next version does, as deltas, and B runs it.

    Raises:
        DifferenceError: the update took more than a tenth of the variant, or the clip shows something else.
    """
    say("The engine of that model, pruned and in INT8, and the next version's: scales and kept channels are the same.")
    before, after = demo_video.lay_out(demo.work / "models")
    demo.publish(before, f"{VIDEO}:v1", "publish engine v1")
    for node, letter, sources in ((demo.a, "A", ["--from", seed]), (demo.b, "B", ["--peer", a])):
        _row, path = demo.pull(node, f"{VIDEO}:v1", sources, f"{letter} pulls engine v1")
        compare(before, path, besides="small")
    clip(demo, "v1", keep)
    demo.publish(after, f"{VIDEO}:v2", "publish engine v2", "--base", f"{VIDEO}:v1")
    for node, letter, sources in ((demo.a, "A", ["--from", seed]), (demo.b, "B", ["--peer", a])):
        row, path = demo.pull(node, f"{VIDEO}:v2", sources, f"{letter} pulls engine v2")
        compare(after, path)
        say(f"  the update is {row.wire / row.total:.1%} of the variant")
        if row.wire > 0.1 * row.total or not row.patched:
            raise DifferenceError(f"{row.wire} of {row.total} bytes moved for an update")
    clip(demo, "v2", keep)


def clip(demo: Demo, version: str, keep: Path | None) -> None:
    """Node B answers the golden probe of a version and makes a clip, which is looked at.

    Raises:
        DifferenceError: the clip shows something else than was asked.
    """
    out = demo_video.place_for(f"wan-tiny-{version}.mp4", keep)
    reference = f"{VIDEO}:{version}"
    probed = run(demo.b, "verify", reference, "--run")["run"]
    say(f"  the golden probe is answered by {probed['backend']} in {probed['seconds']:.1f} s")
    say(f'  {demo.b.path.name}$ p2psync run {reference} --prompt "{demo_video.PROMPT}" --out {out}')
    try:
        answer, seen = demo_video.make(demo.b, reference, out)
    except ValueError as error:
        raise DifferenceError(str(error)) from error
    took = f"{answer['seconds']:.1f} s, {answer['seconds_per_step']:.3f} s a step"
    say(f"  {took}; a program that looks at it sees: {seen}")
    say(f"  video {out}\n  contact sheet {answer['sheet']}")


def same_answer(pulled: Path) -> None:
    """Run the source's recogniser and the pulled one on one picture.

    Raises:
        DifferenceError: their outputs differ in any bit, or they do not read what was drawn.
    """
    say(f'The pulled recogniser and the source read a picture of "{SENTENCE}".')
    picture = recogniser.picture_of(SENTENCE)
    source_output, source_text = recogniser.read(recogniser.source_model(), picture)
    output, text = recogniser.read(pulled / "model.onnx", picture)
    if output.shape != source_output.shape or output.tobytes() != source_output.tobytes():
        raise DifferenceError("the pulled model's output differs from the source model's")
    if text != SENTENCE or source_text != SENTENCE:
        raise DifferenceError(f"read {text!r} and {source_text!r} instead of {SENTENCE!r}")
    say(f'  both read "{text}"; all {output.size:,} output values are equal, bit for bit')


def whole_site(demo: Demo) -> None:
    """Four nodes that were told nothing of each other bring the encoder once over one slow link.

    Raises:
        DifferenceError: the seed gave more than the encoder and one per cent.
    """
    # The laboratory of the tests stands beside the tools, not below them.
    sys.path.append(str(environment.ROOT))
    import demo_site

    say("Four nodes of one site, told nothing but the publisher's key, ask for the encoder at the same moment.")
    key = demo.publisher.text("key", "export", "demo").strip()
    with demo_site.places(demo.publisher.path, demo.work) as place:
        say(f"  {place.what}")
        found = demo_site.spread(place, key, ENCODER)
    for number, answer in enumerate(found.answers, 1):
        parts = answer["bytes"]
        say(f"  node {number}: from outside {size(parts['wan'])}, from its neighbours {size(parts['lan'])}")
        compare(demo.encoder, Path(answer["path"]))
        wire = sum(answer["wire"].values())
        row = (answer["seconds"], *(parts[part] for part in ("total", "reused", "patched", "lan", "wan")), wire)
        demo.rows.append(Row(f"site, node {number}", *row))
    whole = found.answers[0]["bytes"]["total"]
    say(
        f"  the seed gave {found.seed_bytes:,} bytes, {found.seed_bytes / whole:.4f} times the encoder, "
        f"and all four had it after {found.seconds:.1f} s"
    )
    # Chunks once, and for each node its head and its manifest.
    if found.seed_bytes > 1.01 * whole:
        raise DifferenceError(f"the site took {found.seed_bytes} bytes from outside for a version of {whole}")


def compare(source: Path, pulled: Path, *, besides: str = "") -> None:
    """Demand the same files with the same bytes, but for ``besides``, the folder of a variant that was not asked for.

    Raises:
        DifferenceError: naming the files that are missing, surplus or different.
    """
    want, have = digests(source), digests(pulled)
    if besides:
        want = {name: digest for name, digest in want.items() if not name.startswith(f"{besides}/")}
    wrong = sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name))
    if wrong:
        raise DifferenceError(f"{pulled} differs from {source}: {', '.join(wrong)}")
    say(f"  {len(want)} files equal their source")


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below ``folder``, by path; what only tells how to publish is not among them."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "p2psync.toml"):
        with path.open("rb") as opened:
            found[str(path.relative_to(folder))] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found


def bytes_in(folder: Path) -> int:
    """The bytes of all files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(home: command.Home, *arguments: str) -> command.Answer:
    """Run one command, saying which, and return its JSON."""
    say(f"  {home.path.name}$ p2psync {' '.join(arguments)}")
    return home.json(*arguments)


def size(count: int) -> str:
    """Bytes for people, in SI units."""
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count:,} B"


def say(text: str) -> None:
    """Print one line at once, so that a watcher sees the demonstration move."""
    print(text, flush=True)


def table(rows: list[Row]) -> str:
    """The closing table of bytes and seconds."""
    lines: list[list[str]] = [["", "seconds", "total", "reused", "from deltas", "LAN", "WAN", "on the wire"]]
    for row in rows:
        counts = (row.total, row.reused, row.patched, row.lan, row.wan, row.wire)
        lines.append([row.what, f"{row.seconds:.2f}", *(f"{count:,}" for count in counts)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def show(work: Path, keep: Path | None) -> None:
    """The whole demonstration, in ``work``; the videos go to ``keep``, or to a folder that stays."""
    demo = Demo(work)
    demo.prepare()
    say("The publisher signs both.")
    demo.publish(demo.encoder, ENCODER, "publish encoder")
    demo.publish(demo.recogniser, RECOGNISER, "publish recogniser")
    with ExitStack() as stack:
        seed = stack.enter_context(demo.publisher.serve()).url
        a = stack.enter_context(demo.a.serve()).url
        say(f"The seed listens on {seed}, node A on {a}.")
        pulled = first_version(demo, seed, a)
        second_version(demo, seed, a)
        fine_tuned(demo, seed, a)
    say("Every file of every home is read again and proved.")
    for home in (demo.publisher, demo.a, demo.b):
        run(home, "verify")
    same_answer(pulled)
    whole_site(demo)
    with demo.publisher.serve() as again, demo.a.serve() as neighbour:
        video(demo, again.url, neighbour.url, keep)
    say(f"\n{table(demo.rows)}\n\nBytes; seconds as a user waits, the start of the command included.")


@contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """``keep``, or a temporary folder that ends with the demonstration."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=False)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="p2psync-demo-") as work:
        yield Path(work)


def main() -> int:
    """Returns the exit code: 0, or 1 when a command failed or anything differs."""
    parser = argparse.ArgumentParser(description="Show the main job on real models.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the homes and the models in DIR")
    arguments = parser.parse_args()
    environment.enter("demo")
    began = time.monotonic()
    try:
        with workplace(arguments.keep) as work:
            show(work, arguments.keep)
    except (DifferenceError, command.CommandError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    say(f"Done in {time.monotonic() - began:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
