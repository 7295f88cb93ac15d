"""Tiny PanoramaVLMs with LoRA, saved in every layout by the real libraries; the names are resolved when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.replicas.names import LAYOUTS, LORA_WEIGHTS, SCALES, SEVEN, STAGES, parse_spec

if TYPE_CHECKING:
    from pytest_lora_ckpt.replicas.config import LoraSpec, PanoramaConfig
    from pytest_lora_ckpt.replicas.factory import make_panorama_vlm, replica_inputs
    from pytest_lora_ckpt.replicas.faults import FAULTS, apply_fault
    from pytest_lora_ckpt.replicas.guide_loader import (
        GuideLog,
        SwallowingVLM,
        load_and_log_like_the_guide,
        load_like_the_guide,
        load_swallowing,
    )
    from pytest_lora_ckpt.replicas.model import PanoramaVLM
    from pytest_lora_ckpt.replicas.saving import save_adapter, save_replica
    from pytest_lora_ckpt.replicas.stages import (
        replica_checkpoint,
        replica_loader,
        replica_model,
        save_stage_checkpoint,
    )

_HOMES = {
    "config": ("LoraSpec", "PanoramaConfig"),
    "factory": ("make_panorama_vlm", "replica_inputs"),
    "faults": ("FAULTS", "apply_fault"),
    "guide_loader": (
        "GuideLog",
        "SwallowingVLM",
        "load_and_log_like_the_guide",
        "load_like_the_guide",
        "load_swallowing",
    ),
    "model": ("PanoramaVLM",),
    "saving": ("save_adapter", "save_replica"),
    "stages": ("replica_checkpoint", "replica_loader", "replica_model", "save_stage_checkpoint"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "FAULTS",
    "LAYOUTS",
    "LORA_WEIGHTS",
    "SCALES",
    "SEVEN",
    "STAGES",
    "GuideLog",
    "LoraSpec",
    "PanoramaConfig",
    "PanoramaVLM",
    "SwallowingVLM",
    "apply_fault",
    "load_and_log_like_the_guide",
    "load_like_the_guide",
    "load_swallowing",
    "make_panorama_vlm",
    "parse_spec",
    "replica_checkpoint",
    "replica_inputs",
    "replica_loader",
    "replica_model",
    "save_adapter",
    "save_replica",
    "save_stage_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds `name`."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
