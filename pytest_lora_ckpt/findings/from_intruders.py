"""Base weights inside an adapter file: loading it overwrites the base model, and nobody says so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.findings.causes import finding
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.targets import is_saved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

# The embeddings and heads that PEFT saves where the vocabulary was resized (`save_embedding_layers`,
# `EMBEDDING_LAYER_NAMES` in peft/utils/constants.py, and what transformers' models call theirs).
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|lm_head|wte|word_embeddings|shared|embed_in|embed_out|embeddings|decoder|output|"
    r"tok_embeddings|token_embedding)(\.base_layer)?\.(weight|bias)$"
)

# What PEFT adds to modules_to_save by itself for classifiers.
_HEADS = ("classifier", "score")


def intruder_findings(config: Mapping[str, Any], keys: KeySet) -> list[Finding]:
    """Find base weights in an adapter file that its config does not announce.

    Embeddings that PEFT saves by itself are none of them: those that the adapter adapts (`embed_tokens.base_layer`),
    and input and output embedding together, as `save_embedding_layers` writes them where the vocabulary was resized
    (`get_peft_model_state_dict` in peft/utils/save_and_load.py).

    Args:
        config: The content of `adapter_config.json`: `modules_to_save` and `bias` announce what is trained whole.
        keys: The adapter's keys.
    """
    if config.get("peft_type") not in {"LORA", None}:
        # The parameters of other kinds of adapters are called otherwise, and are no weights of the base.
        return []
    parsed_keys = parse_keys(keys)
    saved = (*map(str, config.get("modules_to_save") or ()), *_HEADS)
    stacked = {str(name).rpartition(".")[2] for name in config.get("target_parameters") or ()}
    biases = config.get("bias") not in {None, "none"}
    found = [
        key
        for key, parsed in parsed_keys.items()
        if not parsed.is_adapter
        and not is_saved(key, saved)
        and stacked.isdisjoint(key.split("."))
        and not (biases and key.endswith(".bias"))
        and "trainable_tokens" not in key
    ]
    # A trained bias without its word in the config is the check `config`'s.
    found = [key for key in found if not key.endswith(".bias") or is_embedding(key)]
    embeddings = [key for key in found if is_embedding(key)]
    others = [key for key in found if key not in embeddings]
    adapted = {parsed.module_path for parsed in parsed_keys.values() if parsed.is_lora}
    embeddings = [key for key in embeddings if parsed_keys[key].module_path not in adapted]
    if _are_input_and_output(keys, embeddings):
        embeddings = []
    findings = []
    if others:
        told = f"{len(others)} of {len(keys)} tensors of the adapter file are weights of the base model"
        findings.append(
            finding("base-weights-in-adapter", f"{told}, such as {others[0]}: loading overwrites them.", others)
        )
    if embeddings:
        told = (
            f"The adapter file holds {len(embeddings)} embeddings or heads of the base model, such as {embeddings[0]}."
        )
        findings.append(finding("base-embedding-in-adapter", told, embeddings))
    return findings


def _are_input_and_output(keys: KeySet, embeddings: list[str]) -> bool:
    weights = [keys[key].shape for key in embeddings if key.endswith(".weight")]
    return len(weights) == 2 and weights[0][:1] == weights[1][:1]  # noqa: PLR2004  # An input and an output, of as many tokens.


def is_embedding(key: str) -> bool:
    """Tell by its name whether this is a tensor of an embedding, or of a head."""
    return _EMBEDDING.search(key) is not None
