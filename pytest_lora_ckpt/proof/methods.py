"""PEFT's methods other than LoRA, by what is common to all: PEFT itself says what a model would save of its adapter."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.lora.layers import merged_modules
from pytest_lora_ckpt.models import attribute
from pytest_lora_ckpt.proof.bitwise import holds
from pytest_lora_ckpt.proof.effect import AdapterEffect, run_twice
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.proof.running import at_rest
from pytest_lora_ckpt.vocabulary.models import EMBEDDINGS, LM_HEADS
from pytest_lora_ckpt.wording import count, grouped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.proof.base_weights import Reference
    from pytest_lora_ckpt.results import LoadReport


class WithSavedNames(LoadedModel):
    """A live model that has its adapter's tensors under the names that PEFT would save them by as well.

    Args:
        module: The model.
        tuned: The model in it that has PEFT's `peft_config`.
        name: Name of the adapter.
        embeddings: Whether PEFT is to save embeddings with it.
    """

    def __init__(self, module: torch.nn.Module, tuned: Any, name: str, *, embeddings: bool) -> None:
        from peft import get_peft_model_state_dict

        self.saved: Mapping[str, torch.Tensor] = get_peft_model_state_dict(
            tuned, adapter_name=name, save_embedding_layers=embeddings
        )
        super().__init__(module, self.saved)
        self.tuned = tuned
        self._slots = get_peft_model_state_dict(tuned, adapter_name=name, save_embedding_layers=False).keys()
        self._prefix = _prefix(_method_of(tuned.peft_config[name]))

    def is_computed(self, key: str) -> bool:
        """Whether PEFT works the tensor out to save it, so that no tensor of the model is it."""
        return key in self.saved and key not in self.aliases

    @cached_property
    def places(self) -> frozenset[str]:
        """Keys of the model that hold parameters of the method."""
        tables = ("adapter_layer_names", "other_param_names")  # Of PEFT's `BaseTunerLayer`.
        own = {name for each in self.module.modules() for table in tables for name in attribute(each, table, ())}
        same = {name for key in self.saved for name in self.aliases.get(key, ())}
        named = {
            key for key in self.state if any(each.startswith(self._prefix) or each in own for each in key.split("."))
        }
        return frozenset((same | named) - self.saved.keys())

    def with_empty_slots(self, report: LoadReport) -> LoadReport:
        """Add to a comparison what PEFT would save of the adapter and the checkpoint does not fill."""
        filled = {name for place in report.mapping.values() for name in self.aliases.get(place, (place,))}
        empty = [key for key in self._slots if key not in filled]
        if not empty or not report.mapping or any(each.cause == "lora-slot-empty" for each in report.findings):
            return report
        message = f"{count(len(empty), 'key')} ({grouped(empty)}) of the model's adapter are missing from the "
        message += "checkpoint."
        found = finding("lora-slot-empty", message, empty)
        return replace(report, verdict="partial", findings=(*report.findings, found))


def with_saved_names(loaded: LoadedModel, checkpoint: Checkpoint) -> WithSavedNames | None:
    """Find the adapter of a checkpoint's method in a loaded model; None where it has none of that method."""
    method = AdapterConfig.of(checkpoint.config).method
    embeddings = any({*key.split(".")} & (EMBEDDINGS | LM_HEADS) for key in checkpoint.keys)
    for module in loaded.module.modules():
        configs = attribute(module, "peft_config")
        if not isinstance(configs, dict):
            continue
        names = [name for name, each in configs.items() if _method_of(each) == method]
        active = attribute(module, "active_adapter")
        if names:
            name = active if active in names else names[0]
            found = WithSavedNames(loaded.module, module, name, embeddings=embeddings)
            return found if found.saved else None
    return None


def _method_of(config: Any) -> str | None:
    return AdapterConfig.of({"peft_type": config.peft_type}).method


def adapted_weights(loaded: LoadedModel, checkpoint: Checkpoint) -> set[str]:
    """Return the keys of a loaded model whose modules the adapter of a checkpoint, of any method, adapts."""
    prefix = _prefix(AdapterConfig.of(checkpoint.config).method)
    modules = set()
    for key in checkpoint.keys:
        segments = key.split(".")
        at = next((at for at, each in enumerate(segments) if each.startswith(prefix)), None)
        # Other keys are of modules that were trained whole.
        modules.add(parse_key(".".join([*segments[:at], "weight"]) if at else key).module_path)
    return {key for key, own in loaded.parsed.items() if own.module_path in modules}


def holds_base_alone(loaded: LoadedModel, checkpoint: Checkpoint, reference: Reference) -> bool | None:
    """Tell whether no weight holds an adapter, since each is the base model's; None where that is not known."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    tuners = {kind.value: tuner for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()}
    method = AdapterConfig.of(checkpoint.adapter_config).method or ""
    if not callable(getattr(tuners.get(method), "merge_and_unload", None)):
        return True  # A prompt is in no weight.
    pairs = [(loaded.read(key).tensor, reference.read(key)) for key in adapted_weights(loaded, checkpoint)]
    known = [(now, base) for now, base in pairs if now is not None and base is not None]
    return all(holds(now, base) for now, base in known) if known else None


def method_effect(adapter: WithSavedNames, inputs: Mapping[str, Any]) -> AdapterEffect:
    """Compare the output with that of PEFT's own `disable_adapter`."""
    model = adapter.module
    effect = AdapterEffect(len(adapter.saved))
    if merged_modules(model):
        return replace(effect, state="merged")
    with at_rest(model):
        return run_twice(effect, model, inputs, _switched_off(adapter.tuned))


@contextlib.contextmanager
def _switched_off(tuned: Any) -> Iterator[None]:
    """Switch the adapters off as PEFT does; in transformers' and diffusers' own models, layer by layer."""
    if callable(attribute(tuned, "disable_adapter")):
        with tuned.disable_adapter():
            yield
        return
    layers = [each for each in tuned.modules() if attribute(each, "disable_adapters") is False]
    trained = {parameter: parameter.requires_grad for parameter in tuned.parameters()}  # The switch changes it.
    try:
        for layer in layers:
            layer.enable_adapters(enabled=False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)
        for parameter, before in trained.items():
            parameter.requires_grad_(before)


def _prefix(method: str | None) -> str:
    """Return how the names of a method's parameters begin, by PEFT's own table."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    prefixes: dict[str, str] = {kind.value: prefix for kind, prefix in PEFT_TYPE_TO_PREFIX_MAPPING.items()}
    return prefixes.get(method or "", f"{(method or 'unknown').lower()}_")
