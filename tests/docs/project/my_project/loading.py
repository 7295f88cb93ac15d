"""How the project loads a checkpoint to serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from my_project.model import build
from pytest_lora_ckpt import infer_remapping

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from peft import PeftModel


def load(path: Path | str) -> PeftModel:
    """Build the model, and load the checkpoint without Lightning's prefix."""
    state = torch.load(path, weights_only=True)["state_dict"]
    model = build()
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    return model.eval()


def rename(checkpoint: Mapping[str, object], model: Mapping[str, object]) -> dict[str, str]:
    """Give each key of a checkpoint its name in the model."""
    return dict(infer_remapping(checkpoint, model).mapping)
