"""One ``run``: choose a variant and a backend, make a clip, write it, and note what it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2psync import disk
from p2psync.engine import generations, memory
from p2psync.engine.choice import Candidate, Choice, choose
from p2psync.engine.denoise import Cancel
from p2psync.engine.description import Description, read_description
from p2psync.engine.generations import Generation
from p2psync.engine.pipeline import Hooks, Pipeline, open_pipeline
from p2psync.engine.request import Request, Wish, settle
from p2psync.engine.unipc import Latents
from p2psync.engine.video import Mp4, Outgoing, Sheet, check_name, library, png, remove_parts, writing
from p2psync.errors import P2PSyncError, StoreError

_SHEET_SUFFIX: Final = ".sheet.png"

# What happens, for a progress bar: "step" or "frames", how many are done, of how many.
OnEvent = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Identity:
    """What is run, for the log: the reference, the digest as it is printed, the version under its tag."""

    reference: str = ""
    digest: str = ""
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """What was made, and what it took. Seconds and bytes."""

    out: Path
    sheet: Path
    frames_dir: Path | None
    request: Request
    variant: str
    backend: str
    codec: str
    seconds: float
    load_seconds: float
    seconds_per_step: float
    decode_seconds: float
    peak_memory_bytes: int | None
    steps_down: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The clip as plain values. The prompt is not among them."""
        request = self.request
        return {
            "out": str(self.out),
            "sheet": str(self.sheet),
            "frames_dir": None if self.frames_dir is None else str(self.frames_dir),
            "variant": self.variant,
            "backend": self.backend,
            "codec": self.codec,
            "seed": request.seed,
            "steps": request.steps,
            "guidance": request.guidance,
            "height": request.height_px,
            "width": request.width_px,
            "frames": request.frames,
            "seconds": round(self.seconds, 3),
            "load_seconds": round(self.load_seconds, 3),
            "seconds_per_step": round(self.seconds_per_step, 4),
            "decode_seconds": round(self.decode_seconds, 3),
            "peak_memory_bytes": self.peak_memory_bytes,
            "steps_down": list(self.steps_down),
        }


@dataclass(frozen=True, slots=True)
class Job:
    """One ``run``, as the command line says it. ``among`` are the engines of the installed version."""

    among: Sequence[Candidate]
    wish: Wish
    out: Path
    frames_dir: Path | None = None
    variant: str | None = None
    backend: str | None = None
    identity: Identity = Identity()
    log: Path | None = None


def run(job: Job, *, on_event: OnEvent | None = None, cancel: Cancel | None = None) -> Clip:
    """Make the clip of a job.

    The outputs are opened before anything is loaded, and get their names only when they are whole. One line goes to
    the log whether it went well or not; a log that cannot be written fails nothing.

    Args:
        job: What to do.
        on_event: Called with ("step", done, of) and ("frames", done, of).
        cancel: Asked before every step.

    Raises:
        UsageError: the name of the output says another format.
        StoreError: the output cannot be written.
        ModelError: nothing runs it, or it failed.
    """
    check_name(job.out)
    with memory.enough("the clip cannot be made"):
        return _run(job, on_event, cancel)


def _run(job: Job, on_event: OnEvent | None, cancel: Cancel | None) -> Clip:
    choice = choose(job.among, variant=job.variant, backend=job.backend)
    described = read_description(choice.candidate.directory)
    making = _Making(job, choice, described, settle(described, job.wish), on_event, cancel)
    memory.reset_peak()
    outcome = "interrupted"
    try:
        with memory.enough("the clip cannot be made"):
            clip = making.clip()
        outcome = "done"
        return clip
    except P2PSyncError as error:
        outcome = error.code
        raise
    finally:
        if job.log is not None:
            with suppress(StoreError):
                generations.append(job.log, making.generation(outcome))


