"""A file that is called as the one component that it holds: the rest of the model was not trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.comparison.compare import compare

if TYPE_CHECKING:
    from pathlib import Path

MODEL = {"projector.weight": (2, 3), "projector.bias": (2,), "layers.0.weight": (2, 2)}


@pytest.mark.parametrize(
    ("name", "prefix", "scope", "verdict"),
    [
        ("projector.bin", "", "adapter", "loads"),
        ("projector.bin", "model.", "adapter", "loads-after-remap"),
        ("last.bin", "", "full", "partial"),
        ("model.bin", "model.", "full", "partial"),
    ],
)
def test_the_name_of_the_file_says_what_was_meant(
    name: str, prefix: str, scope: str, verdict: str, tmp_path: Path
) -> None:
    keys = [key for key in MODEL if key.startswith("projector")]
    torch.save({f"{prefix}{key}": torch.ones(MODEL[key]) for key in keys}, tmp_path / name)
    report = compare(open_checkpoint(tmp_path / name), MODEL)
    assert (report.scope, report.verdict) == (scope, verdict)
