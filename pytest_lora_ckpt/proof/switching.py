"""A live model and its adapters: which it has, and the model with them off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pytest_lora_ckpt.diagnosis import lora_factor
from pytest_lora_ckpt.keys import parse_key


def up_factors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return every `lora_B` of the model (out x rank) by its key, in PEFT's or another convention.

    It is the factor that an initialisation leaves at zero: with it at zero the adapter changes nothing.
    """
    return {
        name: parameter.data
        for name, parameter in model.named_parameters()
        if lora_factor(parse_key(name).lora) == "up"
    }


def adapter_state(model: torch.nn.Module) -> str | None:
    """Say why PEFT would not apply the adapters of this model as they are, or None.

    Merged: their product already lies in the base weights. Disabled, or another one active: switched off.
    """
    layers: list[Any] = [
        module for module in model.modules() if hasattr(module, "merged_adapters") and hasattr(module, "lora_B")
    ]
    if any(layer.merged_adapters for layer in layers):
        return "merged"
    if layers and all(getattr(layer, "disable_adapters", False) for layer in layers):
        return "disabled"
    idle = [
        layer for layer in layers if not {*layer.lora_B, *layer.lora_embedding_B}.intersection(layer.active_adapters)
    ]
    if layers and len(idle) == len(layers):
        return "not active"
    # A trained adapter beside an active one as initialised: the wrong one is switched on.
    active = {name for layer in layers for name in layer.active_adapters}
    trained = {parse_key(key).adapter for key, factor in up_factors(model).items() if factor.any()}
    return "not active" if trained and active and not trained & active and trained != {None} else None


@contextlib.contextmanager
def adapters_off(model: torch.nn.Module) -> Iterator[None]:
    """Switch every adapter off by putting zeros into `lora_B`, and put the values back at the end.

    No library's own switch is used, so that LoRA of any library is switched off, and nothing else (`requires_grad`,
    the active adapter, a merge) is touched.
    """
    factors = up_factors(model)
    kept = {name: factor.clone() for name, factor in factors.items()}
    try:
        for factor in factors.values():
            factor.zero_()
        yield
    finally:
        for name, factor in factors.items():
            factor.copy_(kept[name])


@contextlib.contextmanager
def at_rest(model: torch.nn.Module) -> Iterator[None]:
    """Run a model for its output alone: eval mode, no gradients, a fixed random state; all as before afterwards."""
    training = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            model.eval()
            yield
    finally:
        for module, was in training.items():
            module.training = was


def tensors_in(output: Any) -> Iterator[torch.Tensor]:
    """Go over the tensors of an output: a tensor, a mapping (`ModelOutput`), a sequence, nested."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from tensors_in(value)
