"""LoRA on the language model, by PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.replicas.isolation import quiet_peft, seeded

if TYPE_CHECKING:
    from torch import nn

    from pytest_lora_ckpt.replicas.config import LoraSpec

# Adapter weights come from a stream of their own: the base must not depend on whether there is an adapter.
_SEED_OFFSET = 104_729

_B_SCALE = 0.5

ADAPTER_MARKS = ("lora_", "modules_to_save.")


def attach_lora(language_model: nn.Module, spec: LoraSpec, *, seed: int, device: str = "cpu") -> Any:
    """Wrap `language_model` with PEFT and return the `PeftModelForCausalLM`; the base weights are frozen, not changed.

    With `spec.random_b`, what PEFT begins at zero (lora_B, for embeddings lora_embedding_A) is drawn from a normal
    distribution, so that switching the adapter off changes the output.
    """
    from peft import LoraConfig, get_peft_model  # seconds to import

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=list(spec.targets),
        modules_to_save=list(spec.modules_to_save) or None,
        use_dora=spec.use_dora,
        task_type="CAUSAL_LM",
    )
    with quiet_peft(), seeded(seed + _SEED_OFFSET, device):
        wrapped = get_peft_model(language_model, config, adapter_name=spec.adapter_name)
        if spec.random_b and device != "meta":
            with torch.no_grad():
                for name, parameter in wrapped.named_parameters():
                    if "lora_" in name and not parameter.any():
                        parameter.normal_(std=_B_SCALE / spec.rank**0.5)
    return wrapped


def is_adapter_key(key: str) -> bool:
    """Tell whether PEFT put this key there to be trained: an adapter weight or a module saved whole."""
    return any(mark in key for mark in ADAPTER_MARKS)
