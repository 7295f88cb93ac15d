"""A live model and its adapters: which it has, and the model with them off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.layers import AdapterLayer, adapter_layers
from pytest_lora_ckpt.lora.pairs import lora_factor


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
    """Say why the adapters of this model are not applied as they are, or None.

    Merged: their product already lies in the base weights, in some layers at least. Disabled, or another one active:
    switched off everywhere.
    """
    layers = adapter_layers(model)
    if any(layer.merged for layer in layers):
        return "merged"
    if layers and not any(layer.enabled for layer in layers):
        return "disabled"
    if layers and not any(layer.active for layer in layers):
        return "not active"
    # A trained adapter beside an active one as initialised: the wrong one is switched on.
    active = {layer.adapter for layer in layers if layer.active}
    trained = {layer.adapter for layer in layers if not layer.changes_nothing}
    return "not active" if trained and not trained & active else None


def describe_adapters(layers: Iterable[AdapterLayer]) -> tuple[str, ...]:
    """Say in a line for each adapter in how many modules it is, and what PEFT does with it there.

    Args:
        layers: What `adapter_layers` gives.

    Example:
        >>> from torch import ones
        >>> from pytest_lora_ckpt.lora.layers import AdapterLayer
        >>> q = AdapterLayer("q", "default", "linear", ones(2, 8), ones(8, 2))
        >>> k = AdapterLayer("k", "default", "linear", ones(2, 8), ones(8, 2), merged=2)
        >>> describe_adapters([q, k])
        ('default: 2 modules, active, merged twice in 1 of 2',)
    """
    by_adapter: dict[str | None, list[AdapterLayer]] = {}
    for layer in layers:
        by_adapter.setdefault(layer.adapter, []).append(layer)
    lines = []
    for adapter, own in by_adapter.items():
        states = {
            "active": [layer.active for layer in own],
            "disabled": [not layer.enabled for layer in own],
            "merged": [layer.merged == 1 for layer in own],
            "merged twice": [layer.merged > 1 for layer in own],
            "kept out by another adapter that is merged": [
                layer.active and layer.enabled and not layer.applied for layer in own
            ],
        }
        told = [
            word if all(found) else f"{word} in {sum(found)} of {len(own)}"
            for word, found in states.items()
            if any(found)
        ]
        told = told if any(states["active"]) else ["not active", *told]
        modules = "1 module" if len(own) == 1 else f"{len(own)} modules"
        lines.append(f"{adapter or 'the adapter'}: {', '.join([modules, *told])}")
    return tuple(lines)


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
        # All devices are meant, and said to be: without the list torch warns where there are several.
        with torch.random.fork_rng(list(range(torch.cuda.device_count()))), torch.no_grad():
            torch.manual_seed(0)
            model.eval()
            yield
    finally:
        for module, was in training.items():
            # loralib merges in eval(), and takes the merge back in train() alone.
            if was and getattr(module, "merged", None) is True and not hasattr(module, "merged_adapters"):
                module.train(was)
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
