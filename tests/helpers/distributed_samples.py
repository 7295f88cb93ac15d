"""Distributed checkpoints, written by torch and by the libraries over it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def save_alone(state: dict[str, Any], folder: Path, **options: Any) -> Path:
    """Save from this process alone, by `torch.distributed.checkpoint`."""
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():  # That there is one process is meant.
        warnings.simplefilter("ignore")
        dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, **options))
    return folder
