"""Keys of state dicts: their grammar, their short form, and how a checkpoint's become a model's."""

from pytest_lora_ckpt.keys.grammar import ParsedKey, Reading, parse_key
from pytest_lora_ckpt.keys.inference import infer_remapping
from pytest_lora_ckpt.keys.remapping import Ambiguity, KeyProblem, Remapping
from pytest_lora_ckpt.keys.rules.rule import Rule
from pytest_lora_ckpt.keys.templates import Template, parse_keys, readings, templates

__all__ = [
    "Ambiguity",
    "KeyProblem",
    "ParsedKey",
    "Reading",
    "Remapping",
    "Rule",
    "Template",
    "infer_remapping",
    "parse_key",
    "parse_keys",
    "readings",
    "templates",
]
