"""Distributed checkpoints, written by torch and by the libraries over it."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path


def save_alone(state: dict[str, Any], folder: Path, **options: Any) -> Path:
    """Save from this process alone, by `torch.distributed.checkpoint`."""
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():  # That there is one process is meant.
        warnings.simplefilter("ignore")
        dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, **options))
    return folder


def written_by_ranks(base: Path) -> Path:
    """Return the folder with what two processes write (`distributed_ranks`), below pytest's own for this run."""
    folder = base / "written-by-ranks"
    if not folder.exists():
        folder.mkdir()
        command = [sys.executable, "-m", "tests.helpers.distributed_ranks", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
        assert not done.returncode, done.stderr[-3000:]
    return folder


def odd_state() -> dict[str, torch.Tensor]:
    """Tensors that do not divide by two ranks."""
    return {
        "three_rows": torch.arange(15.0).reshape(3, 5),
        "one_row": torch.arange(4).to(torch.bfloat16).reshape(1, 4),
        "five": torch.arange(5.0, dtype=torch.float64),
        "by_columns": torch.arange(12.0).reshape(3, 4),
        "cube": torch.arange(24.0, dtype=torch.float16).reshape(3, 2, 4),
    }
