"""A directory in which a library saves an adapter as one file of a fixed name: diffusers, litgpt."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.layouts.single_file import checkpoint_of
from pytest_lora_ckpt.vocabulary.files import ADAPTER_FILES, MERGED_BESIDE

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing

NAME = "adapter file"


def accepts(listing: Listing) -> bool:
    """See `Layout`."""
    return listing.name is None and any(map(listing.has, ADAPTER_FILES))


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`: the first of the names that is there, as the libraries prefer them."""
    weights = next(name for name in ADAPTER_FILES if listing.has(name))
    checkpoint = checkpoint_of(index_file(listing, weights))
    merged = weights.removesuffix(MERGED_BESIDE)
    if merged != weights and listing.has(merged):
        note = f"{merged} next to {weights} is the base model with this adapter merged, as litgpt writes it; not read"
        checkpoint = dataclasses.replace(checkpoint, notes=(*checkpoint.notes, note))
    return dataclasses.replace(checkpoint, path=place(listing.path))
