"""How a project names the tensors of its checkpoints as its model does; and how it did so before."""

from __future__ import annotations

# What DDP, torch.compile and FSDP put into the names of a state dict: in front, and behind any module.
WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def unwrapped_as_before(key: str) -> str:
    """As many scripts do: right for DDP alone, and for nothing else."""
    return key.removeprefix("module.")
