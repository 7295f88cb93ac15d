"""Rows of an embedding that were trained alone (PEFT's `trainable_token_indices`), in a model without its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.lora.paths import module_ends
from pytest_lora_ckpt.vocabulary.lora import TOKENS_DELTA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.proof.loaded_model import LoadedModel


class TrainedRows(NamedTuple):
    """Trained rows: the checkpoint's key of their values, the model's key of the embedding, and which rows they are."""

    key: str
    model_key: str
    rows: tuple[int, ...]


def rows_of(config: AdapterConfig, module: str) -> tuple[int, ...]:
    """Return the rows of an embedding that a config trains."""
    names = (*module_ends(module), "")
    return next((config.tokens[name] for name in names if name in config.tokens), ())


def trained_rows(loaded: LoadedModel, checkpoint: Checkpoint) -> Iterator[TrainedRows]:
    """Find the embeddings of a loaded model into which trained rows of a checkpoint were merged."""
    config = AdapterConfig.of(checkpoint.config)
    if not config.tokens:
        return
    homes = {
        own.module_path: key
        for key, own in loaded.parsed.items()
        if own.parameter == "weight" and not own.is_adapter and "token_adapter" not in own.segments
    }
    for key, own in checkpoint.keys.derived(parse_keys).items():
        home = homes.get(own.module_path)
        if own.lora != TOKENS_DELTA or home is None:
            continue
        rows = rows_of(config, own.module_path)
        count, *width = checkpoint.keys[key].shape
        length, *wide = loaded.keys[home].shape
        if len(rows) == count and width == wide and max(rows, default=0) < length:
            yield TrainedRows(key, home, rows)
