"""The manifest: what was known of a model when its checkpoint was written, small enough to keep in git.

Reading one, and holding a checkpoint against it, needs no torch; the names that do are resolved at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt._lazy import attach

if TYPE_CHECKING:
    from pytest_lora_ckpt.manifest.callbacks import LoraManifestCallback as LoraManifestCallback
    from pytest_lora_ckpt.manifest.compare import compare_checkpoint as compare_checkpoint
    from pytest_lora_ckpt.manifest.compare import compare_model as compare_model
    from pytest_lora_ckpt.manifest.differences import ManifestComparison as ManifestComparison
    from pytest_lora_ckpt.manifest.differences import summarise as summarise
    from pytest_lora_ckpt.manifest.places import find_manifest as find_manifest
    from pytest_lora_ckpt.manifest.places import manifest_next_to as manifest_next_to
    from pytest_lora_ckpt.manifest.probe import ProbeResult as ProbeResult
    from pytest_lora_ckpt.manifest.probe import replay_probe as replay_probe
    from pytest_lora_ckpt.manifest.read import read_manifest as read_manifest
    from pytest_lora_ckpt.manifest.schema import SCHEMA as SCHEMA
    from pytest_lora_ckpt.manifest.schema import BaseModel as BaseModel
    from pytest_lora_ckpt.manifest.schema import Manifest as Manifest
    from pytest_lora_ckpt.manifest.schema import ManifestError as ManifestError
    from pytest_lora_ckpt.manifest.schema import TensorEntry as TensorEntry
    from pytest_lora_ckpt.manifest.write import make_manifest as make_manifest
    from pytest_lora_ckpt.manifest.write import write_manifest as write_manifest

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "callbacks": ("LoraManifestCallback",),
        "compare": ("compare_checkpoint", "compare_model"),
        "differences": ("ManifestComparison", "summarise"),
        "places": ("find_manifest", "manifest_next_to"),
        "probe": ("ProbeResult", "replay_probe"),
        "read": ("read_manifest",),
        "schema": ("SCHEMA", "BaseModel", "Manifest", "ManifestError", "TensorEntry"),
        "write": ("make_manifest", "write_manifest"),
    },
)
