"""The model: image -> vision tower -> perceiver -> bridge -> language model with LoRA -> text.

Every part is tiny. The names of the modules are what matters here: they are the names in the checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class VLMConfig:
    image_size: int = 64
    patch_size: int = 16
    vision_width: int = 32
    queries: int = 4
    text_width: int = 48
    text_layers: int = 2
    vocab_size: int = 128
    lora_rank: int = 8
    lora_alpha: int = 16

    def to_dict(self) -> dict[str, int]:
        """Plain numbers, so that `torch.load(weights_only=True)` opens a checkpoint that holds them."""
        return asdict(self)


class VisionTower(nn.Module):
    """Cuts the image into patches and lets them look at each other: (N, 3, H, W) -> (N, patches, vision_width)."""

    def __init__(self, config: VLMConfig) -> None:
        super().__init__()
        width, patches = config.vision_width, (config.image_size // config.patch_size) ** 2
        self.patch_embed = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.position = nn.Parameter(torch.randn(patches, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        hidden = self.patch_embed(pixel_values).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class Perceiver(nn.Module):
    """Resamples any number of patches to a few visual tokens: (N, patches, width) -> (N, queries, width)."""

    def __init__(self, config: VLMConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.latents = nn.Parameter(torch.randn(config.queries, width))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, patches: Tensor) -> Tensor:
        latents = self.latents.expand(len(patches), -1, -1)
        seen, _ = self.attention(latents, patches, patches, need_weights=False)
        return self.norm(latents + seen)


class PanoramaChat(nn.Module):
    def __init__(self, config: VLMConfig, *, with_lora: bool) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            # "Pretrained" parts: the seed stands in for downloads, which give everyone the same weights.
            torch.manual_seed(20)
            self.vision_tower = VisionTower(config)
            self.llm: Any = _pretrained_language_model(config)
        self.perceiver = Perceiver(config)
        self.bridge = nn.Linear(config.vision_width, config.text_width)
        if with_lora:
            self.llm = get_peft_model(
                self.llm,
                LoraConfig(
                    r=config.lora_rank,
                    lora_alpha=config.lora_alpha,
                    target_modules=LORA_TARGETS,
                    task_type="CAUSAL_LM",
                ),
            )
        self.eval()

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """The logits of the next token after each one of the prompt: (N, prompt, vocab_size)."""
        return self.llm(inputs_embeds=self._embed(pixel_values, input_ids)).logits[:, -input_ids.shape[1] :]

    @torch.no_grad()
    def generate(self, pixel_values: Tensor, input_ids: Tensor, max_new_tokens: int = 20) -> Tensor:
        """The answer alone, without the prompt: (N, max_new_tokens)."""
        embeds = self._embed(pixel_values, input_ids)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        return self.llm.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=max_new_tokens)

    def _embed(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        visual = self.bridge(self.perceiver(self.vision_tower(pixel_values)))
        return torch.cat([visual, self.llm.get_input_embeddings()(input_ids)], dim=1)


def _pretrained_language_model(config: VLMConfig) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.text_width,
            intermediate_size=2 * config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=config.text_width // 4,
            initializer_range=0.15,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
