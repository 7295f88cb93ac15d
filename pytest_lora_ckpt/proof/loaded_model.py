"""A live model, read once. Its tensors may be on another device, sharded, offloaded, quantised, or absent."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.layers import AdapterLayer, active_adapter, adapter_layers
from pytest_lora_ckpt.models import is_module, keys_of_state
from pytest_lora_ckpt.wording import dtype_name, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_lora_ckpt.keys import ParsedKey
    from pytest_lora_ckpt.tensors import KeySet

# How many of PEFT's wrappers stand around one parameter at most.
_WRAPPED = 4


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """One tensor of a live model, as far as this process can see it.

    Attributes:
        tensor: The values, on the CPU; None where they cannot be read.
        why: Why they cannot be read, in words that follow "it": `"is quantised (int8)"`.
        local_slices: Which part of the whole tensor this is, for a sharded one; else None.
        absent: Whether there are no values at all (meta device): the model was never materialised.
    """

    tensor: torch.Tensor | None
    why: str = ""
    local_slices: tuple[slice, ...] | None = None
    absent: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the values are there, all of them."""
        return self.tensor is not None and self.local_slices is None

    def part_of(self, whole: torch.Tensor) -> torch.Tensor:
        """Cut the same part out of the whole tensor."""
        return whole if self.local_slices is None else whole[self.local_slices]


class LoadedModel:
    """A live model with its state dict, keys, adapter layers and active adapter, each read at first use and kept.

    The tensors are the model's own, so that values are always current. Make another one after the model's structure,
    its adapters or their switches have changed.

    Args:
        model: Any `nn.Module`. Nothing in it is changed, and at most one tensor of it is copied at a time.
        overlay: Tensors that stand under these keys instead, or as well.

    Raises:
        TypeError: `model` is not an `nn.Module`.

    Example:
        >>> loaded = LoadedModel(torch.nn.Linear(2, 2))
        >>> list(loaded.keys), loaded.layers, loaded.read("bias").tensor.shape
        (['weight', 'bias'], (), torch.Size([2]))
    """

    def __init__(self, model: torch.nn.Module, overlay: Mapping[str, torch.Tensor] | None = None) -> None:
        if not is_module(model):
            raise TypeError(f"A loaded model is a torch.nn.Module, and this is {type_name(model)}.")
        self.module, self._overlay = model, overlay or {}

    @classmethod
    def of(cls, model: Any) -> LoadedModel:
        """Return the model as a `LoadedModel`, which it may be already."""
        return model if isinstance(model, cls) else cls(model)

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """The state dict: key -> the parameter or buffer itself, or whatever else a module puts there."""
        return {**self.module.state_dict(keep_vars=True), **self._overlay}

    @cached_property
    def keys(self) -> KeySet:
        """The keys of the tensors, with shapes, dtypes and aliases (`model_keys`)."""
        return keys_of_state(self.module, self.state)

    @property
    def parsed(self) -> Mapping[str, ParsedKey]:
        """The keys, parsed."""
        return self.keys.derived(parse_keys)

    @cached_property
    def aliases(self) -> Mapping[str, tuple[str, ...]]:
        """Every key that has another name -> all names of that tensor, sorted."""
        return self.keys.alias_of()

    @cached_property
    def layers(self) -> tuple[AdapterLayer, ...]:
        """The adapted modules, each once for every adapter that it has."""
        return tuple(adapter_layers(self.module))

    @cached_property
    def layer_of_weight(self) -> Mapping[str, AdapterLayer]:
        """Key of a base weight in PEFT's layers -> the adapter there; of several the one that is merged."""
        layers = sorted(self.layers, key=lambda each: each.merged)
        return {f"{each.module}.base_layer.weight": each for each in layers}

    @cached_property
    def merged_into(self) -> Mapping[str, Sequence[AdapterLayer]]:
        """Key of a base weight in PEFT's layers -> the adapters that are merged into it."""
        merged: dict[str, list[AdapterLayer]] = defaultdict(list)
        for each in self.layers:
            if each.merged:
                # Two adapted parameters of one module (`target_parameters`) are wrapped twice.
                paths = (f"{each.module}{'.base_layer' * depth}.{each.parameter}" for depth in range(1, _WRAPPED + 1))
                merged[next((path for path in paths if path in self.keys), "")].append(each)
        return merged

    @cached_property
    def active_adapter(self) -> str | None:
        """Name of the one active adapter; None where there is none, or several."""
        return active_adapter(self.module)

    def is_computed(self, key: str) -> bool:  # noqa: ARG002  # For models that know more.
        """Whether a tensor is no parameter or buffer, but worked out from them."""
        return False

    def is_in_memory(self, key: str) -> bool:
        """Whether a tensor lies in this process's memory, so that reading it copies nothing."""
        value = self.state[key]
        return isinstance(value, torch.Tensor) and value.device.type == "cpu"

    def read(self, key: str) -> ModelTensor:
        """Read the tensor under a key of the state dict."""
        value = self.state[key]
        if not isinstance(value, torch.Tensor):
            return ModelTensor(None, f"is {type_name(value)}, not a tensor")
        plain = value.detach()
        if hasattr(plain, "placements"):
            return _local_part(plain)
        if plain.is_meta:
            offloaded = None if key in self._overlay else self._offloaded(key)
            return ModelTensor(None, "is on the meta device", absent=True) if offloaded is None else offloaded
        if is_packed(value):
            return ModelTensor(None, f"is quantised ({_kind(value)})")
        return ModelTensor(plain.cpu())

    def _offloaded(self, key: str) -> ModelTensor | None:
        """Look where accelerate keeps what it takes off the device between two forward passes.

        Its `AlignDevicesHook` has a `weights_map` for its module (accelerate/hooks.py).
        """
        path, _, name = key.rpartition(".")
        hook = getattr(self.module.get_submodule(path), "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            weights = getattr(each, "weights_map", None)
            if weights is not None:
                try:
                    value = weights[name]
                except KeyError:
                    continue
                return ModelTensor(torch.as_tensor(value).detach().cpu())
        return None


def _local_part(value: Any) -> ModelTensor:
    """Read this rank's part of a DTensor. No other rank is asked, so nothing can wait for one."""
    try:
        chunks = value.__create_chunk_list__()
        local = value.to_local()
    except Exception as error:  # noqa: BLE001  # Partial sums, and layouts that torch itself cannot tell.
        return ModelTensor(None, f"is sharded in a way that one rank cannot see ({type(error).__name__})")
    if len(chunks) != 1 or tuple(chunks[0].sizes) != tuple(local.shape):
        return ModelTensor(None, "is sharded into several pieces")
    offsets = zip(chunks[0].offsets, chunks[0].sizes, strict=True)
    return ModelTensor(local.cpu(), local_slices=tuple(slice(start, start + size) for start, size in offsets))


def is_packed(value: torch.Tensor) -> bool:
    """Whether the elements are codes of a quantising library, or the tensor is not dense."""
    if value.is_quantized or value.is_sparse or value.layout is not torch.strided:
        return True
    if not _is_plain(value) and hasattr(value, "__tensor_flatten__"):
        return True  # torchao and others: a tensor made of tensors.
    return any(getattr(value, name, None) is not None for name in ("quant_state", "CB", "SCB"))  # bitsandbytes.


def _is_plain(value: torch.Tensor) -> bool:
    return type(value) in {torch.Tensor, torch.nn.Parameter}


def _kind(value: torch.Tensor) -> str:
    return dtype_name(value.dtype) if _is_plain(value) else type(value).__name__
