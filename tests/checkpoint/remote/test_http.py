"""Checkpoints behind a web server: what is asked for, and how it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from pytest_lora_ckpt.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.web_server import Web


def test_a_big_file_takes_three_requests_and_its_header(tmp_path: Path, web: Web) -> None:
    state = {f"model.layers.{i}.self_attn.q_proj.weight": torch.full((64, 64), float(i)) for i in range(2000)}
    save_file(state, tmp_path / "model.safetensors")
    with (tmp_path / "model.safetensors").open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    checkpoint = open_checkpoint(f"{web.url}/model.safetensors")
    assert set(checkpoint.keys) == set(state)
    assert len(web.requests) <= 3
    assert web.sent <= header + 100_000
    assert checkpoint.path.name == "model.safetensors"
    assert str(checkpoint.path) == f"{web.url}/model.safetensors"
    assert torch.equal(checkpoint.read("model.layers.7.self_attn.q_proj.weight"), torch.full((64, 64), 7.0))
