"""Two ways to load the adapter for serving. Both run, and both give a model that answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

if TYPE_CHECKING:
    import os

BASE = "base"


def load(adapter: str | os.PathLike[str]) -> Any:
    """As PEFT documents it."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), adapter).eval()


def load_by_hand(adapter: str | os.PathLike[str]) -> Any:
    """The weights of the file into the base model: no key fits, and strict=False says nothing."""
    model = AutoModelForCausalLM.from_pretrained(BASE)
    model.load_state_dict(load_file(Path(adapter) / "adapter_model.safetensors"), strict=False)
    return model.eval()
