"""What libraries call the files of a checkpoint."""

from __future__ import annotations

ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's config (peft/utils/constants.py, `CONFIG_NAME`)."""

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""PEFT's weights, in the order in which PEFT prefers them (peft/utils/save_and_load.py, `load_peft_weights`)."""

LORA_WEIGHTS = "lora_weights"
"""The directory beside a training checkpoint in which projects save the adapter."""

MANIFEST = "lora_manifest.json"
"""What `write_manifest` writes."""

MODEL_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""transformers' weights of a model that fits into one file (transformers/utils/__init__.py)."""
