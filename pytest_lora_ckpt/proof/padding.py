"""Slots for adapters of several ranks (PEFT's hotswapping): an adapter of a lower rank fills the rest with zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.models import is_tensor
from pytest_lora_ckpt.proof.loaded_model import LoadedModel

if TYPE_CHECKING:
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
    held = loaded.state.items() if cut else ()
    shorter = {key: cut[value.data_ptr()] for key, value in held if is_tensor(value) and value.data_ptr() in cut}
    return LoadedModel(loaded.module, shorter) if cut else loaded


def _is_padded(layer: AdapterLayer, rank: int) -> bool:
    """Whether all beyond a rank is zero. No initialisation leaves rows of A at zero."""
    down, up = layer.down, layer.up
    return rank < len(down) and bool(down[:rank].any()) and not down[rank:].any() and not up[:, rank:].any()
