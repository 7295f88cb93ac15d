"""Score a loader with every fault that applies to a tiny checkpoint, libraries imported. Target: under 60 s."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

LIMIT = 60.0


@pytest.mark.parametrize("name", ["PanoramaVLM.from_checkpoint", "load_like_the_guide"])
def test_every_fault_against_one_loader(benchmark: BenchmarkFixture, tmp_path: Path, name: str) -> None:
    from pytest_lora_ckpt.manifest import LoraManifestCallback
    from pytest_lora_ckpt.replicas import (
        PanoramaVLM,
        make_panorama_vlm,
        replica_inputs,
        save_adapter,
        save_stage_checkpoint,
    )
    from pytest_lora_ckpt.scoring import score_loader
    from tests.helpers.guide_loader import load_like_the_guide

    path = save_stage_checkpoint(tmp_path / "run", callbacks=[LoraManifestCallback()])
    loader = PanoramaVLM.from_checkpoint
    if name == "load_like_the_guide":
        save_adapter(PanoramaVLM.from_checkpoint(path), path.parent / "lora_weights")
        loader = load_like_the_guide
    base = make_panorama_vlm(lora=False)
    options = {"inputs": replica_inputs, "base_model": base}
    began = time.process_time()
    score = benchmark.pedantic(score_loader, (loader, path), options, rounds=1)
    assert len(score.rows) > 50
    # Of this process: what else the machine does is not counted.
    assert time.process_time() - began < LIMIT
