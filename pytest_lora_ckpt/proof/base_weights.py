"""The base model: where its weights come from, and whether the loaded model still has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import Checkpoint
from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.lora.scaling import expected_scaling
from pytest_lora_ckpt.models import is_module
from pytest_lora_ckpt.proof.bitwise import cast_between, same_bits
from pytest_lora_ckpt.proof.fitting import fit_in_place, fits_rounded
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.wording import type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    import torch

    from pytest_lora_ckpt.lora.config import AdapterConfig


class BaseWeights:
    """The base model's tensors under the keys of a loaded model.

    Args:
        base: The base model: an `nn.Module` without the adapter, or a `Checkpoint` of it.
        model: The loaded model, whose keys may have PEFT's wrapping.

    Raises:
        TypeError: `base` is neither.

    Example:
        >>> import torch
        >>> base = torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 2)})
        >>> BaseWeights(base, base).read("fc.bias").shape
        torch.Size([2])
    """

    def __init__(self, base: Any, model: torch.nn.Module | LoadedModel) -> None:
        """See the class."""
        if not isinstance(base, Checkpoint) and not is_module(base):
            raise TypeError(f"A base model is an nn.Module or a Checkpoint, and this is {type_name(base)}.")
        self._base: Checkpoint | LoadedModel = base if isinstance(base, Checkpoint) else LoadedModel(base)
        mapping = infer_remapping(self._base.keys, LoadedModel.of(model).keys).mapping
        self.key_of: Mapping[str, str] = {model_key: key for key, model_key in mapping.items()}

    def read(self, model_key: str) -> torch.Tensor | None:
        """Return the base model's tensor for a key of the loaded model, on the CPU; None where it has none."""
        key = self.key_of.get(model_key)
        if key is None:
            return None
        return self._base.read(key) if isinstance(self._base, Checkpoint) else self._base.read(key).tensor

    def shares_memory_with(self, model: torch.nn.Module) -> bool:
        """Whether the base is the loaded model itself, or was loaded into: then comparing the two proves nothing."""
        if isinstance(self._base, Checkpoint):
            return False
        here = {each.data_ptr() for each in model.parameters() if each.numel() and not each.is_meta}
        return any(each.data_ptr() in here for each in self._base.module.parameters() if not each.is_meta)


@dataclass(frozen=True)
class Reference:
    """What a loaded model is compared with besides the checkpoint.

    Attributes:
        bases: Gives the base models to ask, in order. It is called only when a tensor of theirs is needed.
        config: The adapter's config, which says how its modules are scaled.

    Example:
        >>> Reference(config={"r": 4, "lora_alpha": 8}).scaling("layers.0.q_proj", 4)
        2.0
    """

    bases: Callable[[], Iterable[BaseWeights]] = tuple
    config: AdapterConfig | Mapping[str, Any] | None = None

    def read(self, model_key: str) -> torch.Tensor | None:
        """Return the first base model's tensor for a key of the loaded model, or None."""
        tensors = (base.read(model_key) for base in self.bases())
        return next((tensor for tensor in tensors if tensor is not None), None)

    def scaling(self, module: str, rank: int | None) -> float | None:
        """Return the scaling of a module by the config, or None."""
        return expected_scaling(self.config, module, rank)


@dataclass(frozen=True, slots=True)
class BaseComparison:
    """The base weights of a loaded model, compared with the base model's.

    Attributes:
        same: Number of tensors that match bit for bit, after a cast, or with the adapter merged into them once.
        rounded: Number of tensors that match up to rounding: an adapter was merged into them and unmerged again.
        changed: Keys of the loaded model whose values differ.
        left_out: Number of tensors that were not compared: the checkpoint supplies them, or they hold a merged adapter.
        unknown: Keys whose values cannot be read (quantised, sharded).
    """

    same: int
    rounded: int
    changed: tuple[str, ...]
    left_out: int
    unknown: tuple[str, ...]


def compare_base(
    model: torch.nn.Module | LoadedModel, base: BaseWeights, leave_out: Collection[str] = ()
) -> BaseComparison:
    """Compare the base weights of a loaded model with those of the base model, one tensor at a time.

    A weight into which PEFT has merged an adapter in place matches where it is W + scaling x B A.

    Args:
        model: The loaded model, with or without PEFT's wrapping.
        base: The base model's tensors under the loaded model's keys.
        leave_out: Keys of the loaded model that the checkpoint is meant to supply.
    """
    loaded = LoadedModel.of(model)
    layers = loaded.layer_of_weight
    same, rounded, left_out = 0, 0, 0
    changed: list[str] = []
    unknown: list[str] = []
    for model_key in base.key_of:
        if loaded.parsed[model_key].is_adapter:
            continue
        if model_key in leave_out:
            left_out += 1
            continue
        live, wanted = loaded.read(model_key), base.read(model_key)
        if live.tensor is None or wanted is None:
            unknown.append(model_key)
            continue
        wanted, layer = live.part_of(wanted), layers.get(model_key)
        merged = layer if layer and layer.merged and live.is_whole else None
        if (
            same_bits(wanted, live.tensor)
            or cast_between(wanted, live.tensor)
            or (merged and fit_in_place(live.tensor, wanted, merged).times == 1)
        ):
            same += 1
        elif layer and fits_rounded(live.tensor, wanted):
            rounded += 1
        else:
            changed.append(model_key)
    return BaseComparison(same, rounded, tuple(changed), left_out, tuple(unknown))
