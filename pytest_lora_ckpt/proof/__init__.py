"""What a live model shows: that it holds the checkpoint, by value, that its adapter works, and that it generates."""

from __future__ import annotations

from pytest_lora_ckpt.proof.base_weights import BaseWeights, Reference
from pytest_lora_ckpt.proof.effect import AdapterEffect, adapter_effect, zero_but_used
from pytest_lora_ckpt.proof.embedding_rows import trained_rows
from pytest_lora_ckpt.proof.generation import Generation, can_generate, generate
from pytest_lora_ckpt.proof.inputs import default_inputs
from pytest_lora_ckpt.proof.loaded_match import LoadedMatch, match_loaded
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.proof.merging import Merge, MergedModule, find_merge
from pytest_lora_ckpt.proof.methods import (
    WithSavedNames,
    adapted_weights,
    holds_base_alone,
    method_effect,
    with_saved_names,
)
from pytest_lora_ckpt.proof.padding import without_padding
from pytest_lora_ckpt.proof.prove import prove_load, prove_match
from pytest_lora_ckpt.proof.proved import Proof, ProvedTensor
from pytest_lora_ckpt.proof.provenance import Given, Provenance, trace
from pytest_lora_ckpt.proof.updates import UpdateSize, update_sizes

__all__ = [
    "AdapterEffect",
    "BaseWeights",
    "Generation",
    "Given",
    "LoadedMatch",
    "LoadedModel",
    "Merge",
    "MergedModule",
    "Proof",
    "ProvedTensor",
    "Provenance",
    "Reference",
    "UpdateSize",
    "WithSavedNames",
    "adapted_weights",
    "adapter_effect",
    "can_generate",
    "default_inputs",
    "find_merge",
    "generate",
    "holds_base_alone",
    "match_loaded",
    "method_effect",
    "prove_load",
    "prove_match",
    "trace",
    "trained_rows",
    "update_sizes",
    "with_saved_names",
    "without_padding",
    "zero_but_used",
]
