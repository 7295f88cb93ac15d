"""Did this LoRA checkpoint really load, and does the adapter do anything?

The public names are resolved at first use, so that starting pytest imports neither torch nor peft nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt._lazy import attach

if TYPE_CHECKING:
    from pytest_lora_ckpt.assertions import assert_adapter_active as assert_adapter_active
    from pytest_lora_ckpt.assertions import assert_generates as assert_generates
    from pytest_lora_ckpt.assertions import assert_load_proved as assert_load_proved
    from pytest_lora_ckpt.assertions import assert_loaded_ratio as assert_loaded_ratio
    from pytest_lora_ckpt.assertions import assert_lora_complete as assert_lora_complete
    from pytest_lora_ckpt.assertions import assert_lora_loaded as assert_lora_loaded
    from pytest_lora_ckpt.assertions import assert_no_nonlora_missing as assert_no_nonlora_missing
    from pytest_lora_ckpt.assertions import assert_same_adapter as assert_same_adapter
    from pytest_lora_ckpt.assertions import assert_stage as assert_stage
    from pytest_lora_ckpt.auditing.audit import audit as audit
    from pytest_lora_ckpt.auditing.result import AuditResult as AuditResult
    from pytest_lora_ckpt.checkpoint import Checkpoint as Checkpoint
    from pytest_lora_ckpt.checkpoint import CheckpointError as CheckpointError
    from pytest_lora_ckpt.checkpoint import Limits as Limits
    from pytest_lora_ckpt.checkpoint import open_checkpoint as open_checkpoint
    from pytest_lora_ckpt.comparison.compare import compare as compare
    from pytest_lora_ckpt.comparison.compare import infer_remapping as infer_remapping
    from pytest_lora_ckpt.comparison.stages import STAGES as STAGES
    from pytest_lora_ckpt.comparison.stages import Stage as Stage
    from pytest_lora_ckpt.faults import FAULTS as FAULTS
    from pytest_lora_ckpt.faults import Fault as Fault
    from pytest_lora_ckpt.keys import Remapping as Remapping
    from pytest_lora_ckpt.keys import Rule as Rule
    from pytest_lora_ckpt.manifest import Manifest as Manifest
    from pytest_lora_ckpt.manifest import ManifestError as ManifestError
    from pytest_lora_ckpt.manifest import read_manifest as read_manifest
    from pytest_lora_ckpt.manifest import write_manifest as write_manifest
    from pytest_lora_ckpt.manifest.callbacks import LoraManifestCallback as LoraManifestCallback
    from pytest_lora_ckpt.models import model_keys as model_keys
    from pytest_lora_ckpt.proof import Proof as Proof
    from pytest_lora_ckpt.proof import ProvedTensor as ProvedTensor
    from pytest_lora_ckpt.proof import compare_adapters as compare_adapters
    from pytest_lora_ckpt.proof import default_inputs as default_inputs
    from pytest_lora_ckpt.proof import prove_load as prove_load
    from pytest_lora_ckpt.replicas import FAMILIES as FAMILIES
    from pytest_lora_ckpt.replicas import tiny_base as tiny_base
    from pytest_lora_ckpt.replicas import tiny_lora as tiny_lora
    from pytest_lora_ckpt.results import Finding as Finding
    from pytest_lora_ckpt.results import LoadReport as LoadReport
    from pytest_lora_ckpt.scoring import InjectedFault as InjectedFault
    from pytest_lora_ckpt.scoring import LoaderScore as LoaderScore
    from pytest_lora_ckpt.scoring import assert_loader_notices as assert_loader_notices
    from pytest_lora_ckpt.scoring import score_loader as score_loader
    from pytest_lora_ckpt.tensors import KeySet as KeySet
    from pytest_lora_ckpt.tensors import TensorInfo as TensorInfo

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "assertions": (
            "assert_adapter_active",
            "assert_generates",
            "assert_load_proved",
            "assert_loaded_ratio",
            "assert_lora_complete",
            "assert_lora_loaded",
            "assert_no_nonlora_missing",
            "assert_same_adapter",
            "assert_stage",
        ),
        "auditing.audit": ("audit",),
        "auditing.result": ("AuditResult",),
        "checkpoint": ("Checkpoint", "CheckpointError", "Limits", "open_checkpoint"),
        "comparison.compare": ("compare", "infer_remapping"),
        "comparison.stages": ("STAGES", "Stage"),
        "faults": ("FAULTS", "Fault"),
        "keys": ("Remapping", "Rule"),
        "manifest": ("Manifest", "ManifestError", "read_manifest", "write_manifest"),
        "manifest.callbacks": ("LoraManifestCallback",),
        "models": ("model_keys",),
        "proof": ("Proof", "ProvedTensor", "compare_adapters", "default_inputs", "prove_load"),
        "replicas": ("FAMILIES", "tiny_base", "tiny_lora"),
        "results": ("Finding", "LoadReport"),
        "scoring": ("InjectedFault", "LoaderScore", "assert_loader_notices", "score_loader"),
        "tensors": ("KeySet", "TensorInfo"),
    },
    "__version__",
)
