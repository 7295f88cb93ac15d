"""Paths next to the one that is meant: the error names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.checkpoint import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def remedy(path: str | Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value.remedy


@pytest.mark.parametrize("name", ["adapter_config.json", "config.json"])
def test_a_config_names_its_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match="not its weights") as caught:
        open_checkpoint(tmp_path / name)
    assert caught.value.remedy == f"Give its directory: {tmp_path}"
    assert "nothing reads it" not in caught.value.found


def test_the_state_of_the_optimizer_names_the_adapter(tmp_path: Path) -> None:
    torch.save({"state": {}, "param_groups": []}, tmp_path / "optimizer.pt")
    assert "torch.save" in remedy(tmp_path / "optimizer.pt")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert remedy(tmp_path / "optimizer.pt") == f"Give its directory, {tmp_path}, which holds an adapter."


def test_an_id_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "`hf download nobody/a-lora --local-dir a-lora`" in remedy("nobody/a-lora")
    for path in ("nobody/a-lora.ckpt", tmp_path / "a-lora", "runs/nobody/a-lora", "a-lora"):
        assert "Hub" not in remedy(path)
    (tmp_path / "nobody").mkdir()
    assert "Hub" not in remedy("nobody/a-lora")
