"""One file: a state dict, in a torch file also with an envelope around it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts.torch_envelope import state_dict_in
from pytest_lora_ckpt.checkpoint.limits import OverLimitError, check_keys, over_limit
from pytest_lora_ckpt.tensors import KeySet

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.index import FileIndex
    from pytest_lora_ckpt.checkpoint.layouts import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing

NAME = "one file"
EXPECTS = "a file, not a directory"


def accepts(listing: Listing) -> bool:
    """See `Layout`."""
    return listing.name is not None


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`."""
    return checkpoint_of(index_file(listing, listing.name or ""))


def checkpoint_of(index: FileIndex) -> Checkpoint:
    """Make a checkpoint of what one file holds.

    Raises:
        CheckpointError: It holds no state dict (`no-state-dict`), an empty one (`empty`), or too much (`over-limit`).
    """
    try:
        state = state_dict_in(index)
    except CheckpointError as error:
        error.globals = index.globals
        raise
    keys, budget = KeySet(state.tensors), index.window.budget
    try:
        check_keys(keys, budget)
        budget.spend("aliases", sum(map(len, keys.aliases)))
    except OverLimitError as error:
        raise over_limit(index.window.origin, error) from error
    return Checkpoint(
        path=Path(index.window.origin),
        layout=state.layout,
        format=index.format,
        keys=keys,
        source=index.source,
        files=(Path(index.window.origin),),
        envelope=state.envelope,
        opaque_keys=state.opaque,
        globals=index.globals,
        notes=state.notes,
        budget=budget,
    )
