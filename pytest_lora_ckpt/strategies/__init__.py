"""Hypothesis strategies for state-dict keys, LoRA adapters, wrappings of either, checkpoint files and their faults.

They know what PEFT, torch and Lightning write, and nothing of how this package reads it, so that they can test the
package as well as a project's own loader. An argument left at None is for Hypothesis to vary. Nothing here imports
torch; only writing and loading a checkpoint does.

Example:
    >>> from hypothesis import given, settings
    >>> from pytest_lora_ckpt import infer_remapping
    >>> @settings(max_examples=10)
    ... @given(remappings())
    ... def test_every_tensor_finds_its_place(example):
    ...     assert infer_remapping(example.checkpoint, example.model).mapping == example.truth
"""

from pytest_lora_ckpt.strategies.adapters import LoraKeySet, lora_key_sets
from pytest_lora_ckpt.strategies.checkpoint_specs import CheckpointRecipe, checkpoint_recipes
from pytest_lora_ckpt.strategies.checkpoints import (
    FaultyCheckpoint,
    HealthyCheckpoint,
    faults,
    faulty_checkpoints,
    healthy_checkpoints,
)
from pytest_lora_ckpt.strategies.files import LightningCheckpoint, checkpoint_layouts, lightning_checkpoints
from pytest_lora_ckpt.strategies.keysets import DrawnKeySet
from pytest_lora_ckpt.strategies.models import model_key_sets
from pytest_lora_ckpt.strategies.names import key_strings, module_paths
from pytest_lora_ckpt.strategies.pairs import RemappingExample, remappings
from pytest_lora_ckpt.strategies.wrapping import Wrapping, wrappings

__all__ = [
    "CheckpointRecipe",
    "DrawnKeySet",
    "FaultyCheckpoint",
    "HealthyCheckpoint",
    "LightningCheckpoint",
    "LoraKeySet",
    "RemappingExample",
    "Wrapping",
    "checkpoint_layouts",
    "checkpoint_recipes",
    "faults",
    "faulty_checkpoints",
    "healthy_checkpoints",
    "key_strings",
    "lightning_checkpoints",
    "lora_key_sets",
    "model_key_sets",
    "module_paths",
    "remappings",
    "wrappings",
]
