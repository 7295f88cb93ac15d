"""What a live model shows: that its adapter changes the output, and that it generates."""

from __future__ import annotations

from pytest_lora_ckpt.proof.adapter import AdapterEffect, adapter_effect
from pytest_lora_ckpt.proof.generation import Generation, generate

__all__ = ["AdapterEffect", "Generation", "adapter_effect", "generate"]
