"""Does the adapter do anything? The output with it against the output without it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.layers import AdapterLayer, adapter_layers
from pytest_lora_ckpt.lora.pairs import lora_factor
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.proof.running import at_rest, floats_in
from pytest_lora_ckpt.wording import beginning, count, grouped, said

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

# Each module that `zero_but_used` asks about costs a forward pass.
_MOST_PASSES = 16


@dataclass(frozen=True, slots=True)
class AdapterEffect:
    """What switching the adapters off does to the output.

    Attributes:
        modules: Number of adapted modules in the model, each counted once for every adapter that it has.
        zero: How many of them have an update of zero: `lora_B` as initialised (for embeddings `lora_A`), or a scaling
            of 0.
        state: `"merged"`, `"merged twice"`, `"disabled"`, `"not active"`, or None where the adapters are applied.
        difference: Largest absolute difference of the outputs with and without adapters, 0.0 where there is none.
        finite: Whether all outputs are finite.
        error: Why the outputs could not be compared, as a sentence, or None.
        cause: Slug of the cause of that.
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
    cause: str = "adapter-inactive"
    adapters: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether the adapter changes the output, and output and adapter are finite."""
        return self.difference > 0.0 and self.finite and self.error is None and not self.broken

    @property
    def why(self) -> str:  # noqa: PLR0911  # One answer each.
        """The result in a sentence."""
        if self.error:
            return self.error
        if not self.modules:
            return "The model has no LoRA layers."
        if self.broken:
            modules = count(len(self.broken), "module")
            return f"The adapter holds NaN or Inf in {modules}: {grouped(self.broken)}."
        if self.state == "merged twice":
            return f"The adapter is merged twice into the base weights ({'; '.join(self.adapters)})."
        if self.state == "merged":
            return "The adapter is merged into the base weights and cannot be switched off."
        if not self.finite:
            return "The output is not finite."
        if self.active:
            return f"Switching the adapter off changes the output by up to {self.difference:.3g}."
        untrained = "every lora_B is zero, as initialised"
        reason = {
            "disabled": "it is disabled",
            "not active": "it is not the active adapter",
            None: untrained if self.zero == self.modules else "the forward pass does not use its layers",
        }[self.state]
        return f"Switching the adapter off changes nothing: {reason}."


def adapter_effect(model: torch.nn.Module | LoadedModel, inputs: Mapping[str, Any]) -> AdapterEffect:
    """Run the model with its adapters and without them, and compare every floating tensor of the outputs.

    Model, random state and modes are as before afterwards.

    Args:
        model: Any module with LoRA, by PEFT or another library.
        inputs: Keyword arguments of its `forward`.
    """
    module = LoadedModel.of(model).module
    with at_rest(module):
        layers = adapter_layers(module)  # As they are in eval mode, in which some libraries merge.
        effect = AdapterEffect(len(layers), state=adapter_state(layers), adapters=describe_adapters(layers))
        if not all(layer.has_data for layer in layers):
            message = "The LoRA weights have no data: they are on the meta device."
            return replace(effect, cause="not-materialised", error=message)
        effect = replace(
            effect,
            zero=sum(layer.changes_nothing for layer in layers),
            broken=tuple(dict.fromkeys(layer.module for layer in layers if not layer.finite)),
        )
        if not layers or effect.state in {"merged", "merged twice"}:
            return effect
        return run_twice(effect, module, inputs, adapters_off(module))


def run_twice(
    effect: AdapterEffect, model: torch.nn.Module, inputs: Mapping[str, Any], off: AbstractContextManager[object]
) -> AdapterEffect:
    """Add to an effect what a model at rest returns as it is and inside a context that switches its adapters off."""
    try:
        on = floats_in(model(**inputs))
        with off:
            without = floats_in(model(**inputs))
    except Exception as error:  # noqa: BLE001  # Whatever the user's model raises is the answer.
        message = f"The forward pass raised {type(error).__name__}: {beginning(said(error))}"
        return replace(effect, cause="inputs-failed", error=message)
    if not on:
        return replace(effect, error="The forward pass returned no floating tensor.")
    # A prompt makes the output longer.
    apart = [_apart(a, b) for a, b in zip(on, without, strict=False)] if len(on) == len(without) else [math.inf]
    finite = all(bool(tensor.isfinite().all()) for tensor in on)
    return replace(effect, difference=max(apart, default=0.0), finite=finite)


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).abs().max()) if one.shape == other.shape else math.inf


def zero_but_used(
    model: torch.nn.Module | LoadedModel, inputs: Mapping[str, Any], layers: Iterable[AdapterLayer]
) -> tuple[str, ...]:
    """List modules whose update is zero although another update there would change the output.

    An update of zero is right in a module that has no part in the output (the last layer of a tower whose features are
    taken one layer earlier, an expert that is not chosen): no gradient reaches it. So each such `lora_B` is filled for
    one forward pass, and then restored.

    Args:
        model: Any module with LoRA.
        inputs: Keyword arguments of its `forward`.
        layers: The layers to ask about; of more than sixteen zero updates the first sixteen are tried.

    Returns:
        Paths of the modules. Empty where every update is zero: then the adapter as a whole does nothing.
    """
    applied = [layer for layer in layers if layer.applied and layer.has_data]
    zero = [layer for layer in applied if layer.changes_nothing]
    if not zero or len(zero) == len(applied):
        return ()
    module = LoadedModel.of(model).module
    used = []
    with at_rest(module):
        before = [each.clone() for each in floats_in(module(**inputs))]
        for layer in zero[:_MOST_PASSES]:
            with _filled(layer):
                after = floats_in(module(**inputs))
            if len(before) != len(after) or not all(map(torch.equal, before, after)):
                used.append(layer.module)
    return tuple(used)


def parts_at_work(
    model: torch.nn.Module | LoadedModel, inputs: Mapping[str, Any], parts: Mapping[str, Iterable[str]]
) -> frozenset[str]:
    """Name the parts of a model without which its logits would be others.

    What a model returns besides logits (hidden states, a pooled output) is not asked: few use all of it.

    Args:
        model: Any module. One that raises, or returns no logits, has no such parts.
        inputs: Keyword arguments of its `forward`.
        parts: Keys of the state dict by the name of the part; of more than sixteen parts the first sixteen are tried.
    """
    loaded = LoadedModel.of(model)
    used = set()
    with at_rest(loaded.module), contextlib.suppress(Exception):  # Whatever the user's model raises: nothing is known.
        before = [each.clone() for each in _logits(loaded.module(**inputs))]
        for name, keys in list(parts.items())[:_MOST_PASSES] if before else ():
            with _restored([loaded.state[key].data for key in keys]) as tensors:
                for tensor in tensors:
                    tensor.zero_()
                after = _logits(loaded.module(**inputs))
            if len(before) != len(after) or not all(map(torch.equal, before, after)):
                used.add(name)
    return frozenset(used)


def _logits(output: Any) -> list[torch.Tensor]:
    named = output.items() if isinstance(output, Mapping) else ()
    return [value for name, value in named if name.endswith("logits") and isinstance(value, torch.Tensor)]


def up_factors(model: torch.nn.Module) -> list[torch.Tensor]:
    """List every `lora_B` of the model (out x rank), in PEFT's or another convention.

    It is the factor that an initialisation leaves at zero: with it at zero the adapter changes nothing.
    """
    named = model.named_parameters()
    return [parameter.data for name, parameter in named if lora_factor(parse_key(name).lora) == "up"]


@contextlib.contextmanager
def adapters_off(model: torch.nn.Module) -> Iterator[None]:
    """Switch every adapter off by zeros in `lora_B`, and restore the values at the end.

    No library's own switch is used, so that LoRA of any library is switched off, and nothing else (`requires_grad`,
    the active adapter, a merge) is touched.
    """
    with _restored(up_factors(model)) as factors:
        for factor in factors:
            factor.zero_()
        yield


@contextlib.contextmanager
def _filled(layer: AdapterLayer) -> Iterator[None]:
    """Give the factors that are zero some values."""
    with _restored([factor for factor in (layer.up, layer.down) if not factor.any()]) as factors:
        for factor in factors:
            values = torch.linspace(-1.0, 1.0, factor.numel(), device=factor.device)
            factor.copy_(values.view_as(factor).to(factor.dtype))
        yield


@contextlib.contextmanager
def _restored(tensors: Sequence[torch.Tensor]) -> Iterator[Sequence[torch.Tensor]]:
    kept = [tensor.clone() for tensor in tensors]
    try:
        yield tensors
    finally:
        for tensor, values in zip(tensors, kept, strict=True):
            tensor.copy_(values)


def adapter_state(layers: Iterable[AdapterLayer]) -> str | None:
    """Say why the adapters of a model are not applied as they are, or None.

    `"merged"`, or `"merged twice"`: the product is in the base weights already, in some layers at least. `"disabled"`
    and `"not active"`: they are switched off everywhere.
    """
    layers = list(layers)
    if not layers:
        return None
    if merged := max(layer.merged for layer in layers):
        return "merged twice" if merged > 1 else "merged"
    if not any(layer.enabled for layer in layers):
        return "disabled"
    active = {layer.adapter for layer in layers if layer.active}
    trained = {layer.adapter for layer in layers if not layer.changes_nothing}
    # With a trained adapter next to an active one as initialised, the wrong one is switched on.
    return "not active" if not active or (trained and not trained & active) else None


def describe_adapters(layers: Iterable[AdapterLayer]) -> tuple[str, ...]:
    """Describe each adapter in a line: in how many modules it is, and what PEFT does with it there.

    Example:
        >>> from torch import ones
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
        left_out = [layer.active and layer.enabled and not layer.applied for layer in own]
        states = {
            "active": [layer.active for layer in own],
            "disabled": [not layer.enabled for layer in own],
            "merged": [layer.merged == 1 for layer in own],
            "merged twice": [layer.merged > 1 for layer in own],
            "left out because another adapter is merged": left_out,
        }
        parts = [
            word if all(flags) else f"{word} in {sum(flags)} of {len(own)}"
            for word, flags in states.items()
            if any(flags)
        ]
        parts = parts if any(states["active"]) else ["not active", *parts]
        lines.append(f"{adapter or 'the adapter'}: {', '.join([count(len(own), 'module'), *parts])}")
    return tuple(lines)
