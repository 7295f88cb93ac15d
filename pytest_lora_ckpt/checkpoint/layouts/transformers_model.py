"""The base model on disk: where a project, or `adapter_config.json`, says that it lies."""

from __future__ import annotations

from pathlib import Path

from pytest_lora_ckpt.checkpoint import Checkpoint, CheckpointError, open_checkpoint

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What transformers' `save_pretrained` calls the weights of a model that fits into one file."""


def open_base(path: Path | str) -> Checkpoint:
    """Open the base model's weights: a checkpoint file, or the directory that `save_pretrained` wrote.

    Raises:
        CheckpointError: There is nothing that can be read.
    """
    place = Path(path)
    return open_checkpoint(next((place / name for name in _WEIGHTS if (place / name).is_file()), place))


def find_base(name: object) -> Checkpoint | None:
    """Open the base model that `base_model_name_or_path` names, where that is a directory on this machine."""
    if not isinstance(name, str) or not name or not Path(name).is_dir():
        return None
    try:
        return open_base(name)
    except CheckpointError:
        return None
