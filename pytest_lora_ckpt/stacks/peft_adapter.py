"""PEFT: the base model by transformers, the adapter on it by `PeftModel.from_pretrained`, others by `load_adapter`."""

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

    (name, directory), *others = request.adapters.items()
    model = PeftModel.from_pretrained(base, directory, adapter_name=name)
    for further, where in others:
        model.load_adapter(where, adapter_name=further)
    return model