class _Making:
    """One clip on its way."""

    def __init__(
        self,
        job: Job,
        choice: Choice,
        described: Description,
        request: Request,
        on_event: OnEvent | None,
        cancel: Cancel | None,
    ) -> None:
        self._job = job
        self._choice = choice
        self._described = described
        self._request = request
        self._tell = on_event or (lambda _what, _done, _of: None)
        self._cancel = cancel
        self._begun_s = time.monotonic()
        self._steps_s: list[float] = []

    def clip(self) -> Clip:
        """Make it: outputs first, then the engine, then the work."""
        job, request = self._job, self._request
        library()
        with ExitStack() as stack:
            remove_parts(job.out.parent)
            out = stack.enter_context(Outgoing(job.out))
            sheet = stack.enter_context(Outgoing(job.out.with_name(job.out.stem + _SHEET_SUFFIX)))
            if job.frames_dir is not None:
                with writing(job.frames_dir):
                    disk.make_folder(job.frames_dir)
                remove_parts(job.frames_dir)
                stack.enter_context(Outgoing(job.frames_dir / "try.png"))
            pipeline = stack.enter_context(open_pipeline(self._choice.candidate.directory, self._choice.backend))
            loaded_s = time.monotonic()
            latents = pipeline.latents(request, Hooks(on_step=self._on_step, cancel=self._cancel))
            sampled_s = time.monotonic()
            codec = self._write(pipeline, latents, out, sheet)
            ended_s = time.monotonic()
        return Clip(
            out=job.out,
            sheet=sheet.path,
            frames_dir=job.frames_dir,
            request=request,
            variant=self._choice.candidate.name,
            backend=self._choice.backend,
            codec=codec,
            seconds=ended_s - self._begun_s,
            load_seconds=loaded_s - self._begun_s,
            seconds_per_step=self._seconds_per_step() or sampled_s - loaded_s,
            decode_seconds=ended_s - sampled_s,
            peak_memory_bytes=memory.peak_bytes(),
            steps_down=self._choice.steps_down,
        )

    def generation(self, outcome: str) -> Generation:
        """The line for the log."""
        job, request, step_s = self._job, self._request, self._seconds_per_step()
        return Generation(
            time_unix_s=int(time.time()),
            reference=job.identity.reference,
            digest=job.identity.digest,
            version=job.identity.version,
            variant=self._choice.candidate.name,
            backend=self._choice.backend,
            precision=self._described.precision,
            height_px=request.height_px,
            width_px=request.width_px,
            frames=request.frames,
            steps=request.steps,
            seconds=round(time.monotonic() - self._begun_s, 3),
            seconds_per_step=None if step_s is None else round(step_s, 4),
            peak_memory_bytes=memory.peak_bytes(),
            outcome=outcome,
        )

    def _seconds_per_step(self) -> float | None:
        """From the end of the first step on, so that loading an expert does not count; None under two steps."""
        times = self._steps_s
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None

    def _on_step(self, done: int, of: int) -> None:
        self._steps_s.append(time.monotonic())
        self._tell("step", done, of)

    def _write(self, pipeline: Pipeline, latents: Latents, out: Outgoing, sheet_out: Outgoing) -> str:
        """Decode, and write frames as they come. Returns the codec."""
        height_px, width_px, count = self._request.height_px, self._request.width_px, self._request.frames
        sheet = Sheet(frames=count, height_px=height_px, width_px=width_px)
        with writing(out.path):
            movie = Mp4(out.file, height_px=height_px, width_px=width_px, fps=self._described.video.fps)
        done = 0
        for frames in pipeline.frames(latents, cancel=self._cancel):
            with writing(out.path):
                movie.add(frames)
            sheet.add(frames)
            if self._job.frames_dir is not None:
                _write_frames(self._job.frames_dir, frames, done)
            done += len(frames)
            self._tell("frames", done, count)
        with writing(out.path):
            movie.finish()
        with writing(sheet_out.path):
            sheet_out.file.write(png(sheet.picture()))
        # Whatever fails should fail before the first of the two has its name.
        sheet_out.settle()
        out.settle()
        sheet_out.keep()
        out.keep()
        return movie.codec


def _write_frames(directory: Path, frames: NDArray[np.uint8], first: int) -> None:
    for at, frame in enumerate(frames, first + 1):
        with Outgoing(directory / f"frame-{at:05d}.png") as out, writing(out.path):
            out.file.write(png(frame))
            out.keep()
