"""The right way to load a replica's checkpoint: everything that it should hold is there, and all of it is used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.replicas.config import LoraSpec, PanoramaConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

_PREFIX = "model."
_HYPER = {"model", "lora", "stage", "keep"}
_SHOWN = 10
_PROJECTOR = ("projector.", "vision_to_language_projection.")
_RESAMPLER = ("resampler_module.", "resampler.")

# What the checkpoint of a stage holds, by the beginning of the key.
HELD: Mapping[str, tuple[str, ...]] = {
    "vision": ("vision_encoder.",),
    "resampler": ("vision_encoder.", *_RESAMPLER, *_PROJECTOR),
    "finetune": ("",),
}

# What a stage trains, in the same way; finetuning trains the adapter besides.
TRAINED: Mapping[str, tuple[str, ...]] = {
    "vision": ("vision_encoder.",),
    "resampler": (*_RESAMPLER, *_PROJECTOR),
    "finetune": _PROJECTOR,
}


def is_trained(stage: str) -> Callable[[str], bool]:
    """Return a function that says whether `stage` trains a key of the model."""
    marks = ("lora_", "modules_to_save.") if stage == "finetune" else ()
    return lambda key: key.startswith(TRAINED[stage]) or any(mark in key for mark in marks)


def is_held(stage: str, keep: str) -> Callable[[str], bool]:
    """Return a function that says whether a checkpoint of `stage` holds a key of the model."""
    return is_trained(stage) if keep == "trained" else lambda key: key.startswith(HELD[stage])


@dataclass(frozen=True)
class ReplicaCheckpoint:
    """A Lightning checkpoint of a replica, `model.` taken off its keys."""

    path: str
    state_dict: Mapping[str, Tensor]
    config: PanoramaConfig
    lora: LoraSpec | None
    stage: str
    keep: str


def read_lightning(path: str | os.PathLike[str]) -> ReplicaCheckpoint:
    """Open a Lightning checkpoint of a replica from a memory map, without running code from it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a Lightning checkpoint of a replica; where torch cannot read it, torch's own errors.
    """
    raw: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    hyper = raw.get("hyper_parameters", {}) if isinstance(raw, dict) else {}
    if not hyper.keys() >= _HYPER or "state_dict" not in raw:
        found = ", ".join(map(str, [*raw][:_SHOWN])) if isinstance(raw, dict) else type(raw).__name__
        raise ValueError(
            f"{os.fspath(path)} is not a Lightning checkpoint of a replica: expected 'state_dict', and "
            f"'hyper_parameters' with {', '.join(sorted(_HYPER))}; found {found}"
        )
    state_dict = {key.removeprefix(_PREFIX): tensor for key, tensor in raw["state_dict"].items()}
    # If the keys of a trained adapter are missing, a model without an adapter would hide the loss.
    trained_lora = hyper["stage"] == "finetune" and hyper["lora"] is not None
    has_lora = trained_lora or any("lora_" in key for key in state_dict)
    return ReplicaCheckpoint(
        path=os.fspath(path),
        state_dict=state_dict,
        config=PanoramaConfig.from_dict(hyper["model"]),
        lora=LoraSpec.from_dict(hyper["lora"] or {}) if has_lora else None,
        stage=hyper["stage"],
        keep=hyper["keep"],
    )


def load_strictly(model: nn.Module, checkpoint: ReplicaCheckpoint) -> None:
    """Load, and raise unless every key that the checkpoint should hold is there and every key in it was used.

    Raises:
        RuntimeError: See above; also if a tensor has another shape, or integers stand where floats belong.
    """
    codes = [key for key, tensor in checkpoint.state_dict.items() if not tensor.is_floating_point()]
    # torch's strict=True would also refuse what an early stage lacks on purpose, and print every key.
    found = model.load_state_dict(checkpoint.state_dict, strict=False)
    held = is_held(checkpoint.stage, checkpoint.keep)
    missing = [key for key in found.missing_keys if held(key)]
    if not missing and not found.unexpected_keys and not codes:
        return
    groups = {"missing": missing, "unexpected": found.unexpected_keys, "integers instead of floats": codes}
    facts = "; ".join(f"{len(keys)} {what}, first {keys[0]}" for what, keys in groups.items() if keys)
    raise RuntimeError(f"{checkpoint.path} does not load into {type(model).__name__}: {facts}")
