"""The adapters that PEFT saved of one model: the checkpoint's own, and those in sub-directories of their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint import Checkpoint

_OF_ONE_MODEL = ("peft_type", "base_model_name_or_path")


def saved_together(checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """Return the adapters by name, the checkpoint's own first.

    `PeftModel.save_pretrained` writes all adapters of a model, and one model card, at the top. So a sub-directory with
    a card of its own was saved by itself, and one of another kind or for another base model is not of this one. No
    adapter has a dot in its name, since the name of a module has none.
    """
    together = {checkpoint.called or "default": checkpoint}
    for each in checkpoint.trained:
        found = each.checkpoint
        if each.called and "." not in each.called and found is not None and not each.has_card:
            own, other = checkpoint.adapter_config or {}, found.adapter_config or {}
            if all(own.get(name) == other.get(name) for name in _OF_ONE_MODEL):
                together.setdefault(each.called, found)
    return together
