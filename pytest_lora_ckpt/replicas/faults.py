"""Ways in which a saved state dict is wrong, by name: what `save_replica(fault=…)` does to it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from pytest_lora_ckpt.replicas.names import SEVEN

State = dict[str, Tensor]
Fault = Callable[[State], State]


def apply_fault(name: str, state: State) -> State:
    """Return `state` with the fault; the tensors given are not changed.

    Raises:
        ValueError: No such fault, or nothing in `state` that it could befall.

    Example:
        >>> list(apply_fault("wrapper-prefix", {"norm.weight": torch.ones(2)}))
        ['module.norm.weight']
    """
    if name not in FAULTS:
        raise ValueError(f"fault={name!r} must be one of {', '.join(FAULTS)}")
    damaged = FAULTS[name](state)
    if list(damaged) == list(state) and all(damaged[key] is state[key] for key in state):
        raise ValueError(f"fault={name!r} finds nothing to befall among the {len(state)} keys of this state dict")
    return damaged


def place(tensor: Tensor) -> Hashable:
    """Return what is equal for two keys exactly when they name one tensor; empty ones share nothing."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else id(tensor)


def _is_lora_b(key: str) -> bool:
    return "lora_B" in key or "lora_embedding_B" in key


def _is_lora(key: str) -> bool:
    return "lora_" in key


def _last(keys: list[str]) -> set[str]:
    return set(keys[-1:])


def _without(state: State, drop: Callable[[str], bool]) -> State:
    return {key: tensor for key, tensor in state.items() if not drop(key)}


def _edited(state: State, hit: Callable[[str], bool], edit: Callable[[Tensor], Tensor]) -> State:
    # Aliases stay aliases: the tensor is edited once, under all its names.
    edited = {place(tensor): edit(tensor) for key, tensor in state.items() if hit(key)}
    return {key: edited.get(place(tensor), tensor) for key, tensor in state.items()}


def _one_lora_b_missing(state: State) -> State:
    gone = _last([key for key in state if _is_lora_b(key)])
    return _without(state, gone.__contains__)


def _nan(state: State) -> State:
    def spoil(tensor: Tensor) -> Tensor:
        spoiled = tensor.clone()
        spoiled.view(-1)[0] = torch.nan
        return spoiled

    # In the adapter if there is one: nothing but the adapter's values is read by an audit without a loader.
    hit = _last([key for key in state if _is_lora_b(key)] or list(state))
    return _edited(state, hit.__contains__, spoil)


def _int8(state: State) -> State:
    # As bitsandbytes leaves codes behind when only the state dict is saved: the scales are elsewhere.
    def quantize(tensor: Tensor) -> Tensor:
        return (tensor / tensor.abs().max().clamp(min=1e-12) * 127).round().to(torch.int8)

    return _edited(state, lambda key: key.endswith("weight") and any(f".{name}." in key for name in SEVEN), quantize)


def _lora_unwrapped(state: State) -> State:
    # As if LoRA had never been attached: what is left bears the plain model's names.
    kept = _without(state, _is_lora)
    return {key.replace("base_model.model.", "", 1).replace(".base_layer.", "."): kept[key] for key in kept}


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "one-lora-b-missing": _one_lora_b_missing,
        "all-lora-b-missing": lambda state: _without(state, _is_lora_b),
        "lora-b-zero": lambda state: _edited(state, _is_lora_b, torch.zeros_like),
        "no-lora": lambda state: _without(state, _is_lora),
        "no-lora-unwrapped": _lora_unwrapped,
        "nan": _nan,
        # As DeepSpeed's ZeRO-3 leaves a parameter that was not gathered before saving.
        "size-0": lambda state: _edited(state, _is_lora, lambda tensor: tensor.new_empty(0)),
        "int8": _int8,
        "wrapper-prefix": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        "vision-missing": lambda state: _without(state, lambda key: "vision_encoder." in key),
    }
)
