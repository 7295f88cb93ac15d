"""Names that the replicas go by. Imports nothing heavy, so that an option can be checked before torch is loaded."""

from __future__ import annotations

STAGES = ("vision", "resampler", "finetune")

# The projections of a Qwen layer that the guide puts LoRA on, in the order in which a layer uses them.
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

LAYOUTS = ("lightning", "torch", "torch-legacy", "safetensors", "peft_adapter")

SCALES = ("tiny", "guide")

# Where the guide's project keeps the adapter: a directory of this name next to the `.ckpt`.
LORA_WEIGHTS = "lora_weights"

SPEC_PREFIX = "replica:"


def parse_spec(spec: str) -> str:
    """Return the stage that `replica:STAGE` names.

    Raises:
        ValueError: Not of that form, or no such stage; the message lists the valid ones.

    Example:
        >>> parse_spec("replica:finetune")
        'finetune'
    """
    stage = spec.removeprefix(SPEC_PREFIX)
    if not spec.startswith(SPEC_PREFIX) or stage not in STAGES:
        valid = ", ".join(SPEC_PREFIX + name for name in STAGES)
        raise ValueError(f"spec={spec!r} names no replica; valid are {valid}")
    return stage
