"""What a live model shows: that it holds the checkpoint, by value, that its adapter works, and that it generates."""

from __future__ import annotations

from pytest_lora_ckpt.proof.base_weights import BaseWeights as BaseWeights
from pytest_lora_ckpt.proof.base_weights import Reference as Reference
from pytest_lora_ckpt.proof.effect import AdapterEffect as AdapterEffect
from pytest_lora_ckpt.proof.effect import adapter_effect as adapter_effect
from pytest_lora_ckpt.proof.effect import parts_at_work as parts_at_work
from pytest_lora_ckpt.proof.effect import zero_but_used as zero_but_used
from pytest_lora_ckpt.proof.experts import with_experts as with_experts
from pytest_lora_ckpt.proof.generation import Generation as Generation
from pytest_lora_ckpt.proof.generation import can_generate as can_generate
from pytest_lora_ckpt.proof.generation import generate as generate
from pytest_lora_ckpt.proof.inputs import default_inputs as default_inputs
from pytest_lora_ckpt.proof.loaded_match import LoadedMatch as LoadedMatch
from pytest_lora_ckpt.proof.loaded_match import match_loaded as match_loaded
from pytest_lora_ckpt.proof.loaded_model import LoadedModel as LoadedModel
from pytest_lora_ckpt.proof.merging import Merge as Merge
from pytest_lora_ckpt.proof.merging import MergedModule as MergedModule
from pytest_lora_ckpt.proof.merging import find_merge as find_merge
from pytest_lora_ckpt.proof.methods import WithSavedNames as WithSavedNames
from pytest_lora_ckpt.proof.methods import adapted_weights as adapted_weights
from pytest_lora_ckpt.proof.methods import holds_base_alone as holds_base_alone
from pytest_lora_ckpt.proof.methods import method_effect as method_effect
from pytest_lora_ckpt.proof.methods import with_saved_names as with_saved_names
from pytest_lora_ckpt.proof.padding import without_padding as without_padding
from pytest_lora_ckpt.proof.prove import prove_load as prove_load
from pytest_lora_ckpt.proof.prove import prove_match as prove_match
from pytest_lora_ckpt.proof.proved import Proof as Proof
from pytest_lora_ckpt.proof.proved import ProvedTensor as ProvedTensor
from pytest_lora_ckpt.proof.provenance import Given as Given
from pytest_lora_ckpt.proof.provenance import Provenance as Provenance
from pytest_lora_ckpt.proof.provenance import trace as trace
from pytest_lora_ckpt.proof.same_adapter import AdapterComparison as AdapterComparison
from pytest_lora_ckpt.proof.same_adapter import compare_adapters as compare_adapters
from pytest_lora_ckpt.proof.updates import UpdateSize as UpdateSize
from pytest_lora_ckpt.proof.updates import update_sizes as update_sizes
from pytest_lora_ckpt.proof.versus import Versus as Versus
from pytest_lora_ckpt.proof.versus import compare_values as compare_values
