"""A prompt becomes a clip: text encoder, experts, decoder, in one object that holds one engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from p2psync.engine import backends, memory
from p2psync.engine.backends import cast
from p2psync.engine.decode import Decoder, Frames
from p2psync.engine.denoise import Cancel, Denoiser, OnStep, Watch, check_finite, first_noise, velocity_of
from p2psync.engine.description import Description, read_description
from p2psync.engine.request import Request, Wish, settle
from p2psync.engine.residency import Parts, prove_weights
from p2psync.engine.text import Tokenizer, Tokens
from p2psync.engine.unipc import Latents

_EMPTY: Final = ""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a caller wants to hear and say during a generation; see ``Denoiser``."""

    on_step: OnStep | None = None
    cancel: Cancel | None = None
    watch: Watch | None = None


class Pipeline:
    """One engine, ready to run. One request at a time; ``close`` it, or use it as a context manager."""

    def __init__(self, described: Description, parts: Parts, tokenizer: Tokenizer, backend: str) -> None:
        self.described = described
        self.backend = backend
        self.parts = parts
        self._tokenizer = tokenizer

    def generate(  # noqa: PLR0913 - what a clip is, by name
        self,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        height: int | None = None,
        width: int | None = None,
        frames: int | None = None,
        on_step: OnStep | None = None,
        cancel: Cancel | None = None,
    ) -> NDArray[np.uint8]:
        """Make a clip and return all of it.

        Args:
            prompt: What to show, in any language that the model was trained in.
            seed: From 0 to 2**32 - 1. The same seed, request, version, variant and backend give the same frames.
            steps: Denoising steps; None here and below means what the publisher chose.
            guidance: 1 is none; more follows the prompt more closely.
            height: In pixels, a multiple of the model's step.
            width: As ``height``.
            frames: 4k+1 for Wan.
            on_step: Called with how many steps are done, and of how many.
            cancel: Asked before every step; True ends the generation.

        Returns:
            uint8 of shape [frames, height, width, 3].

        Raises:
            UnfitRequestError: the model cannot make this.
            GenerationCancelledError: ``cancel`` said so.
            ModelError: the model or its backend failed.
        """
        wish = Wish(prompt, seed, steps, guidance, height, width, frames)
        request = settle(self.described, wish)
        return np.concatenate(list(self.stream(request, Hooks(on_step, cancel))))

    def stream(self, request: Request, hooks: Hooks = Hooks()) -> Iterator[NDArray[np.uint8]]:
        """Make a clip and give its frames a few at a time, so that a long one is never whole in memory.

        Yields:
            uint8 of shape [frames, height, width, 3].

        Raises:
            ModelError: as for ``generate``.
        """
        yield from self.frames(self.latents(request, hooks), cancel=hooks.cancel)

    def latents(self, request: Request, hooks: Hooks = Hooks(), noise: Latents | None = None) -> Latents:
        """Sample: everything but decoding.

        Args:
            request: What to make.
            hooks: Callbacks.
            noise: Start from this instead of the noise of the request's seed.

        Returns:
            float32 of shape [1, channels, latent frames, height, width].
        """
        with memory.enough("the clip cannot be sampled"):
            return self._sampled(request, hooks, noise)

    def _sampled(self, request: Request, hooks: Hooks, noise: Latents | None) -> Latents:
        described = self.described
        prompts = [request.prompt, *([_EMPTY] if request.guided else [])]
        texts = [self.text(prompt) for prompt in prompts]
        if hooks.watch is not None:
            hooks.watch("text", texts[0])
        start = first_noise(request.seed, latent_shape(described, request)) if noise is None else noise
        denoiser = Denoiser(
            described.sampling,
            described.experts,
            self.parts.session,
            on_step=hooks.on_step,
            cancel=hooks.cancel,
            watch=hooks.watch,
        )
        return denoiser.run(start, texts, steps=request.steps, guidance=request.guidance)

    def text(self, prompt: str) -> NDArray[np.float32]:
        """Hidden states of a cleaned prompt, [1, length, width]; rows after its last token are zero."""
        return self.encode(self.tokens(prompt))

    def tokens(self, prompt: str) -> Tokens:
        """Ids of a cleaned prompt."""
        return self._tokenizer.encode(prompt)

    def encode(self, tokens: Tokens) -> NDArray[np.float32]:
        """Hidden states of ids, [1, length, width]; rows after the last token are zero."""
        with self.parts.session("text") as session:
            ids, mask = session.inputs
            feeds = {ids.name: cast(tokens.ids, ids.dtype), mask.name: cast(tokens.mask, mask.dtype)}
            hidden = np.asarray(session.run(feeds)[0], np.float32)
        seen: NDArray[np.float32] = np.where(tokens.mask[..., None] == 1, hidden, np.float32(0))
        check_finite(seen, "text encoder")
        return seen

    def velocity(self, expert: str, latents: Latents, timestep: int, text: NDArray[np.float32]) -> Latents:
        """What one expert answers once, without guidance, in the shape of ``latents``."""
        with self.parts.session(expert) as session:
            return velocity_of(session, latents, timestep, text)

    def frames(self, latents: Latents, *, cancel: Cancel | None = None) -> Iterator[NDArray[np.uint8]]:
        """Frames of sampled latents, a few at a time: uint8, [frames, height, width, 3]."""
        for frames in self.decode(latents, cancel=cancel):
            yield to_bytes(frames)

    def decode(self, latents: Latents, *, cancel: Cancel | None = None, tiled: bool | None = None) -> Iterator[Frames]:
        """Frames of sampled latents, a few at a time: float32 from 0 to 1, [frames, height, width, 3]."""
        with memory.enough("the frames cannot be decoded"):
            yield from Decoder(self.described, self.parts.session, cancel=cancel).frames(latents, tiled=tiled)

    def close(self) -> None:
        """Give back all memory and mappings."""
        self.parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_pipeline(
    directory: str | os.PathLike[str],
    backend: str | None = None,
    *,
    threads: int | None = None,
    keep_parts: bool | None = None,
    prove: bool = False,
    skeletons: str | None = None,
) -> Pipeline:
    """Open an engine directory. Parts are loaded when they are first used.

    Args:
        directory: The one that holds ``engine.json``.
        backend: What runs it; None takes the first that is usable for this precision.
        threads: Of one run; None means one per processor.
        keep_parts: Keep all parts loaded, or (False) one at a time. None decides by the memory that is available.
        prove: Also hash all weights and compare them with what ``engine.json`` names.
        skeletons: Run the form of the parts that this backend would run instead of its own.

    Raises:
        UnsupportedModelError: no engine, or one that nothing here runs.
        IncompleteModelError: a file is missing or belongs to another version.
        BackendUnavailableError: the backend is not here.
        MalformedError: ``engine.json`` does not follow its format.
        MemoryShortError: not even that fits.
    """
    from p2psync.engine.choice import backend_for

    with memory.enough(f"{directory} cannot be opened"):
        described = read_description(Path(directory))
        name = backend or backend_for(described.precision)
        parts = Parts(described, backends.backend(name), threads=threads, keep=keep_parts, form=skeletons)
        if prove:
            prove_weights(described)
        tokenizer = Tokenizer(described.path(described.tokenizer), described.sampling.max_sequence_length)
        return Pipeline(described, parts, tokenizer, name)


def latent_shape(described: Description, request: Request) -> tuple[int, ...]:
    """The shape of the latents that stand for a request."""
    latent = described.latent
    frames = 1 + (request.frames - 1) // latent.temporal
    return (1, latent.channels, frames, request.height_px // latent.spatial, request.width_px // latent.spatial)


def to_bytes(frames: NDArray[Any]) -> NDArray[np.uint8]:
    """Frames from 0 to 1 as the nearest of 256 levels."""
    return np.floor(frames * 255.0 + 0.5).astype(np.uint8)
