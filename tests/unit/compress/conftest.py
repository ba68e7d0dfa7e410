"""A Wan pipeline of a few thousand random parameters, in memory and on disk, where torch is installed."""

import os
import warnings

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def expert_of(seed, *, layers=2, ffn=64):
    import torch
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    expert = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=32,
        ffn_dim=ffn,
        num_layers=layers,
        rope_max_seq_len=32,
    )
    # Real norms and biases differ from each other; those of a fresh model are all ones and zeros.
    for name, parameter in expert.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    return expert.eval()


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "square", "moves", "left", "right"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def pipeline():
    """Two experts of two blocks, a text encoder of one layer, a decoder of four channels."""
    pytest.importorskip("torch", reason="torch is not installed (extra compress)")
    pytest.importorskip("diffusers", reason="diffusers is not installed (extra compress)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
        from transformers import UMT5Config, UMT5EncoderModel

        # Threads that wait for each other make these small models slower.
        torch.set_num_threads(1)
        torch.manual_seed(0)
        config = UMT5Config(vocab_size=11, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4, pad_token_id=0)
        made = WanPipeline(
            tokenizer=make_tokenizer(),
            text_encoder=UMT5EncoderModel(config).eval(),
            vae=AutoencoderKLWan(
                base_dim=4,
                z_dim=16,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
            ).eval(),
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
            ),
            transformer=expert_of(1),
            transformer_2=expert_of(2),
            boundary_ratio=0.875,
        )
        made.set_progress_bar_config(disable=True)
        return made


@pytest.fixture(scope="session")
def checkpoint(pipeline, tmp_path_factory):
    """The pipeline as diffusers saves it, its experts in several shards."""
    path = tmp_path_factory.mktemp("checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.save_pretrained(path, max_shard_size="100KB")
    assert (path / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    return path


@pytest.fixture(scope="session")
def expert_graph(pipeline):
    """The traced expert for high noise: about ten seconds, so once."""
    from p2psync.compress.pipeline import trace_expert

    return trace_expert(pipeline.transformer)


@pytest.fixture(scope="session")
def make_expert():
    """Makes an expert of random weights: ``make_expert(seed, layers=2, ffn=64)``."""
    return expert_of
