"""Does the adapter do anything? The output with it against the output without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.proof.switching import adapter_state, adapters_off, at_rest, tensors_in, up_factors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


@dataclass(frozen=True, slots=True)
class AdapterEffect:
    """What switching the adapters off does to the output.

    Attributes:
        modules: Number of adapted modules in the model.
        zero: How many of them have a `lora_B` of zeros.
        state: `"merged"`, `"disabled"`, `"not active"`, or None where the adapters are at work.
        difference: Largest absolute difference of the outputs with and without adapters, 0.0 where there is none.
        finite: Whether all outputs are finite.
        error: What the forward pass raised, or None.
    """

    modules: int
    zero: int = 0
    state: str | None = None
    difference: float = 0.0
    finite: bool = True
    error: str | None = None

    @property
    def active(self) -> bool:
        """Whether the adapter changes the output, and the output is finite."""
        return self.difference > 0.0 and self.finite and self.error is None

    @property
    def why(self) -> str:
        """Say in a sentence what was found."""
        if self.error:
            return f"The forward pass raised {self.error}"
        if not self.modules:
            return "The model has no LoRA layers."
        if self.state == "merged":
            return "The adapter is merged into the base weights and cannot be switched off."
        if not self.finite:
            return "The output is not finite."
        if self.active:
            return f"Switching the adapter off changes the output by up to {self.difference:.3g}."
        reasons = {
            "disabled": "it is disabled",
            "not active": "it is not the active adapter",
            None: "every lora_B is zero, as initialised" if self.zero == self.modules else "its layers take no part",
        }
        return f"Switching the adapter off changes nothing: {reasons[self.state]}."


def adapter_effect(model: torch.nn.Module, inputs: Mapping[str, Any]) -> AdapterEffect:
    """Run the model with its adapters and without them, and compare every floating tensor of the outputs.

    Model, random state and modes are as before afterwards.

    Args:
        model: Any module with LoRA, by PEFT or another library.
        inputs: Keyword arguments of its `forward`.
    """
    factors = up_factors(model)
    if any(factor.is_meta for factor in factors.values()):
        return AdapterEffect(len(factors), error="no data: the LoRA weights are on the meta device.")
    zero = sum(not factor.any() for factor in factors.values())
    state = adapter_state(model)
    if not factors or state == "merged":
        return AdapterEffect(len(factors), zero, state)
    try:
        with at_rest(model):
            on = _floats(model(**inputs))
            with adapters_off(model):
                off = _floats(model(**inputs))
    except Exception as error:  # noqa: BLE001  # Whatever the user's model raises is the answer.
        return AdapterEffect(len(factors), zero, state, error=f"{type(error).__name__}: {error}")
    if not on:
        return AdapterEffect(len(factors), zero, state, error="nothing, but returned no floating tensor.")
    finite = all(bool(tensor.isfinite().all()) for tensor in on)
    difference = max(
        (float((a.double() - b.double()).abs().max()) for a, b in zip(on, off, strict=True) if a.shape == b.shape),
        default=0.0,
    )
    return AdapterEffect(len(factors), zero, state, difference, finite)


def _floats(output: Any) -> list[torch.Tensor]:
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.numel()]
