"""A PEFT adapter: `adapter_config.json` with `adapter_model.safetensors` or `adapter_model.bin`.

Source of which file PEFT takes: `peft/utils/save_and_load.py`, `load_peft_weights`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint, open_companion
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts import distributed
from pytest_lora_ckpt.checkpoint.layouts.json_file import read_object
from pytest_lora_ckpt.checkpoint.layouts.single_file import checkpoint_of
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from pytest_lora_ckpt.wording import listed

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing

NAME = "PEFT adapter"

_CONFIG = "a JSON object in UTF-8 with the adapter's settings, as `save_pretrained` writes it"
_SAVE_AGAIN = "Save the adapter again with `model.save_pretrained(directory)`, or copy the file again."


def accepts(listing: Listing) -> bool:
    """See `Layout`: a config alone is an adapter without weights, but not where a distributed checkpoint has them."""
    if listing.name is None:
        has_weights = any(map(listing.has, ADAPTER_WEIGHTS))
        return has_weights or (listing.has(ADAPTER_CONFIG) and not distributed.accepts(listing))
    return listing.name in ADAPTER_WEIGHTS and listing.has(ADAPTER_CONFIG)


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`: read the config, and the index of the weights."""
    config, twice = read_object(
        listing, ADAPTER_CONFIG, "config_bytes", what="config", expected=_CONFIG, remedy=_SAVE_AGAIN
    )
    present = [name for name in ADAPTER_WEIGHTS if listing.has(name)]
    weights = listing.name or next(iter(present), None)
    if weights is None:
        others = [name for name in listing.names if name != ADAPTER_CONFIG]
        raise CheckpointError(
            "no-weights",
            listing.path,
            expected=f"{' or '.join(ADAPTER_WEIGHTS)} next to {ADAPTER_CONFIG}",
            found=f"{ADAPTER_CONFIG} alone" + (f", and {listed(others, 6)}" if others else ""),
            remedy="Save the adapter with `model.save_pretrained(directory)`, or copy the weights file too.",
        )
    checkpoint = checkpoint_of(index_file(listing, weights))
    notes = checkpoint.notes
    twins = [name for name in present if name != weights]
    if twins:
        taken = "PEFT reads the safetensors file" + (", not this one" if weights != present[0] else "")
        notes = (f"{ADAPTER_WEIGHTS[1]} lies next to {ADAPTER_WEIGHTS[0]}: {taken}", *notes)
    return dataclasses.replace(
        checkpoint,
        path=place(listing.path),
        layout="peft_adapter",
        adapter_config=config,
        twice=twice,
        companions=tuple(
            open_companion("twin", listing.where(name), lambda: checkpoint_of(index_file(listing, twins[0])))
            for name in twins
        ),
        notes=notes,
    )
