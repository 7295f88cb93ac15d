"""The guide's loader with the lines added that its table asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guide import load_like_the_guide

from pytest_lora_ckpt import assert_load_proved, assert_lora_complete, open_checkpoint, prove_load
from pytest_lora_ckpt.manifest import compare_checkpoint, find_manifest, read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.replicas import PanoramaVLM


def load_and_look(path: Path) -> PanoramaVLM:
    """Load, and raise where the checkpoint is not what was trained, or is not what was loaded."""
    checkpoint = open_checkpoint(path)
    assert_lora_complete(checkpoint)
    manifest = read_manifest(find_manifest(path))
    assert not compare_checkpoint(manifest, checkpoint).differences
    model = load_like_the_guide(path)
    assert_load_proved(prove_load(model, path))
    return model
