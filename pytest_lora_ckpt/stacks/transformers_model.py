"""transformers: a model by the class that its config names, or a base model with `load_adapter`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.stacks.base import Base
from pytest_lora_ckpt.stacks.base_model import from_pretrained, load_base
from pytest_lora_ckpt.stacks.classes import candidates, config_of

if TYPE_CHECKING:
    from pytest_lora_ckpt.stacks.request import Request

NAME = "transformers"
NEEDS = "transformers"


def load(request: Request) -> Any:
    """See `Stack`."""
    if request.checkpoint.adapter_config is not None:
        model = load_base(request)
        for name, directory in reversed(request.adapters.items()):  # The last one is active: its own.
            model.load_adapter(directory, adapter_name=name)
        return model
    model = Base(str(request.directory), request.directory)
    config = config_of(model.config(request.checkpoint.budget))
    return from_pretrained(candidates(config, {})[0], model, config=config)
