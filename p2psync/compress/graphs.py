"""Modules in the form in which they are traced: no in-place writes, MatMul-ready weights, attention as one operator.

A Wan pipeline becomes four graphs: text encoder, expert, first chunk and later chunks of the decoder. What a backend
may want in another form (attention, RMS norm) is traced as one operator of our own and written out afterwards, so one
trace serves every backend.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

DOMAIN: Final = "p2psync"


@torch.library.custom_op(f"{DOMAIN}::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762), heads side by side.

    Args:
        query: (batch, tokens, heads * width).
        key: (batch, source tokens, heads * width).
        value: (batch, source tokens, heads * width).
        heads: Number of heads.

    Returns:
        (batch, tokens, heads * width).
    """
    split = [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    return functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2).contiguous()


@attention.register_fake
def _(query: Tensor, _key: Tensor, _value: Tensor, _heads: int) -> Tensor:
    return torch.empty_like(query)


@torch.library.custom_op(f"{DOMAIN}::rms_norm", mutates_args=())
def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square norm over the last axis (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467).

    Args:
        hidden: (..., width).
        weight: (width,).
        eps: Added to the mean square.

    Returns:
        Same shape as ``hidden``.
    """
    return functional.rms_norm(hidden, weight.shape, weight, eps)


@rms_norm.register_fake
def _(hidden: Tensor, _weight: Tensor, _eps: float) -> Tensor:
    return torch.empty_like(hidden)


@torch.library.custom_op(f"{DOMAIN}::rotate", mutates_args=())
def rotate(packed: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864) on adjacent pairs.

    Args:
        packed: (batch, tokens, heads * width).
        cos: (tokens, width / 2).
        sin: (tokens, width / 2).
        heads: Number of heads.

    Returns:
        Same shape as ``packed``.
    """
    pairs = packed.unflatten(2, (heads, -1)).unflatten(3, (-1, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(2)


@rotate.register_fake
def _(packed: Tensor, _cos: Tensor, _sin: Tensor, _heads: int) -> Tensor:
    return torch.empty_like(packed)


class DeployLinear(nn.Module):
    """A linear layer whose weight stands as (in, out), so that the graph has a MatMul and no Transpose."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # A view: the copy in the new order is made when the bytes are written, one tensor at a time.
        self.weight = nn.Parameter(linear.weight.detach().t(), requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        product = torch.matmul(hidden, self.weight)
        return product if self.bias is None else product + self.bias


class _RMSNorm(nn.Module):
    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = torch.finfo(norm.weight.dtype).eps if norm.eps is None else norm.eps

    def forward(self, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, self.weight, self.eps)


class _Upsample(nn.Module):
    """Nearest by a factor of two: equal to nearest-exact there, and known to every parser."""

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.interpolate(hidden, scale_factor=2.0, mode="nearest")


class _Processor:
    """What ``WanAttention`` computes, in operators of our own: rotation without writes into slices, one attention."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Any,
        hidden: Tensor,
        source: Tensor | None = None,
        _mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        context = hidden if source is None else source
        query, key, value = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(context)), attn.to_v(context)
        if rotary is not None:
            # The tables hold each angle twice, (1, tokens, 1, width).
            cos, sin = rotary[0][0, :, 0, 0::2].to(query.dtype), rotary[1][0, :, 0, 1::2].to(query.dtype)
            query, key = (rotate(x, cos, sin, attn.heads) for x in (query, key))
        return attn.to_out[0](attention(query, key, value, attn.heads))


def prepared(module: nn.Module) -> nn.Module:
    """A copy of ``module`` in which what traces badly is replaced: linear layers, RMS norms, attention, upsampling.

    Returns:
        The copy, in evaluation mode, computing what ``module`` does and sharing its memory.
    """
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    fresh = copy.deepcopy(module, shared)
    for parent in list(fresh.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, DeployLinear(child))
            elif isinstance(child, nn.RMSNorm):
                setattr(parent, name, _RMSNorm(child))
            elif type(child).__name__ == "WanUpsample":
                setattr(parent, name, _Upsample())
        if type(parent).__name__ == "WanAttention":
            parent.processor = _Processor()
    return fresh.eval()


class TextGraph(nn.Module):
    """The text encoder: ids, mask (batch, tokens) int64 to hidden (batch, tokens, width), zero past the mask."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.model = encoder

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Encode; see the class for shapes."""
        hidden = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return hidden * mask.unsqueeze(-1).to(hidden.dtype)


class ExpertGraph(nn.Module):
    """One expert: latents (batch, 16, frames, height, width), timestep (batch,), text (batch, tokens, width)."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.model = transformer

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Predict the velocity, shaped as ``latents``."""
        return self.model(latents, timestep, text, return_dict=False)[0]


class DecodeFirst(nn.Module):
    """The first latent frame (batch, 16, 1, h, w) to one frame (batch, 3, 1, 8h, 8w) and the caches for the next chunk.

    A cache holds the last two frames before a causal convolution, (batch, channels, 2, height, width). Where there was
    no past it holds zeros, which is what the convolution pads with: so one graph serves every later chunk.
    """

    def __init__(self, vae: nn.Module, slots: int) -> None:
        super().__init__()
        self.model, self.slots = vae, slots

    def forward(self, latents: Tensor) -> tuple[Tensor, ...]:
        """Decode the first frame; see the class for shapes."""
        cache: list[Any] = [None] * self.slots
        frames = _decode(self.model, latents, cache, first=True)
        whole: list[Tensor] = []
        for slot in cache:
            if isinstance(slot, Tensor):
                whole.append(functional.pad(slot, (0, 0, 0, 0, 2 - slot.shape[2], 0)))
            else:  # A time convolution that the first frame skips; it stands after the convolution of its own input.
                whole.append(torch.zeros_like(whole[-1]))
        return (frames, *whole)


class DecodeNext(nn.Module):
    """A later latent frame and the caches to four frames (batch, 3, 4, 8h, 8w) and the new caches."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.model = vae

    def forward(self, latents: Tensor, caches: list[Tensor]) -> tuple[Tensor, ...]:
        """Decode one latent frame; see the classes for shapes."""
        cache: list[Any] = list(caches)
        frames = _decode(self.model, latents, cache, first=False)
        return (frames, *cache)


def _decode(vae: Any, latents: Tensor, cache: list[Any], *, first: bool) -> Tensor:
    hidden = vae.post_quant_conv(latents)
    frames = vae.decoder(hidden, feat_cache=cache, feat_idx=[0], first_chunk=first)
    if vae.config.patch_size is not None:
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        frames = unpatchify(frames, vae.config.patch_size)
    return frames.clamp(-1.0, 1.0)


def cache_slots(vae: Any) -> int:
    """How many caches the decoder of ``vae`` carries from chunk to chunk."""
    cache: list[Any] = [None] * 256
    index = [0]
    parameter = next(vae.parameters())
    with torch.no_grad():
        latents = torch.zeros(1, vae.config.z_dim, 1, 2, 2, dtype=parameter.dtype, device=parameter.device)
        vae.decoder(vae.post_quant_conv(latents), feat_cache=cache, feat_idx=index, first_chunk=True)
    return index[0]
