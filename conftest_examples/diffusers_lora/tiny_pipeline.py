"""A Stable Diffusion pipeline with all its parts, of a few KB: in your project, the name of one on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = ["l", "<|startoftext|>", "<|endoftext|>", "o", "w</w>", "lo", "low</w>"]


def make_pipeline() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=1,
        eos_token_id=2,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4),
        text_encoder=CLIPTextModel(text),
        tokenizer=_make_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _make_tokenizer() -> CLIPTokenizer:
    with TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(WORDS)}), encoding="utf-8")
        Path(folder, "merges.txt").write_text("#version: 0.2\nl o\nlo w</w>\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)
