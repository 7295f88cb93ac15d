"""Adapter values other than the trained ones: zero, not finite, integer codes, another run's, cast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import NotApplicable
from pytest_lora_ckpt.faults.edits import codes, redrawn, times, with_first_value, zeroed
from pytest_lora_ckpt.faults.fault import LAYOUTS, fault

if TYPE_CHECKING:
    import torch

    from pytest_lora_ckpt.faults.draft import Draft


@fault(
    "lora-b-zero",
    "The adapter was saved before training, or its gradients never arrived: every lora_B is zero, as PEFT begins it.",
    layouts=LAYOUTS,
    seen="file",
)
def lora_b_zero(draft: Draft) -> None:
    """Zero every lora_B."""
    draft.change([pair.up for pair in draft.pairs], zeroed, "lora_B")


@fault(
    "one-lora-b-zero",
    "One module was not trained (unused in the forward pass, or frozen by mistake): its lora_B is zero.",
    layouts=LAYOUTS,
    seen="file",
)
def one_lora_b_zero(draft: Draft) -> None:
    """Zero the last lora_B, of two or more."""
    if len(draft.pairs) == 1:
        raise NotApplicable("it adapts one module only: see lora-b-zero")
    draft.change([draft.pairs[-1].up], zeroed, "lora_B")


@fault(
    "one-lora-a-zero",
    "A buffer was allocated and never filled: a lora_A of zeros, which no initialisation and no training gives.",
    layouts=LAYOUTS,
    seen="file",
)
def one_lora_a_zero(draft: Draft) -> None:
    """Zero the last lora_A."""
    draft.change([draft.pairs[-1].down], zeroed, "lora_A")


@fault(
    "nan",
    "Training diverged: one NaN in an adapter, which attention on the CPU turns into finite, wrong logits.",
    layouts=LAYOUTS,
    seen="file",
)
def nan(draft: Draft) -> None:
    """Put NaN into the last lora_B."""
    draft.change([draft.pairs[-1].up], with_first_value(float("nan")), "lora_B")


@fault(
    "inf",
    "A cast to float16 overflowed: one Inf in an adapter.",
    layouts=LAYOUTS,
    seen="file",
)
def inf(draft: Draft) -> None:
    """Put Inf into the first lora_A."""
    draft.change([draft.pairs[0].down], with_first_value(float("inf")), "lora_A")


@fault(
    "integer-codes",
    "A quantised adapter was saved by its state dict: int8 codes whose scale is lost, and every loader takes them.",
    layouts=LAYOUTS,
    seen="file",
)
def integer_codes(draft: Draft) -> None:
    """Turn every LoRA tensor into codes."""
    draft.change(selecting.lora_keys(draft), codes, "LoRA")


@fault(
    "dtype-changed",
    "The adapter was cast on export: half the bits of every LoRA value are gone.",
    layouts=LAYOUTS,
    seen="manifest",
)
def dtype_changed(draft: Draft) -> None:
    """Cast every LoRA tensor to bfloat16, or to float16 where it is bfloat16."""

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        return tensor.to(torch.float16 if tensor.dtype == torch.bfloat16 else torch.bfloat16)

    draft.change(selecting.lora_keys(draft), cast, "LoRA")


@fault(
    "dtype-mixed",
    "One tensor went through a computation in double precision: FSDP refuses to flatten tensors of two dtypes.",
    layouts=LAYOUTS,
    seen="file",
)
def dtype_mixed(draft: Draft) -> None:
    """Cast the last lora_B to float64."""
    if len(draft.pairs) == 1:
        raise NotApplicable("it adapts one module only")
    draft.change([draft.pairs[-1].up], lambda tensor: tensor.double(), "lora_B")


@fault(
    "adapter-of-another-run",
    "The file was written over by another run of the same settings: every name and shape fits.",
    layouts=LAYOUTS,
    seen="manifest",
)
def adapter_of_another_run(draft: Draft) -> None:
    """Redraw every LoRA tensor."""
    for key in selecting.lora_keys(draft):
        draft.change([key], redrawn(key), "LoRA")


@fault(
    "scale-folded",
    "An export multiplied the scaling into lora_B, and the loader applies it again.",
    layouts=LAYOUTS,
    seen="manifest",
)
def scale_folded(draft: Draft) -> None:
    """Multiply every lora_B with the scaling."""
    factors = {pair: selecting.scaling(draft, pair) for pair in draft.pairs}
    if all(factor == 1 for factor in factors.values()):
        raise NotApplicable("its scaling is 1 everywhere: multiplying by it changes nothing")
    for pair, factor in factors.items():
        draft.change([pair.up], times(factor), "lora_B")
