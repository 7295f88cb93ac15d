"""Are the base weights of a loaded model those of the base model?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.layers import adapter_layers
from pytest_lora_ckpt.proof.bitwise import cast_between, same_bits
from pytest_lora_ckpt.proof.fitting import fit_merged, fits_rounded
from pytest_lora_ckpt.proof.live_state import LiveState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import torch

    from pytest_lora_ckpt.lora.layers import AdapterLayer
    from pytest_lora_ckpt.proof.base_weights import BaseWeights
    from pytest_lora_ckpt.proof.live_state import Live


@dataclass(frozen=True, slots=True)
class BaseComparison:
    """What became of the base weights.

    Attributes:
        same: Number of tensors that are the base model's, bit for bit, after a cast, or with the adapter in them.
        rounded: Number of tensors that are so but for rounding: an adapter was merged into them and taken out again.
        changed: Keys of the loaded model whose values are others.
        left_out: Number of tensors that were not compared: the checkpoint brings them, or they hold a merged adapter.
        unknown: Keys whose values cannot be had (quantised, sharded).
    """

    same: int
    rounded: int
    changed: tuple[str, ...]
    left_out: int
    unknown: tuple[str, ...]


def compare_base(model: torch.nn.Module, base: BaseWeights, leave_out: Collection[str] = ()) -> BaseComparison:
    """Compare the base weights of a loaded model with those of the base model, one tensor at a time.

    A weight into which PEFT has merged an adapter in place is the base model's where it is W + scaling x B A.

    Args:
        model: The loaded model, with or without PEFT's wrapping.
        base: The base model's tensors under the loaded model's keys.
        leave_out: Keys of the loaded model that the checkpoint is meant to bring.
    """
    state = LiveState(model)
    merged = {f"{layer.module}.base_layer.weight": layer for layer in adapter_layers(model) if layer.merged}
    same, rounded, left_out = 0, 0, 0
    adapted = {f"{layer.module}.base_layer.weight" for layer in adapter_layers(model)}
    changed: list[str] = []
    unknown: list[str] = []
    for place in base.key_of:
        if parse_key(place).is_adapter:
            continue
        if place in leave_out:
            left_out += 1
            continue
        live, wanted = state.fetch(place), base(place)
        if live.tensor is None or wanted is None:
            unknown.append(place)
            continue
        wanted = live.part_of(wanted)
        if (
            same_bits(wanted, live.tensor)
            or cast_between(wanted, live.tensor)
            or _is_update(wanted, live, merged, place)
        ):
            same += 1
        elif place in adapted and fits_rounded(live.tensor, wanted):
            rounded += 1
        else:
            changed.append(place)
    return BaseComparison(same, rounded, tuple(changed), left_out, tuple(unknown))


def _is_update(wanted: torch.Tensor, live: Live, merged: Mapping[str, AdapterLayer], place: str) -> bool:
    """Whether this is the base weight with the adapter of its own layer in it, once."""
    layer = merged.get(place)
    if layer is None or live.tensor is None or live.place is not None:
        return False
    fit = fit_merged(live.tensor, wanted, layer)
    return fit.kind == "merged" and round((fit.scaling or 0.0) / (layer.scaling or fit.scaling or 1.0)) == 1
