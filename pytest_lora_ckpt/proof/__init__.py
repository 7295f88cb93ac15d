"""What a live model shows: that it holds the checkpoint, by value, that its adapter works, and that it generates."""

from __future__ import annotations

from pytest_lora_ckpt.lora.layers import AdapterLayer, adapter_layers, idle_copies
from pytest_lora_ckpt.lora.scaling import ScalingDifference, expected_scaling, scaling_differences
from pytest_lora_ckpt.proof.base_comparison import BaseComparison, compare_base
from pytest_lora_ckpt.proof.base_weights import BaseWeights
from pytest_lora_ckpt.proof.effect import AdapterEffect, adapter_effect
from pytest_lora_ckpt.proof.generation import Generation, can_generate, generate
from pytest_lora_ckpt.proof.inputs import default_inputs
from pytest_lora_ckpt.proof.loaded_match import Match, match_loaded
from pytest_lora_ckpt.proof.merging import Merge, MergedModule, find_merge
from pytest_lora_ckpt.proof.prove import prove_load, prove_match
from pytest_lora_ckpt.proof.proved import Proof, ProvedTensor
from pytest_lora_ckpt.proof.updates import UpdateSize, update_sizes
from pytest_lora_ckpt.proof.zero_updates import zero_but_used

__all__ = [
    "AdapterEffect",
    "AdapterLayer",
    "BaseComparison",
    "BaseWeights",
    "Generation",
    "Match",
    "Merge",
    "MergedModule",
    "Proof",
    "ProvedTensor",
    "ScalingDifference",
    "UpdateSize",
    "adapter_effect",
    "adapter_layers",
    "can_generate",
    "compare_base",
    "default_inputs",
    "expected_scaling",
    "find_merge",
    "generate",
    "idle_copies",
    "match_loaded",
    "prove_load",
    "prove_match",
    "scaling_differences",
    "update_sizes",
    "zero_but_used",
]
