"""Replicas that several tests look at; none of these tests changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.replicas import PanoramaVLM


class Trained(NamedTuple):
    """A finetuned replica and its checkpoint."""

    model: PanoramaVLM
    path: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from pytest_lora_ckpt.replicas import make_panorama_vlm, save_stage_checkpoint

    model = make_panorama_vlm()
    return Trained(model, save_stage_checkpoint(tmp_path_factory.mktemp("finetune"), model=model))


@pytest.fixture(scope="session")
def inputs() -> dict[str, Any]:
    from pytest_lora_ckpt.replicas import replica_inputs

    return replica_inputs()
