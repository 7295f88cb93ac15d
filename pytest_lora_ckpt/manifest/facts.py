"""What a live model tells of its adapters and its base: configs, which are active, scalings, names. Duck-typed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.keys import parse_key

if TYPE_CHECKING:
    import torch

# The fields of PEFT's LoraConfig that decide what is loaded and how it is applied
# (https://huggingface.co/docs/peft/package_reference/lora).
FIELDS = (
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "bias",
    "lora_bias",
    "fan_in_fan_out",
    "target_modules",
    "exclude_modules",
    "target_parameters",
    "modules_to_save",
    "trainable_token_indices",
    "layers_to_transform",
    "layers_pattern",
    "layer_replication",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
)

# Their order says something.
_ORDERED = {"layer_replication"}

_FACTORS = ("lora_A", "lora_embedding_A", "lora_a", "lora_down")


def adapter_configs(model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Return the fields of every PEFT config in the model, by the adapter's name.

    Two PEFT models in one module may use one name; the second is then called `path:name`.
    """
    found: dict[str, dict[str, Any]] = {}
    for path, name, config in _configs(model):
        found[name if name not in found else f"{path}:{name}"] = plain_config(_as_dict(config))
    return found


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that count, as plain data for JSON.

    Example:
        >>> plain_config({"r": 8, "target_modules": {"v_proj", "q_proj"}, "inference_mode": True})
        {'r': 8, 'target_modules': ['q_proj', 'v_proj']}
    """
    return {
        name: _plain(config[name], ordered=name in _ORDERED)
        for name in FIELDS
        if name in config and config[name] is not None
    }


def active_adapters(model: torch.nn.Module) -> tuple[str, ...]:
    """Return the names of the adapters that PEFT's layers have switched on, sorted."""
    layers = [module for module in model.modules() if hasattr(module, "active_adapters") and _has_factor(module)]
    return tuple(sorted({str(name) for layer in layers for name in _names(layer.active_adapters)}))


def module_scalings(model: torch.nn.Module) -> dict[str, dict[str, float]]:
    """Return the factor in force, by adapter and module path; adapters without a name are called `"default"`.

    PEFT keeps it by adapter in `scaling`, loralib as a number there, torchtune as `alpha` and `rank`, kohya in `scale`.
    """
    found: dict[str, dict[str, float]] = {}
    for path, module in model.named_modules():
        if _has_factor(module):
            for name, scaling in _scalings_of(module).items():
                # State dicts leave these segments out.
                found.setdefault(name, {})[path.replace("_checkpoint_wrapped_module.", "")] = scaling
    return found


def merged_modules(model: torch.nn.Module) -> frozenset[str]:
    """Return the plain paths of the modules into whose weight PEFT has merged an adapter."""
    merged = [path for path, module in model.named_modules() if getattr(module, "merged_adapters", None)]
    return frozenset(parse_key(f"{path}.weight").module_path for path in merged)


def base_names(model: torch.nn.Module) -> dict[str, str | None]:
    """Return name, revision and commit of the base model, as far as PEFT and transformers know them."""
    configs = [config for _, _, config in _configs(model)]
    # With several towers the adapted one comes first: it is the one that an adapter is loaded onto.
    adapted = [module for module in model.modules() if isinstance(getattr(module, "peft_config", None), dict)]
    theirs = [config for module in (*adapted, *model.modules()) if (config := getattr(module, "config", None))]
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
        configs = getattr(module, "peft_config", None)
        for name, config in configs.items() if isinstance(configs, Mapping) else ():
            if id(config) not in seen:
                seen.add(id(config))
                yield path, str(name), config


def _as_dict(config: Any) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    return {name: getattr(config, name) for name in FIELDS if hasattr(config, name)}


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


def _has_factor(module: Any) -> bool:
    return any(hasattr(module, name) for name in _FACTORS)


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _scalings_of(module: Any) -> dict[str, float]:
    scaling = getattr(module, "scaling", None)
    if isinstance(scaling, Mapping):
        numbers = {str(name): _number(value) for name, value in scaling.items()}
    elif scaling is not None:
        numbers = {"default": _number(scaling)}
    elif (alpha := _number(getattr(module, "alpha", None))) is not None:
        rank = _number(getattr(module, "rank", None))
        numbers = {"default": alpha / rank if rank else _number(getattr(module, "scale", None))}
    else:
        numbers = {"default": _number(getattr(module, "scale", None))}
    return {name: number for name, number in numbers.items() if number is not None}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # None, a method, a tensor without data.
        return None
    return number if math.isfinite(number) else None


def _first(sources: Iterable[Any], name: str) -> str | None:
    values = (source.get(name) if isinstance(source, Mapping) else getattr(source, name, None) for source in sources)
    return next((value for value in values if isinstance(value, str) and value), None)
