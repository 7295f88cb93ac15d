"""Tiny PanoramaVLMs with LoRA, saved in every layout by the real libraries; the names are resolved when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt._lazy import attach
from pytest_lora_ckpt.replicas.families import FAMILIES as FAMILIES
from pytest_lora_ckpt.replicas.names import LAYOUTS as LAYOUTS
from pytest_lora_ckpt.replicas.names import LORA_WEIGHTS as LORA_WEIGHTS
from pytest_lora_ckpt.replicas.names import SCALES as SCALES
from pytest_lora_ckpt.replicas.names import SEVEN as SEVEN
from pytest_lora_ckpt.replicas.names import STAGES as STAGES
from pytest_lora_ckpt.replicas.names import parse_spec as parse_spec

if TYPE_CHECKING:
    from pytest_lora_ckpt.replicas.config import LoraSpec as LoraSpec
    from pytest_lora_ckpt.replicas.config import PanoramaConfig as PanoramaConfig
    from pytest_lora_ckpt.replicas.factory import make_panorama_vlm as make_panorama_vlm
    from pytest_lora_ckpt.replicas.factory import replica_inputs as replica_inputs
    from pytest_lora_ckpt.replicas.model import PanoramaVLM as PanoramaVLM
    from pytest_lora_ckpt.replicas.saving import replica_checkpoint as replica_checkpoint
    from pytest_lora_ckpt.replicas.saving import save_adapter as save_adapter
    from pytest_lora_ckpt.replicas.saving import save_replica as save_replica
    from pytest_lora_ckpt.replicas.saving import save_stage_checkpoint as save_stage_checkpoint
    from pytest_lora_ckpt.replicas.tiny import FamilyNotAvailable as FamilyNotAvailable
    from pytest_lora_ckpt.replicas.tiny import tiny_base as tiny_base
    from pytest_lora_ckpt.replicas.tiny import tiny_lora as tiny_lora

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "config": ("LoraSpec", "PanoramaConfig"),
        "factory": ("make_panorama_vlm", "replica_inputs"),
        "model": ("PanoramaVLM",),
        "tiny": ("FamilyNotAvailable", "tiny_base", "tiny_lora"),
        "saving": ("replica_checkpoint", "save_adapter", "save_replica", "save_stage_checkpoint"),
    },
    "FAMILIES",
    "LAYOUTS",
    "LORA_WEIGHTS",
    "SCALES",
    "SEVEN",
    "STAGES",
    "parse_spec",
)
