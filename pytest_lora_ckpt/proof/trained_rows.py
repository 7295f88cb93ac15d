"""Tensors of a checkpoint that are some rows of a tensor of the model: trained tokens, parts of a fused projection."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.lora.paths import module_ends
from pytest_lora_ckpt.proof.bitwise import holds
from pytest_lora_ckpt.proof.homes import fused_with
from pytest_lora_ckpt.vocabulary.lora import TOKENS_DELTA

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.proof.homes import Whole
    from pytest_lora_ckpt.proof.loaded_model import LoadedModel


class TrainedRows(NamedTuple):
    """Trained rows: their values, under a key of a checkpoint, and which rows of which tensor of the model they are."""

    source: Checkpoint
    key: str
    model_key: str
    rows: Sequence[int]


def rows_of(config: AdapterConfig, module: str) -> tuple[int, ...]:
    """Return the rows of an embedding that a config trains."""
    names = (*module_ends(module), "")
    return next((config.tokens[name] for name in names if name in config.tokens), ())


def trained_tokens(loaded: LoadedModel, checkpoint: Checkpoint) -> Iterator[TrainedRows]:
    """Find the embeddings of a model without PEFT's layers into which trained rows (`trainable_token_indices`) went."""
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
            yield TrainedRows(checkpoint, key, home, rows)


def fused_rows(loaded: LoadedModel, checkpoint: Checkpoint, homeless: Collection[str]) -> Iterator[TrainedRows]:
    """Find what a loader has put into rows of a fused projection, by value: the bias of a query in that of `qkv_proj`.

    Args:
        loaded: The loaded model.
        checkpoint: What it was loaded from.
        homeless: Keys that have no place in the model by their names.
    """
    parsed = checkpoint.keys.derived(parse_keys)
    plain = [key for key in homeless if not parsed[key].is_adapter and checkpoint.keys[key].shape]
    by_leaf: defaultdict[str, list[str]] = defaultdict(list)
    places = {(own.module_path, own.parameter): key for key, own in loaded.parsed.items() if not own.is_adapter}
    for path in {path for path, _ in places} if plain else ():
        by_leaf[path.rpartition(".")[2]].append(path)
    for key in plain:
        for whole in fused_with(parsed[key].module_path, by_leaf):
            home = places.get((whole.path, parsed[key].parameter))
            rows = _rows_in(loaded, home, checkpoint, key, whole) if home else None
            if home and rows:
                yield TrainedRows(checkpoint, key, home, rows)
                break


def _rows_in(loaded: LoadedModel, home: str, checkpoint: Checkpoint, key: str, whole: Whole) -> range | None:
    """Return the rows of a fused projection that are a part, if they hold its tensor."""
    count, *width = checkpoint.keys[key].shape
    length, *wide = loaded.keys[home].shape or (0,)
    rows, live = whole.rows(count, length), loaded.read(home)
    if width != wide or rows is None or live.tensor is None or not live.is_whole:
        return None
    return rows if holds(live.tensor[rows.start : rows.stop], checkpoint.read(key)) else None
