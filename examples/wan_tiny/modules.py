"""Build the parts of the pipeline at their tiny size, put them together, and run the VAE on whole clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

LATENT_CHANNELS = 16
# Noise levels above this one belong to the first expert, those below to the second, as in Wan2.2.
BOUNDARY = 0.875
FLOW_SHIFT = 3.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Widths and depths. The whole in BF16 stays under 32 MB."""

    text_width: int = 192
    text_layers: int = 4
    heads: int = 4
    head_width: int = 64
    ffn_width: int = 768
    layers: int = 5
    vae_width: int = 16


def build_vae(sizes: Sizes) -> AutoencoderKLWan:
    """Return the VAE: 8 times smaller in each direction, 4 times in time after the first frame."""
    return AutoencoderKLWan(
        base_dim=sizes.vae_width,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )


def build_text_encoder(sizes: Sizes, vocabulary: int) -> UMT5EncoderModel:
    """Return the text encoder."""
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=sizes.text_width,
        d_kv=32,
        d_ff=2 * sizes.text_width,
        num_layers=sizes.text_layers,
        num_heads=sizes.text_width // 32,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=48,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config)


def build_transformer(sizes: Sizes) -> WanTransformer3DModel:
    """Return one expert, with the initial weights of Wan's own code, which diffusers leaves out."""
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head_width,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=sizes.text_width,
        freq_dim=256,
        ffn_dim=sizes.ffn_width,
        num_layers=sizes.layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.patch_embedding.weight.flatten(1))
    embedder = model.condition_embedder
    for pair in (embedder.text_embedder, embedder.time_embedder):
        nn.init.normal_(pair.linear_1.weight, std=0.02)
        nn.init.normal_(pair.linear_2.weight, std=0.02)
    nn.init.zeros_(model.proj_out.weight)
    return model


def embed(text_encoder: Any, ids: Any) -> Any:
    """Return the embedding of texts as the pipeline passes it on: zero wherever ``ids``, [n, tokens], is zero."""
    mask = (ids != 0).long()
    return text_encoder(ids, mask).last_hidden_state * mask[..., None]


def assemble(tokenizer: PreTrainedTokenizerFast, text_encoder: Any, vae: Any, high: Any, low: Any) -> WanPipeline:
    """Return the pipeline of the parts; ``high`` is the expert of the high noise levels."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=FLOW_SHIFT
    )
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=scheduler,
        transformer=high,
        transformer_2=low,
        boundary_ratio=BOUNDARY,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def with_euler(pipeline: WanPipeline) -> WanPipeline:
    """Return the same parts under the Euler scheduler."""
    parts = {**pipeline.components, "scheduler": FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT)}
    changed = WanPipeline(**parts, boundary_ratio=BOUNDARY)
    changed.set_progress_bar_config(disable=True)
    return changed


def encode_clips(vae: Any, clips: Any) -> tuple[Any, Any]:
    """Return mean and log variance of the latents of clips in -1 to 1, [n, 3, frames, height, width].

    Equal to the VAE's own encoder, which takes four frames at a time and remembers the last two between: here each
    causal convolution sees the whole clip at once, which is faster and has a gradient.
    """
    encoder = vae.encoder
    x = encoder.conv_in(clips)
    for block in encoder.down_blocks:
        if not hasattr(block, "resample"):
            x = block(x)
            continue
        x = _each_frame(block.resample, x)
        # The first frame stands alone, the rest shrink by two.
        if block.mode == "downsample3d":
            x = torch.cat([x[:, :, :1], block.time_conv(x)], dim=2)
    x = encoder.conv_out(encoder.nonlinearity(encoder.norm_out(encoder.mid_block(x))))
    mean, log_variance = vae.quant_conv(x).chunk(2, dim=1)
    return mean, log_variance


def decode_latents(vae: Any, latents: Any) -> Any:
    """Return the clips of latents, unclipped; the counterpart of ``encode_clips``."""
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents)))
    for block in decoder.up_blocks:
        for residual in block.resnets:
            x = residual(x)
        if block.upsamplers is None:
            continue
        (upsampler,) = block.upsamplers
        if upsampler.mode == "upsample3d":
            n, channels, frames, height, width = x.shape
            pairs = upsampler.time_conv(x[:, :, 1:]).reshape(n, 2, channels, frames - 1, height, width)
            doubled = pairs.permute(0, 2, 3, 1, 4, 5).reshape(n, channels, 2 * (frames - 1), height, width)
            x = torch.cat([x[:, :, :1], doubled], dim=2)
        x = _each_frame(upsampler.resample, x)
    return decoder.conv_out(decoder.nonlinearity(decoder.norm_out(x)))


def _each_frame(layer: Any, x: Any) -> Any:
    """Apply a layer of images to each frame of [n, channels, frames, height, width]."""
    n, channels, frames, height, width = x.shape
    y = layer(x.permute(0, 2, 1, 3, 4).reshape(n * frames, channels, height, width))
    return y.view(n, frames, *y.shape[1:]).permute(0, 2, 1, 3, 4)
