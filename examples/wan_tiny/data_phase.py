"""Turn clips and their captions into what the transformers train on: normalised latents and token numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from wan_tiny.captions import LANGUAGES, caption
from wan_tiny.modules import encode_clips
from wan_tiny.render import render
from wan_tiny.vae_phase import to_device
from wan_tiny.vocabulary import encode_captions
from wan_tiny.world import Frame, Scenes, sample

# Tokens of a caption at most; the same number is the pipeline's recommended ``max_sequence_length``.
TEXT_TOKENS = 32
CAPTIONS_PER_CLIP = 4
_ENCODE_CLIPS = 128


@dataclass(frozen=True, slots=True)
class Data:
    """Latents of clips, and the captions of each clip in languages drawn at random."""

    latents: Any  # [n, channels, frames, height, width], FP16
    tokens: Any  # [n, captions, tokens]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Which scenes to draw: rows of triples with the number of clips, and which part of them holds two objects."""

    parts: Sequence[tuple[NDArray[np.int64], int]]
    two_share: float


def make_data(vae: Any, tokenizer: PreTrainedTokenizerFast, seed: int, frame: Frame, mixture: Mixture) -> Data:
    """Draw scenes, encode their clips, and caption them.

    Each channel's mean and deviation are measured here if the VAE has none yet, and kept in its configuration.
    """
    rng = np.random.default_rng([seed, 12])
    parts = [sample(rng, n, rows, two_share=mixture.two_share, frame=frame) for rows, n in mixture.parts]
    scenes = Scenes.join(parts)
    latents = _encode(vae, scenes, frame)
    mean, deviation = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    for batch in latents.split(4096):
        batch.copy_((batch.float() - mean) / deviation)
    tokens = torch.from_numpy(_captions(tokenizer, scenes, seed)).to(latents.device)
    return Data(latents, tokens)


def _encode(vae: Any, scenes: Scenes, frame: Frame) -> Any:
    """Return the mean latents of all scenes, measuring each channel's mean and deviation for a VAE that has none."""
    device = next(vae.parameters()).device
    move = to_device(device)
    batches, variances = [], []
    for start in range(0, len(scenes), _ENCODE_CLIPS):
        batch = scenes.part(start, start + _ENCODE_CLIPS).map(move)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            mean, log_variance = encode_clips(vae, render(batch, frame, torch, move)[0] * 2 - 1)
        batches.append(mean.half())
        variances.append(log_variance.float().clamp(-20, 10).exp().mean(dim=(0, 2, 3, 4)))
    latents = torch.cat(batches)
    if not any(vae.config.latents_mean):
        every = latents[:: max(1, len(latents) // 8192)].float()
        spread = (every.var(dim=(0, 2, 3, 4)) + torch.stack(variances).mean(dim=0)).sqrt()
        vae.register_to_config(
            latents_mean=[round(value, 6) for value in every.mean(dim=(0, 2, 3, 4)).tolist()],
            latents_std=[round(value, 6) for value in spread.tolist()],
        )
    return latents


def _captions(tokenizer: PreTrainedTokenizerFast, scenes: Scenes, seed: int) -> NDArray[np.int16]:
    rng = np.random.default_rng([seed, 13])
    languages = list(LANGUAGES)
    drawn = rng.integers(len(languages), size=(len(scenes), CAPTIONS_PER_CLIP))
    texts = [caption(scenes, i, languages[k], rng).text for i, row in enumerate(drawn.tolist()) for k in row]
    return encode_captions(tokenizer, texts, TEXT_TOKENS).reshape(len(scenes), CAPTIONS_PER_CLIP, TEXT_TOKENS)
