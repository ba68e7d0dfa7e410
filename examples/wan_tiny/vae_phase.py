"""Train the VAE on pixels alone: on clips of any colour, so that a later version's new colour needs no new VAE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from wan_tiny.loop import Loop, Schedule, captured, forget, log, optimizer, set_rates
from wan_tiny.modules import decode_latents, encode_clips
from wan_tiny.render import render
from wan_tiny.world import Frame, sample, split_triples

BATCH = 12
_POOL_CLIPS = 6000
_DRAW_CLIPS = 200
_TWO_SHARE, _WILD_SHARE = 0.4, 0.3
# The shapes and their edges are 3 to 8 % of the pixels and all of the meaning, so they count four times.
_OBJECT_WEIGHT = 3.0
_ABSOLUTE_WEIGHT, _EDGE_WEIGHT = 0.2, 0.1
# Per latent element. Enough to keep latents small, not so much that a channel falls silent.
_KL_WEIGHT = 3e-4


@dataclass(frozen=True, slots=True)
class Pool:
    """Clips to draw batches from, as bytes: red, green, blue and which part of the pixel an object covers."""

    clips: Any  # [n, 4, frames, height, width]

    def batch(self, n: int) -> tuple[Any, Any]:
        """Draw clips in -1 to 1, and their coverage."""
        drawn = self.clips[torch.randint(len(self.clips), (n,), device=self.clips.device)].float() / 255
        return drawn[:, :3] * 2 - 1, drawn[:, 3:]


def draw_pool(seed: int, frame: Frame, device: Any, clips: int = _POOL_CLIPS) -> Pool:
    """Render the pool on the device."""
    rng = np.random.default_rng([seed, 10])
    pool = torch.empty(clips, 4, frame.frames, frame.height, frame.width, dtype=torch.uint8, device=device)
    for start in range(0, clips, _DRAW_CLIPS):
        n = min(_DRAW_CLIPS, clips - start)
        scenes = sample(rng, n, split_triples().every, two_share=_TWO_SHARE, frame=frame, wild_share=_WILD_SHARE)
        rgb, covered = render(scenes.map(to_device(device)), frame, torch, to_device(device))
        pool[start : start + n] = (torch.cat([rgb, covered[:, None]], dim=1) * 255).round().to(torch.uint8)
    return Pool(pool)


def to_device(device: Any) -> Callable[[Any], Any]:
    """Return the function that turns a numpy array into a tensor on the device."""
    return lambda array: torch.as_tensor(array, device=device)


def objective(vae: Any, clips: Any, covered: Any) -> tuple[Any, Any]:
    """Return the whole loss of encoding and decoding clips, and its part that says how far the pixels are off."""
    with torch.autocast(clips.device.type, torch.bfloat16, cache_enabled=False):
        mean, log_variance = (part.float() for part in encode_clips(vae, clips))
        log_variance = log_variance.clamp(-20, 10)
        latents = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        decoded = decode_latents(vae, latents).float()
    weight = 1 + _OBJECT_WEIGHT * functional.max_pool3d(covered, (1, 3, 3), 1, (0, 1, 1))
    error = decoded - clips
    pixels = (weight * (error**2 + _ABSOLUTE_WEIGHT * error.abs())).mean()
    across = (weight[..., 1:] * (error[..., 1:] - error[..., :-1]).abs()).mean()
    down = (weight[..., 1:, :] * (error[..., 1:, :] - error[..., :-1, :]).abs()).mean()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return pixels + _EDGE_WEIGHT * (across + down) + _KL_WEIGHT * kl, pixels


def channels_last(vae: Any) -> None:
    """Lay the weights out as tensor cores want them; with clips laid out alike a step takes a quarter less time."""
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
        elif isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def train_vae(vae: Any, seed: int, frame: Frame, schedule: Schedule, start: int, deadline: float) -> int:
    """Train from step ``start``, and return how many steps are done."""
    device = next(vae.parameters()).device
    pool = draw_pool(seed, frame, device)
    adam = optimizer([list(vae.parameters())], device, weight_decay=0.0)
    losses = torch.zeros((), device=device)
    measured: Any = torch.compile(objective) if device.type == "cuda" else objective

    def step() -> None:
        clips, covered = pool.batch(BATCH)
        whole, pixels = measured(vae, clips.contiguous(memory_format=torch.channels_last_3d), covered)
        adam.zero_grad(set_to_none=True)
        whole.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        adam.step()
        losses.add_(pixels.detach())

    channels_last(vae)
    vae.train()
    torch.manual_seed(seed + start)
    set_rates(adam, [0.0])
    replay = captured(step, device)
    forget(adam)
    log("vae: step captured")
    done = Loop("vae", schedule, start, deadline, losses).run(replay, lambda rate: set_rates(adam, [rate]))
    vae.eval()
    return done


def fidelity(vae: Any, seed: int, frame: Frame, clips: int = 48) -> dict[str, float]:
    """Return how well the stock VAE gives clips back, a chunk at a time, and how far whole clips are from that."""
    device = next(vae.parameters()).device
    rng = np.random.default_rng([seed, 11])
    scenes = sample(rng, clips, split_triples().every, two_share=0.5, frame=frame)
    with torch.no_grad():
        video = render(scenes.map(to_device(device)), frame, torch, to_device(device))[0] * 2 - 1
        latents = vae.encode(video).latent_dist.mode()
        decoded = vae.decode(latents).sample
        apart_encoder = (encode_clips(vae, video)[0] - latents).abs().max()
        apart_decoder = (decode_latents(vae, latents).clamp(-1, 1) - decoded).abs().max()
        psnr = -10 * torch.log10((((decoded - video) / 2) ** 2).mean())
    figures = {"psnr_db": psnr, "whole_clip_encoder_off": apart_encoder, "whole_clip_decoder_off": apart_decoder}
    return {name: round(float(value), 6) for name, value in figures.items()}
