"""Tiny base models under real PEFT, and what `save_pretrained` writes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint import Checkpoint

_SIZES = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3}
_HEADS = {"num_attention_heads": 1, "num_key_value_heads": 1}


def llama(**settings: Any) -> Any:
    """A language model without any bias."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_SIZES, **_HEADS, **settings))


def qwen2() -> Any:
    """A language model whose q, k and v projections have biases."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**_SIZES, **_HEADS, tie_word_embeddings=False))


class Mixed(torch.nn.Module):
    """Convolutions, in groups and plain, a linear layer, an embedding, a norm with buffers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = torch.nn.Conv2d(4, 8, 3, groups=2)
        self.conv = torch.nn.Conv2d(8, 8, 3)
        self.linear = torch.nn.Linear(8, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.table = torch.nn.Embedding(9, 8)
        self.head = torch.nn.Linear(8, 2)


def wear(base: Any, **settings: Any) -> Any:
    """Put LoRA on a model, with no factor of zeros."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **settings}
    return get_peft_model(base, LoraConfig(**settings))


def save(model: Any, folder: Path, **options: Any) -> Checkpoint:
    """Save an adapter as PEFT does, and open it."""
    model.save_pretrained(folder, **options)
    return open_checkpoint(folder)
