"""Several PEFT adapters of one model, each in a sub-directory of its name, and none at the top.

Source: peft/peft_model.py, `PeftModel.save_pretrained`: only the adapter `default` goes to the top, which has the model
card; a directory that has a card itself was saved on its own.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.layouts import peft_adapter
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG, MODEL_CARD, STEP_DIRECTORY

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing

NAME = "PEFT adapters"


def accepts(listing: Listing) -> bool:
    """See `Layout`."""
    return listing.name is None and listing.has(MODEL_CARD) and bool(adapters_in(listing))


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`: the first adapter; the others lie with it."""
    name, folder = next(iter(adapters_in(listing).items()))
    checkpoint = peft_adapter.assemble(folder, index_file)
    return dataclasses.replace(checkpoint, path=place(listing.path), called=name)


def adapters_in(listing: Listing) -> dict[str, Listing]:
    """Return the adapters in sub-directories by name, but for steps of a run and what was saved on its own."""
    found = {}
    for name in listing.names:
        inside = None if re.fullmatch(STEP_DIRECTORY, name) else listing.directory(name)
        if inside is not None and inside.has(ADAPTER_CONFIG) and not inside.has(MODEL_CARD):
            found[name] = inside
    return found
