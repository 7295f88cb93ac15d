"""PEFT: the base model by transformers, and the adapter on it by `PeftModel.from_pretrained`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.stacks.base_model import load_base

if TYPE_CHECKING:
    from pytest_lora_ckpt.stacks.request import Request

NAME = "peft"
NEEDS = "peft"


def load(request: Request) -> Any:
    """See `Stack`."""
    base = load_base(request)
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(request.directory))
