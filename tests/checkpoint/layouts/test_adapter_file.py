from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import CheckpointError, open_checkpoint
from pytest_lora_ckpt.checkpoint import AdapterInfo

if TYPE_CHECKING:
    from pathlib import Path

FACTORS = {"unet.to_q.lora_A.weight": torch.ones(2, 4), "unet.to_q.lora_B.weight": torch.ones(4, 2)}


def test_the_directory_of_diffusers(tmp_path: Path) -> None:
    save_file(FACTORS, tmp_path / "pytorch_lora_weights.safetensors")
    torch.save({}, tmp_path / "pytorch_lora_weights.bin")  # diffusers prefers the other one.
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.keys) == set(FACTORS)
    assert checkpoint.path == tmp_path
    assert checkpoint.files == (tmp_path / "pytorch_lora_weights.safetensors",)


def test_the_directory_of_litgpt(tmp_path: Path) -> None:
    torch.save(
        {"model": {"lm_head.lora_A": torch.ones(2, 4), "lm_head.lora_B": torch.ones(4, 2)}},
        tmp_path / "lit_model.pth.lora",
    )
    (tmp_path / "hyperparameters.yaml").write_text("lora_r: 2\nlora_alpha: 16\n")
    assert open_checkpoint(tmp_path).adapters == {"default": AdapterInfo(2, 16, 1)}
    torch.save({"lm_head.weight": torch.ones(4, 4)}, tmp_path / "lit_model.pth")
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.keys) == {"lm_head.lora_A", "lm_head.lora_B"}
    assert any(note.startswith("lit_model.pth next to lit_model.pth.lora is") for note in checkpoint.notes)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"\x10" + bytes(7) + b"{")
    with pytest.raises(CheckpointError, match=r"pytorch_lora_weights\.safetensors"):
        open_checkpoint(tmp_path)
