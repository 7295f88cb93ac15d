"""Did this LoRA checkpoint really load, and does the adapter do anything?

The public names are resolved at first use, so that starting pytest imports neither torch nor peft nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_lora_ckpt.assertions import (
        assert_adapter_active,
        assert_generates,
        assert_load_proved,
        assert_loaded_ratio,
        assert_lora_complete,
        assert_lora_loaded,
        assert_no_nonlora_missing,
        assert_stage,
    )
    from pytest_lora_ckpt.checkpoint import Checkpoint, CheckpointError, open_checkpoint
    from pytest_lora_ckpt.faults import FAULTS, Fault
    from pytest_lora_ckpt.keys import Remapping, Rule
    from pytest_lora_ckpt.ledger import compare, infer_remapping
    from pytest_lora_ckpt.manifest import Manifest, ManifestError, read_manifest, write_manifest
    from pytest_lora_ckpt.manifest.callbacks import LoraManifestCallback
    from pytest_lora_ckpt.models import model_keys
    from pytest_lora_ckpt.proof import Proof, ProvedTensor, prove_load
    from pytest_lora_ckpt.report import Finding, LoadReport
    from pytest_lora_ckpt.scoring import InjectedFault, LoaderScore, assert_loader_notices, score_loader
    from pytest_lora_ckpt.stages import STAGES, Stage
    from pytest_lora_ckpt.tensors import KeySet, TensorInfo

__version__ = "0.1.0"

_HOME = {
    "FAULTS": "faults",
    "STAGES": "stages",
    "Checkpoint": "checkpoint",
    "CheckpointError": "checkpoint",
    "Fault": "faults",
    "Finding": "report",
    "InjectedFault": "scoring",
    "KeySet": "tensors",
    "LoadReport": "report",
    "LoaderScore": "scoring",
    "LoraManifestCallback": "manifest.callbacks",
    "Manifest": "manifest",
    "ManifestError": "manifest",
    "Proof": "proof",
    "ProvedTensor": "proof",
    "Remapping": "keys",
    "Rule": "keys",
    "Stage": "stages",
    "TensorInfo": "tensors",
    "assert_adapter_active": "assertions",
    "assert_generates": "assertions",
    "assert_load_proved": "assertions",
    "assert_loaded_ratio": "assertions",
    "assert_loader_notices": "scoring",
    "assert_lora_complete": "assertions",
    "assert_lora_loaded": "assertions",
    "assert_no_nonlora_missing": "assertions",
    "assert_stage": "assertions",
    "compare": "ledger",
    "infer_remapping": "ledger",
    "model_keys": "models",
    "open_checkpoint": "checkpoint",
    "prove_load": "proof",
    "read_manifest": "manifest",
    "score_loader": "scoring",
    "write_manifest": "manifest",
}

__all__ = [
    "FAULTS",
    "STAGES",
    "Checkpoint",
    "CheckpointError",
    "Fault",
    "Finding",
    "InjectedFault",
    "KeySet",
    "LoadReport",
    "LoaderScore",
    "LoraManifestCallback",
    "Manifest",
    "ManifestError",
    "Proof",
    "ProvedTensor",
    "Remapping",
    "Rule",
    "Stage",
    "TensorInfo",
    "assert_adapter_active",
    "assert_generates",
    "assert_load_proved",
    "assert_loaded_ratio",
    "assert_loader_notices",
    "assert_lora_complete",
    "assert_lora_loaded",
    "assert_no_nonlora_missing",
    "assert_stage",
    "compare",
    "infer_remapping",
    "model_keys",
    "open_checkpoint",
    "prove_load",
    "read_manifest",
    "score_loader",
    "write_manifest",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
