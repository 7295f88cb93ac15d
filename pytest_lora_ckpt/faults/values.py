"""Adapter values other than the trained ones: zero, not finite, integer codes, another run's, cast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import Draft, require
from pytest_lora_ckpt.faults.edits import codes, times, with_first_value
from pytest_lora_ckpt.faults.fault import LAYOUTS, fault

if TYPE_CHECKING:
    import torch


@fault(LAYOUTS, "file")
def lora_b_zero(draft: Draft) -> None:
    """The adapter was saved before training, or gradients never arrived: every lora_B is zero, as PEFT begins it."""
    draft.change([pair.up for pair in draft.pairs], lambda tensor: tensor.new_zeros(tensor.shape), "lora_B")


@fault(LAYOUTS, "file")
def one_lora_b_zero(draft: Draft) -> None:
    """One module was not trained (unused in the forward pass, or frozen by mistake): its lora_B is zero."""
    require(len(draft.pairs) > 1, "it adapts one module only: see lora-b-zero")
    draft.change([draft.pairs[-1].up], lambda tensor: tensor.new_zeros(tensor.shape), "lora_B")


@fault(LAYOUTS, "file")
def one_lora_a_zero(draft: Draft) -> None:
    """A buffer was allocated and never filled: a lora_A of zeros, which no initialisation and no training gives."""
    draft.change([draft.pairs[-1].down], lambda tensor: tensor.new_zeros(tensor.shape), "lora_A")


@fault(LAYOUTS, "file")
def nan(draft: Draft) -> None:
    """Training diverged: one NaN in an adapter, which attention on the CPU turns into finite, wrong logits."""
    draft.change([draft.pairs[-1].up], with_first_value(float("nan")), "lora_B")


@fault(LAYOUTS, "file")
def inf(draft: Draft) -> None:
    """A cast to float16 overflowed: one Inf in an adapter."""
    draft.change([draft.pairs[0].down], with_first_value(float("inf")), "lora_A")


@fault(LAYOUTS, "file")
def integer_codes(draft: Draft) -> None:
    """A quantised adapter was saved by its state dict: int8 codes whose scale is lost, and every loader takes them."""
    draft.change(selecting.lora_keys(draft), codes, "LoRA")


@fault(LAYOUTS, "manifest")
def dtype_changed(draft: Draft) -> None:
    """The adapter was cast on export: half the bits of every LoRA value are gone."""

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        return tensor.to(torch.float16 if tensor.dtype == torch.bfloat16 else torch.bfloat16)

    draft.change(selecting.lora_keys(draft), cast, "LoRA")


@fault(LAYOUTS, "file")
def dtype_mixed(draft: Draft) -> None:
    """One tensor went through a computation in double precision: FSDP refuses to flatten tensors of two dtypes."""
    require(len(draft.pairs) > 1, "it adapts one module only")
    draft.change([draft.pairs[-1].up], lambda tensor: tensor.double(), "lora_B")


@fault(LAYOUTS, "manifest")
def adapter_of_another_run(draft: Draft) -> None:
    """The file was written over by another run of the same settings: every name and shape fits."""
    draft.redraw(selecting.lora_keys(draft))


@fault(LAYOUTS, "manifest")
def scale_folded(draft: Draft) -> None:
    """An export multiplied the scaling into lora_B, and the loader applies it again."""
    factors = {pair: selecting.scaling(draft, pair) for pair in draft.pairs}
    require(
        any(factor != 1 for factor in factors.values()),
        "its scaling is 1 everywhere: multiplying by it changes nothing",
    )
    for pair, factor in factors.items():
        draft.change([pair.up], times(factor), "lora_B")
