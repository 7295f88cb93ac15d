"""A distributed checkpoint: a directory with `.metadata`, and a file of chunks from each rank, read in `distributed/`.

Written by `torch.distributed.checkpoint.save`, and through it by FSDP2, accelerate, the Trainer and Lightning's
strategies.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.storage import Listing
from pytest_lora_ckpt.vocabulary.files import (
    DISTRIBUTED_METADATA,
    LIGHTNING_ENVELOPE,
    RANK_FILES,
    RANK_METADATA,
    SHARDED_MODEL,
)

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import IndexFile

NAME = "torch.distributed checkpoint"


def accepts(listing: Listing) -> bool:
    """See `Layout`."""
    return _folder(listing) is not None


def _folder(listing: Listing) -> Listing | None:
    """Return the directory of the checkpoint, or None where it is none."""
    folder = Listing(listing.storage, listing.folder)
    if listing.name is None:
        if folder.has(DISTRIBUTED_METADATA) or any(map(_is_part, folder.names)):
            return folder
        inner = folder.directory(SHARDED_MODEL)
        return inner if inner is not None and inner.has(DISTRIBUTED_METADATA) else None
    with_envelope = listing.name == LIGHTNING_ENVELOPE and folder.has(DISTRIBUTED_METADATA)
    return folder if with_envelope or _is_part(listing.name) else None


def _is_part(name: str) -> bool:
    return name == DISTRIBUTED_METADATA or name.endswith(RANK_FILES) or re.fullmatch(RANK_METADATA, name) is not None


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`."""
    from pytest_lora_ckpt.checkpoint.distributed.read import read  # Only such a checkpoint pays for it.

    return read(listing, _folder(listing) or listing, index_file)
