"""A backend for tests whose parts are diffusers' own modules, so that only the loop around them is compared.

Whoever imports this has torch; the engine itself never does.
"""

from contextlib import contextmanager

import numpy as np
import torch  # noqa: TID253 - only tests that have it import this module

from p2psync.engine.description import Tensor


class TorchSession:
    """One part: a function of torch tensors under the names of its inputs."""

    def __init__(self, inputs, function):
        self.inputs = tuple(Tensor(name, dtype, ()) for name, dtype in inputs)
        self.outputs = ()
        self._function = function

    def run(self, feeds):
        with torch.no_grad():
            made = self._function(*(torch.from_numpy(np.asarray(feeds[tensor.name])) for tensor in self.inputs))
        return [made.float().numpy()]

    def close(self):
        pass


class Kept:
    """A tensor that stays with torch."""

    def __init__(self, value):
        self.value = value

    def numpy(self):
        return self.value.float().numpy()


class StreamSession(TorchSession):
    """One latent frame through the decoder of AutoencoderKLWan. Its caches travel as one value."""

    def __init__(self, vae, *, first):
        super().__init__([("latents", "float32"), *([] if first else [("cache_0", "float32")])], None)
        self._vae, self._first = vae, first

    def step(self, feeds):
        vae = self._vae
        if self._first:
            vae.clear_cache()
        else:
            vae._feat_map = feeds["cache_0"].value
        vae._conv_idx = [0]
        with torch.no_grad():
            latent = vae.post_quant_conv(torch.from_numpy(feeds["latents"]))
            frames = vae.decoder(latent, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=self._first)
        return [Kept(frames.clamp(-1, 1)), Kept(vae._feat_map)]


class TorchParts:
    """What ``Parts`` is to a pipeline, over a WanPipeline."""

    def __init__(self, wan):
        def expert(module):
            def velocity(latents, timestep, text):
                return module(hidden_states=latents, timestep=timestep, encoder_hidden_states=text, return_dict=False)[
                    0
                ]

            kinds = [("latents", "float32"), ("timestep", "float32"), ("text", "float32")]
            return TorchSession(kinds, velocity)

        def hidden(ids, mask):
            return wan.text_encoder(ids, mask).last_hidden_state

        self._sessions = {
            "text": TorchSession([("input_ids", "int64"), ("mask", "int64")], hidden),
            "high": expert(wan.transformer),
            "low": expert(wan.transformer_2),
            "decode_first": StreamSession(wan.vae, first=True),
            "decode_next": StreamSession(wan.vae, first=False),
        }
        self.called = []

    @contextmanager
    def session(self, name):
        self.called.append(name)
        yield self._sessions[name]

    def close(self):
        pass


def tiny_wan(tokenizer_file):
    """A WanPipeline of random weights with two experts, at the sizes of diffusers' own tests."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)

    def expert():
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=256,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=64,
        ).eval()

    text = UMT5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(text).eval(),
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=expert(),
        transformer_2=expert(),
        boundary_ratio=0.875,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
