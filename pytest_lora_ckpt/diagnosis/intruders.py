"""Base weights inside an adapter file: loading it overwrites the base model, and nobody says so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.diagnosis.causes import finding
from pytest_lora_ckpt.keys import parse_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.report import Finding
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

    Args:
        config: The content of `adapter_config.json`: `modules_to_save` and `bias` announce what is trained whole.
        keys: The adapter's keys.
    """
    saved = (*map(str, config.get("modules_to_save") or ()), *_HEADS)
    stacked = {str(name).rpartition(".")[2] for name in config.get("target_parameters") or ()}
    biases = config.get("bias") not in {None, "none"}
    found = [
        key
        for key, parsed in parse_keys(keys).items()
        if not parsed.is_adapter
        and not _is_saved(key, saved)
        and stacked.isdisjoint(key.split("."))
        and not (biases and key.endswith(".bias"))
        and "trainable_tokens" not in key
    ]
    # A trained bias without its word in the config is the check `config`'s.
    found = [key for key in found if not key.endswith(".bias") or _EMBEDDING.search(key)]
    embeddings = [key for key in found if _EMBEDDING.search(key)]
    others = [key for key in found if key not in embeddings]
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


def _is_saved(key: str, names: tuple[str, ...]) -> bool:
    """Tell whether a module around this tensor is in `modules_to_save`: PEFT takes each whose path ends with a name.

    So `norm` takes `input_layernorm` as well (`_set_trainable` in peft/utils/other.py).
    """
    segments = key.split(".")
    return any(".".join(segments[:end]).endswith(names) for end in range(1, len(segments)))
