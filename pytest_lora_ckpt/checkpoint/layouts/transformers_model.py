"""A Hugging Face model as `save_pretrained` writes it: a directory with its weights, in one file or in shards.

Source: transformers/modeling_utils.py (which weights are taken) and transformers/utils/hub.py
(`get_checkpoint_shard_files`).
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts import shards
from pytest_lora_ckpt.checkpoint.layouts.json_file import read_object
from pytest_lora_ckpt.checkpoint.layouts.single_file import checkpoint_of
from pytest_lora_ckpt.vocabulary.files import (
    ADAPTER_FILES,
    ADAPTER_WEIGHTS,
    EXPLICIT_WEIGHTS,
    MODEL_CONFIG,
    MODEL_WEIGHTS,
    SHARD,
    SHARD_INDEX,
    TRAINING_STATE,
    WEIGHTS_ENDINGS,
)
from pytest_lora_ckpt.wording import listed, printable

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing

NAME = "Hugging Face model"

# As transformers prefers them: a file before its shards, safetensors before pickles.
_NAMES = tuple(name for weights in MODEL_WEIGHTS for name in (weights, weights + SHARD_INDEX))
_CONFIG = "a JSON object in UTF-8 with the settings of a model, as `save_pretrained` writes it"


def accepts(listing: Listing) -> bool:
    """See `Layout`."""
    if listing.name is not None:
        return shards.is_index(listing.name)
    return _usual(listing) is not None or (listing.has(MODEL_CONFIG) and bool(_others(listing)))


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`."""
    weights = listing.name or weights_in(listing)
    if shards.is_index(weights):
        checkpoint = shards.assemble(listing, weights, index_file)
    else:
        checkpoint = checkpoint_of(index_file(listing, weights))
    return dataclasses.replace(checkpoint, path=place(listing.path), layout="transformers")


def weights_in(listing: Listing) -> str:
    """Return the file with the weights, or the index of its shards, of a directory that is accepted.

    Raises:
        CheckpointError: It is not told by a name, nor by the config.
    """
    return _usual(listing) or _named_in_config(listing)


def _usual(listing: Listing) -> str | None:
    """Return the weights that have one of the library's names, without a variant (`.fp16`) before one with it."""
    if found := next(filter(listing.has, _NAMES), None):
        return found
    names = listing.names
    return next((name for usual in _NAMES for name in names if _is_variant(name, usual)), None)


def _is_variant(name: str, usual: str) -> bool:
    """Whether a name is a usual one with the name of a variant in it: before its ending, as both libraries write it.

    Example:
        >>> _is_variant("model.fp16.safetensors", "model.safetensors")
        True
        >>> _is_variant("model.safetensors.index.fp16.json", "model.safetensors.index.json")
        True
    """
    stem, _, ending = usual.rpartition(".")
    return re.fullmatch(rf"{re.escape(stem)}\.[\w-]+\.{ending}", name) is not None and not re.search(SHARD, name)


def _others(listing: Listing) -> list[str]:
    """Return the weights of any other name."""
    others = (*TRAINING_STATE, *ADAPTER_WEIGHTS, *ADAPTER_FILES)
    return [name for name in listing.names if name.endswith(WEIGHTS_ENDINGS) and not name.startswith(others)]


def _named_in_config(listing: Listing) -> str:
    """Return the weights that the config names, or that are the only ones.

    Raises:
        CheckpointError: It names none that is there, and there are several.
    """
    names = _others(listing)
    config = read_object(
        listing, MODEL_CONFIG, "config_bytes", what="config", expected=_CONFIG, remedy=shards.COPY_AGAIN
    ).value
    if (named := config.get(EXPLICIT_WEIGHTS)) in names:
        return str(named)
    whole = [name for name in names if not re.search(SHARD, name)]
    if len(whole) == 1 and named is None:
        return whole[0]
    expected = "weights of a name that the library knows, or the one that the config names"
    if named is not None:
        found = (
            f"`{EXPLICIT_WEIGHTS}` of {MODEL_CONFIG} is {printable(repr(named), 100)}, and there is {listed(names, 6)}"
        )
    elif whole:
        found = f"{listed(whole, 6)}: which of them is the model?"
    else:
        raise shards.without_index(listing, names)
    remedy = "Give the path of the file that is meant."
    raise CheckpointError("several-models", listing.path, expected=expected, found=found, remedy=remedy)
