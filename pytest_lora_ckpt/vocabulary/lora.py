"""What libraries call the parts of a LoRA adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FACTORS: Mapping[str, str] = {
    # PEFT (https://huggingface.co/docs/peft/developer_guides/checkpoint).
    "lora_A": "A",
    "lora_B": "B",
    "lora_embedding_A": "A",
    "lora_embedding_B": "B",
    # torchtune (torchtune/modules/peft/lora.py).
    "lora_a": "A",
    "lora_b": "B",
    # kohya's sd-scripts (networks/lora.py).
    "lora_down": "A",
    "lora_up": "B",
    # diffusers (loaders/lora_conversion_utils.py): `to_q.lora.down`, `to_q_lora.down`, `lora_linear_layer.down`.
    "lora.down": "A",
    "lora.up": "B",
    "lora_linear_layer.down": "A",
    "lora_linear_layer.up": "B",
    "down": "A",
    "up": "B",
    "lora.A": "A",
    "lora.B": "B",
    "lora.a": "A",
    "lora.b": "B",
}
"""Name -> which factor: A has the shape (rank, in), B (out, rank)."""

PEFT_PREFIX = "base_model.model."
"""What a `PeftModel` puts before the keys of the model that it wraps (peft/peft_model.py)."""
