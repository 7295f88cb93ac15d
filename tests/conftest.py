"""Shared by all tests."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil

import pytest

import pytest_lora_ckpt

pytest_plugins = ["pytester"]

# Tiny models gain nothing from threads, and lose much where several processes share the cores. Read when torch starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def heavy_libraries() -> None:
    """Import all that a run in this process could import: it forgets its modules, and torch cannot load twice."""
    for name in ("hypothesis", "torch", "safetensors.torch", "peft", "transformers", "lightning.pytorch"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(pytest_lora_ckpt.__path__, "pytest_lora_ckpt."):
        importlib.import_module(module.name)
    from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs

    model = make_panorama_vlm()
    model.generate(**replica_inputs(model), max_new_tokens=1)
    # Every pytest run ends in five full garbage collections: seconds, with all this on the heap.
    gc.collect()
    gc.freeze()
