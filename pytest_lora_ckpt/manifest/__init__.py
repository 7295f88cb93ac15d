"""The manifest: what was known of a model when its checkpoint was written, small enough to keep in git.

Reading one, and holding a checkpoint against it, needs no torch; the names that do are resolved at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.manifest.comparison import compare_checkpoint
from pytest_lora_ckpt.manifest.outcomes import Difference, ManifestComparison
from pytest_lora_ckpt.manifest.reading import find_manifest, read_manifest
from pytest_lora_ckpt.manifest.record import FILE_NAME, SCHEMA, BaseModel, Manifest, ManifestError, TensorEntry

if TYPE_CHECKING:
    from pytest_lora_ckpt.manifest.callbacks import LoraManifestCallback
    from pytest_lora_ckpt.manifest.live import compare_model
    from pytest_lora_ckpt.manifest.probe import ProbeResult, replay_probe
    from pytest_lora_ckpt.manifest.writing import make_manifest, write_manifest

_HOME = {
    "LoraManifestCallback": "callbacks",
    "ProbeResult": "probe",
    "compare_model": "live",
    "make_manifest": "writing",
    "replay_probe": "probe",
    "write_manifest": "writing",
}

__all__ = [
    "FILE_NAME",
    "SCHEMA",
    "BaseModel",
    "Difference",
    "LoraManifestCallback",
    "Manifest",
    "ManifestComparison",
    "ManifestError",
    "ProbeResult",
    "TensorEntry",
    "compare_checkpoint",
    "compare_model",
    "find_manifest",
    "make_manifest",
    "read_manifest",
    "replay_probe",
    "write_manifest",
]


def __getattr__(name: str) -> object:
    """Import a name that needs torch, or a trainer, when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
