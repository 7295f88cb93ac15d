"""What a live model shows: that its adapter changes the output, and that it generates."""

from __future__ import annotations

from pytest_lora_ckpt.proof.adapter import AdapterEffect, adapter_effect
from pytest_lora_ckpt.proof.generation import Generation, generate
from pytest_lora_ckpt.proof.merging import Merge, find_merge

__all__ = ["AdapterEffect", "Generation", "Merge", "adapter_effect", "find_merge", "generate"]
