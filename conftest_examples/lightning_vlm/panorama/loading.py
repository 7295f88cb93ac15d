"""Two ways to load a checkpoint for serving. Both run, and both give a model that answers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from panorama.model import PanoramaChat, VLMConfig

if TYPE_CHECKING:
    import os

    from torch import Tensor

logger = logging.getLogger(__name__)


def from_checkpoint(path: str | os.PathLike[str]) -> PanoramaChat:
    """The right way: attach the LoRA first, rename the keys, and insist on all that training changed."""
    state_dict, config = _read(path)
    model = PanoramaChat(config, with_lora=True)
    # strict=False, because a checkpoint of `keep_only_trained` lacks the downloaded weights.
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    lost = [key for key in missing if key.startswith(("perceiver.", "bridge.")) or "lora_" in key]
    if lost or unexpected:
        raise RuntimeError(f"{path}: {len(lost)} trained keys are missing, {len(unexpected)} have no place: {lost[:3]}")
    return model.eval()


def from_checkpoint_like_the_guide(path: str | os.PathLike[str]) -> PanoramaChat:
    """The wrong way: the model has no LoRA, and strict=False says nothing when the adapter is dropped."""
    state_dict, config = _read(path)
    model = PanoramaChat(config, with_lora=False)
    missing, _ = model.load_state_dict(state_dict, strict=False)
    logger.info("loaded %d/%d keys", len(state_dict) - len(missing), len(state_dict))
    return model.eval()


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], VLMConfig]:
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    state_dict = {key.removeprefix("model."): tensor for key, tensor in checkpoint["state_dict"].items()}
    return state_dict, VLMConfig(**checkpoint["hyper_parameters"]["config"])
