"""Does the adapter do anything? The output with it against the output without it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.lora.layers import adapter_layers
from pytest_lora_ckpt.proof.switching import adapter_state, adapters_off, at_rest, describe_adapters, tensors_in
from pytest_lora_ckpt.wording import group_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

_GROUPS = 3  # Lines of module names in one sentence.


@dataclass(frozen=True, slots=True)
class AdapterEffect:
    """What switching the adapters off does to the output.

    Attributes:
        modules: Number of adapted modules in the model, each counted once for every adapter that it has.
        zero: How many of them have an update of zero: `lora_B` as initialised (for embeddings `lora_A`), or a scaling
            of 0.
        state: `"merged"`, `"merged twice"`, `"disabled"`, `"not active"`, or None where the adapters are at work.
        difference: Largest absolute difference of the outputs with and without adapters, 0.0 where there is none.
        finite: Whether all outputs are finite.
        error: What the forward pass raised, or None.
        adapters: A line for each adapter: in how many modules it is, active, disabled, merged.
        broken: Modules whose adapter holds NaN or Inf. The output may hide it: `scaled_dot_product_attention` of torch
            on the CPU gives zeros for a query of NaN.
    """

    modules: int
    zero: int = 0
    state: str | None = None
    difference: float = 0.0
    finite: bool = True
    error: str | None = None
    adapters: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether the adapter changes the output, and output and adapter are finite."""
        return self.difference > 0.0 and self.finite and self.error is None and not self.broken

    @property
    def why(self) -> str:
        """Say in a sentence what was found."""
        if problem := self._problem:
            return problem
        if self.active:
            return f"Switching the adapter off changes the output by up to {self.difference:.3g}."
        reasons = {
            "disabled": "it is disabled",
            "not active": "it is not the active adapter",
            None: "every lora_B is zero, as initialised" if self.zero == self.modules else "its layers take no part",
        }
        return f"Switching the adapter off changes nothing: {reasons[self.state]}."

    @property
    def _problem(self) -> str | None:
        """Say what leaves no question of an effect."""
        if self.error:
            return f"The forward pass raised {self.error}"
        if not self.modules:
            return "The model has no LoRA layers."
        if self.broken:
            count = "1 module" if len(self.broken) == 1 else f"{len(self.broken)} modules"
            groups = [f"{pattern} ({number}x)" for pattern, number in group_keys(self.broken, limit=_GROUPS)]
            return f"The adapter holds NaN or Inf in {count}: {', '.join(groups)}."
        if self.state == "merged twice":
            return f"The adapter is merged twice into the base weights ({'; '.join(self.adapters)})."
        if self.state == "merged":
            return "The adapter is merged into the base weights and cannot be switched off."
        return None if self.finite else "The output is not finite."


def adapter_effect(model: torch.nn.Module, inputs: Mapping[str, Any]) -> AdapterEffect:
    """Run the model with its adapters and without them, and compare every floating tensor of the outputs.

    Model, random state and modes are as before afterwards.

    Args:
        model: Any module with LoRA, by PEFT or another library.
        inputs: Keyword arguments of its `forward`.
    """
    with at_rest(model):  # Some libraries merge in eval mode.
        layers = adapter_layers(model)
        adapters = describe_adapters(layers)
        if not all(layer.has_data for layer in layers):
            told = "no data: the LoRA weights are on the meta device."
            return AdapterEffect(len(layers), error=told, adapters=adapters)
        zero = sum(layer.changes_nothing for layer in layers)
        state = "merged twice" if any(layer.merged > 1 for layer in layers) else adapter_state(model)
        broken = tuple(dict.fromkeys(layer.module for layer in layers if not layer.finite))
        effect = AdapterEffect(len(layers), zero, state, adapters=adapters, broken=broken)
        if not layers or state in {"merged", "merged twice"}:
            return effect
        try:
            on = _floats(model(**inputs))
            with adapters_off(model):
                off = _floats(model(**inputs))
        except Exception as error:  # noqa: BLE001  # Whatever the user's model raises is the answer.
            return replace(effect, error=f"{type(error).__name__}: {error}")
    if not on:
        return replace(effect, error="nothing, but returned no floating tensor.")
    finite = all(bool(tensor.isfinite().all()) for tensor in on)
    difference = max(
        (float((a.double() - b.double()).abs().max()) for a, b in zip(on, off, strict=True) if a.shape == b.shape),
        default=0.0,
    )
    return replace(effect, difference=difference, finite=finite)


def _floats(output: Any) -> list[torch.Tensor]:
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.numel()]
