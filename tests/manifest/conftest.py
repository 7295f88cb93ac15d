"""Replicas with their checkpoints and manifests; none of these tests changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.manifest import Manifest
    from pytest_lora_ckpt.replicas import PanoramaVLM


class Recorded(NamedTuple):
    """A finetuned replica, its checkpoint and the manifest that was written with it."""

    model: PanoramaVLM
    path: Path
    manifest: Manifest


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    from pytest_lora_ckpt.manifest import read_manifest, write_manifest
    from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs, save_stage_checkpoint

    folder = tmp_path_factory.mktemp("recorded")
    model = make_panorama_vlm()
    path = save_stage_checkpoint(folder, model=model)
    return Recorded(model, path, read_manifest(write_manifest(model, folder, probe=replica_inputs(model))))
