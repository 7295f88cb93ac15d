"""The base model to hold a loaded model against: a live one, or a checkpoint of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import Checkpoint
from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.models import describe, is_module, model_keys
from pytest_lora_ckpt.proof.live_state import LiveState

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


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
        >>> BaseWeights(base, base)("fc.bias").shape
        torch.Size([2])
    """

    def __init__(self, base: Any, model: torch.nn.Module) -> None:
        """See the class."""
        if not isinstance(base, Checkpoint) and not is_module(base):
            raise TypeError(f"A base model is an nn.Module or a Checkpoint, and this is {describe(base)}.")
        self._base = base
        self._state = LiveState(base) if is_module(base) else None
        source = base.keys if isinstance(base, Checkpoint) else model_keys(base)
        mapping = infer_remapping(source, model_keys(model)).mapping
        self.key_of: Mapping[str, str] = {place: key for key, place in mapping.items()}

    def __call__(self, place: str) -> torch.Tensor | None:
        """Return the base model's tensor for a key of the loaded model, on the CPU; None where it has none."""
        key = self.key_of.get(place)
        if key is None:
            return None
        if self._state is None:
            return self._base.read(key)  # type: ignore[no-any-return]  # A Checkpoint.
        return self._state.fetch(key).tensor

    def shares_memory_with(self, model: torch.nn.Module) -> bool:
        """Whether the base is the loaded model itself, or was loaded into: then it is no witness."""
        if self._state is None:
            return False
        here = {each.data_ptr() for each in model.parameters() if each.numel() and not each.is_meta}
        return any(each.data_ptr() in here for each in self._base.parameters() if not each.is_meta)
