"""What a manifest records of a live model's adapters and base: configs, scalings, names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.models import attribute
from pytest_lora_ckpt.vocabulary.lora import PEFT_FIELDS

if TYPE_CHECKING:
    import torch

    from pytest_lora_ckpt.lora.layers import AdapterLayer

# Their order says something.
_ORDERED = {"layer_replication"}


def adapter_configs(model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Return the fields of every PEFT config in the model, by the adapter's name.

    Two PEFT models in one module may use one name; the second is then called `path:name`.
    """
    found: dict[str, dict[str, Any]] = {}
    for path, name, config in _configs(model):
        fields = config if isinstance(config, Mapping) else {each: getattr(config, each, None) for each in PEFT_FIELDS}
        found[name if name not in found else f"{path}:{name}"] = plain_config(fields)
    return found


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that count, as plain data for JSON.

    Example:
        >>> plain_config({"r": 8, "target_modules": {"v_proj", "q_proj"}, "inference_mode": True})
        {'r': 8, 'target_modules': ['q_proj', 'v_proj']}
    """
    given = {name: config[name] for name in PEFT_FIELDS if config.get(name) is not None}
    return {name: _plain(value, ordered=name in _ORDERED) for name, value in given.items()}


def module_scalings(layers: Iterable[AdapterLayer]) -> dict[str, dict[str, float]]:
    """Return the scaling in force, by adapter and module path; adapters without a name are called `"default"`."""
    scalings: dict[str, dict[str, float]] = {}
    for layer in layers:
        if layer.scaling is not None and math.isfinite(layer.scaling):
            # State dicts leave these segments out.
            path = ".".join(each for each in layer.module.split(".") if each != "_checkpoint_wrapped_module")
            scalings.setdefault(layer.adapter or "default", {})[path] = layer.scaling
    return scalings


def base_names(model: torch.nn.Module) -> dict[str, str | None]:
    """Return name, revision and commit of the base model, as far as PEFT and transformers know them."""
    configs = [config for _, _, config in _configs(model)]
    # With several towers the adapted one comes first: it is the one that an adapter is loaded onto.
    adapted = [module for module in model.modules() if isinstance(attribute(module, "peft_config"), dict)]
    theirs = [config for module in (*adapted, *model.modules()) if (config := attribute(module, "config"))]
    return {
        "name": _first(configs, "base_model_name_or_path") or _first(theirs, "_name_or_path"),
        "revision": _first(configs, "revision"),
        "commit": _first(theirs, "_commit_hash"),
    }


def is_sharded(model: torch.nn.Module) -> bool:
    """Tell whether asking for the state dict needs all ranks: FSDP's first generation gathers it."""
    return any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())


def _configs(model: torch.nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Go over path, adapter's name and config; the PEFT model and its tuner hold the same."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        configs = attribute(module, "peft_config")
        for name, config in configs.items() if isinstance(configs, Mapping) else ():
            if id(config) not in seen:
                seen.add(id(config))
                yield path, str(name), config


def _plain(value: Any, *, ordered: bool = False) -> Any:
    value = getattr(value, "value", value)  # An enum's.
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, Iterable):
        items = [_plain(item) for item in value]
        return items if ordered else sorted(items, key=lambda item: (str(type(item)), item))
    return str(value)


def _first(sources: Iterable[Any], name: str) -> str | None:
    values = (source.get(name) if isinstance(source, Mapping) else getattr(source, name, None) for source in sources)
    return next((value for value in values if isinstance(value, str) and value), None)
