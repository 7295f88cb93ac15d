"""The project: a causal language model, and the LoRA that is trained on it and served with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peft import LoraConfig, PeftModel
from transformers import LlamaForCausalLM

if TYPE_CHECKING:
    import os

# Here `make_adapter.py` puts the base model; in your project this is the name of a model on the Hub.
BASE = Path(__file__).parent / "base"


def lora_config() -> LoraConfig:
    """The adapter that this project trains."""
    return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")


def load_base() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(BASE)


def load_for_serving(adapter: str | os.PathLike[str]) -> PeftModel:
    """What runs in production: the base model with a trained adapter on it."""
    return PeftModel.from_pretrained(load_base(), adapter).eval()
