"""The base model: where its weights come from, and whether the loaded model still has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import Checkpoint
from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.lora.scaling import expected_scaling
from pytest_lora_ckpt.models import is_module
from pytest_lora_ckpt.proof.experts import WithExperts
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.wording import type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import torch

    from pytest_lora_ckpt.lora.config import AdapterConfig
    from pytest_lora_ckpt.proof.trained_rows import TrainedRows


class BaseWeights:
    """The base model's tensors under the keys of a loaded model.

    Args:
        base: The base model: an `nn.Module` without the adapter, or a `Checkpoint` of it.
        model: The loaded model, whose keys may have PEFT's wrapping.
        config: The adapter's config, which says whether layers of the base are there several times.

    Attributes:
        key_of: Key of the loaded model -> key of the base, of one shape.
        resized: The same where the base has another number of rows: the vocabulary was resized.

    Raises:
        TypeError: `base` is neither.

    Example:
        >>> import torch
        >>> base = torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 2)})
        >>> BaseWeights(base, base).read("fc.bias").shape
        torch.Size([2])
    """

    def __init__(self, base: Any, model: torch.nn.Module | LoadedModel, config: AdapterConfig | None = None) -> None:
        if not isinstance(base, Checkpoint) and not is_module(base):
            raise TypeError(f"A base model is an nn.Module or a Checkpoint, and this is {type_name(base)}.")
        loaded = LoadedModel.of(model)
        self._base: Checkpoint | LoadedModel = base if isinstance(base, Checkpoint) else LoadedModel(base)
        if isinstance(loaded, WithExperts) and isinstance(self._base, LoadedModel):
            self._base = loaded.with_same_names(self._base)
        pairs = _pair(self._base.keys, loaded, config.replicated if config else ())
        ours, theirs = self._base.keys, loaded.keys
        self.key_of: Mapping[str, str] = {to: key for to, key in pairs.items() if ours[key].shape == theirs[to].shape}
        self.resized: Mapping[str, str] = {
            to: key
            for to, key in pairs.items()
            if to not in self.key_of and ours[key].shape[1:] == theirs[to].shape[1:]
        }

    def read(self, model_key: str) -> torch.Tensor | None:
        """Return the base model's tensor for a key of the loaded model, on the CPU; None where it has none."""
        key = self.key_of.get(model_key, self.resized.get(model_key))
        if key is None:
            return None
        return self._base.read(key) if isinstance(self._base, Checkpoint) else self._base.read(key).tensor

    def shares_memory_with(self, model: torch.nn.Module) -> bool:
        """Whether the base is the loaded model itself, or was loaded into: then comparing the two proves nothing."""
        if isinstance(self._base, Checkpoint):
            return False
        here = {each.data_ptr() for each in model.parameters() if each.numel() and not each.is_meta}
        return any(each.data_ptr() in here for each in self._base.module.parameters() if not each.is_meta)


def _pair(base: KeySet, loaded: LoadedModel, replicated: Sequence[int]) -> dict[str, str]:
    """Pair keys of the loaded model with those of the base: by inference, and around layers that LoRA put inside."""
    names = {key: _unreplicated(key, replicated) for key in loaded.keys} if replicated else {}
    target = KeySet({names[key]: info for key, info in loaded.keys.items()}) if names else loaded.keys
    pairs = _inferred(base, target)
    pairs = {key: pairs[name] for key, name in names.items() if name in pairs} if names else pairs
    # A library's own layer may hold the base's inside, under a name of its own: litgpt's `qkv.linear.weight`.
    used = {*pairs.values()}
    left = {key: info for key, info in base.items() if key not in used}
    inner = {_without_inner(key): key for key in loaded.keys if key not in pairs and not loaded.parsed[key].is_adapter}
    inner = {name: key for name, key in inner.items() if name and name not in loaded.keys}
    if left and inner:
        outer = KeySet({name: loaded.keys[key] for name, key in inner.items()})
        pairs |= {inner[name]: key for name, key in _inferred(KeySet(left), outer).items()}
    return pairs


def _inferred(base: KeySet, target: KeySet) -> dict[str, str]:
    remapping = infer_remapping(base, target)
    return {to: key for key, to in (*remapping.shape_mismatches.items(), *remapping.mapping.items())}


def _unreplicated(key: str, replicated: Sequence[int]) -> str:
    """Rename a key to that of the layer of the base model of which it is a copy."""
    segments = key.split(".")
    at = next((at for at, each in enumerate(segments) if each.isdecimal()), None)
    if at is None or int(segments[at]) >= len(replicated):
        return key
    return ".".join([*segments[:at], str(replicated[int(segments[at])]), *segments[at + 1 :]])


def _without_inner(key: str) -> str:
    module, _, parameter = key.rpartition(".")
    outer = module.rpartition(".")[0]
    return f"{outer}.{parameter}" if outer else ""


@dataclass(frozen=True)
class Reference:
    """What a loaded model is compared with besides the checkpoint.

    Attributes:
        bases: Gives the base models to ask, in order. It is called only when a tensor of theirs is needed.
        config: The adapter's config, which says how its modules are scaled.
        rows: Rows that were trained whole, next to the adapter: they replace the base model's.

    Example:
        >>> Reference(config={"r": 4, "lora_alpha": 8}).scaling("layers.0.q_proj", 4)
        2.0
    """

    bases: Callable[[], Iterable[BaseWeights]] = tuple
    config: AdapterConfig | Mapping[str, Any] | None = None
    rows: tuple[TrainedRows, ...] = ()

    def read(self, model_key: str) -> torch.Tensor | None:
        """Return the first base model's tensor for a key of the loaded model, or None."""
        tensors = (base.read(model_key) for base in self.bases() if model_key in base.key_of)
        found = next((tensor for tensor in tensors if tensor is not None), None)
        trained = [each for each in self.rows if each.model_key == model_key] if found is not None else []
        if found is not None and trained:
            found = found.clone()
            for each in trained:
                found[list(each.rows)] = each.source.read(each.key).to(found.dtype)
        return found

    def scaling(self, module: str, rank: int | None) -> float | None:
        """Return the scaling of a module by the config, or None."""
        return expected_scaling(self.config, module, rank)
