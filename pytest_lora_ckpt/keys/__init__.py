"""Keys of state dicts: their grammar, their short form, and how a checkpoint's become a model's.

Reading keys is cheap; what the inference needs is imported at first use, since a file by itself needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt._lazy import attach
from pytest_lora_ckpt.keys.grammar import ParsedKey as ParsedKey
from pytest_lora_ckpt.keys.grammar import Reading as Reading
from pytest_lora_ckpt.keys.grammar import parse_key as parse_key
from pytest_lora_ckpt.keys.templates import Template as Template
from pytest_lora_ckpt.keys.templates import parse_keys as parse_keys
from pytest_lora_ckpt.keys.templates import readings as readings
from pytest_lora_ckpt.keys.templates import templates as templates

if TYPE_CHECKING:
    from pytest_lora_ckpt.keys.inference import infer_remapping as infer_remapping
    from pytest_lora_ckpt.keys.remapping import Remapping as Remapping
    from pytest_lora_ckpt.keys.rules.rule import Rule as Rule

__getattr__, __dir__, __all__ = attach(
    __name__,
    {"inference": ("infer_remapping",), "remapping": ("Remapping",), "rules.rule": ("Rule",)},
    "ParsedKey",
    "Reading",
    "Template",
    "parse_key",
    "parse_keys",
    "readings",
    "templates",
)
