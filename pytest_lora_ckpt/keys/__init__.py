"""Keys of state dicts: their grammar, their short form, and how a checkpoint's become a model's."""

from pytest_lora_ckpt.keys.grammar import WRAPPERS, ParsedKey, parse_key, parse_keys
from pytest_lora_ckpt.keys.inference import infer_remapping
from pytest_lora_ckpt.keys.remapping import Ambiguity, KeyProblem, Remapping
from pytest_lora_ckpt.keys.rules.rule import Rule

__all__ = [
    "WRAPPERS",
    "Ambiguity",
    "KeyProblem",
    "ParsedKey",
    "Remapping",
    "Rule",
    "infer_remapping",
    "parse_key",
    "parse_keys",
]
