"""Slots for adapters of several ranks (PEFT's hotswapping): an adapter of a lower rank fills the rest with zeros."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.proof.loaded_model import LoadedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.lora.layers import AdapterLayer


def without_padding(loaded: LoadedModel, checkpoint: Checkpoint) -> LoadedModel:
    """Return a loaded model whose factors have the checkpoint's rank, where all beyond that rank is zero."""
    ranks = sorted({pair.rank for pair in lora_pairs(checkpoint.keys) if pair.rank})
    cut: dict[int, torch.Tensor] = {}
    for layer in loaded.layers if ranks else ():
        if layer.has_data and len(layer.down) not in ranks and layer.kind in {"linear", "conv"}:
            rank = next((rank for rank in ranks if _is_padded(layer, rank)), None)
            if rank is not None:
                cut |= {layer.down.data_ptr(): layer.down[:rank], layer.up.data_ptr(): layer.up[:, :rank]}
    return _Unpadded(loaded.module, cut) if cut else loaded


def _is_padded(layer: AdapterLayer, rank: int) -> bool:
    """Whether all beyond a rank is zero. No initialisation leaves rows of A at zero."""
    down, up = layer.down, layer.up
    return rank < len(down) and bool(down[:rank].any()) and not down[rank:].any() and not up[:, rank:].any()


class _Unpadded(LoadedModel):
    def __init__(self, module: torch.nn.Module, cut: Mapping[int, torch.Tensor]) -> None:
        super().__init__(module)
        self._cut = cut

    @cached_property
    def state(self) -> Mapping[str, Any]:
        whole = super().state
        return {
            key: self._cut.get(value.data_ptr(), value) if hasattr(value, "data_ptr") and value.numel() else value
            for key, value in whole.items()
        }
