"""One file: a state dict, in a torch file also with an envelope around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts.torch_envelope import state_dict_in
from pytest_lora_ckpt.checkpoint.limits import OverLimitError, check_keys, over_limit
from pytest_lora_ckpt.checkpoint.pickle.torch_types import span
from pytest_lora_ckpt.tensors import ITEM_SIZES, KeySet

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.index import FileIndex, IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.window import Window

_COVERED = 4  # A shared storage has views, and a packed file unpacks.

NAME = "one file"


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
    keys = KeySet(state.tensors)
    check_tensors(keys, index.window, index.window.length)
    return Checkpoint(
        path=place(index.window.origin),
        layout=state.layout,
        format=index.format,
        keys=keys,
        source=index.source,
        files=(place(index.window.origin),),
        envelope=state.envelope,
        opaque_keys=state.opaque,
        globals=index.globals,
        notes=state.notes,
        budget=index.window.budget,
    )


def check_tensors(keys: KeySet, window: Window, nbytes: int) -> None:
    """Compare the tensors of a file, or of files of so many bytes, with the limits.

    Raises:
        CheckpointError: They are too many, or lie in each other (`over-limit`).
    """
    budget = window.budget
    try:
        check_keys(keys, budget)
        budget.spend("aliases", sum(map(len, keys.aliases)))
        budget.check("overlapping_bytes", _overlapping(keys, nbytes))
    except OverLimitError as error:
        raise over_limit(window.origin, error) from error


def _overlapping(keys: KeySet, size: int) -> int:
    """Return by how many bytes the tensors of a file are more than four times the file: they lie in each other."""
    if keys.nbytes <= _COVERED * size:
        return 0
    once = {names[0] for names in keys.aliases} | keys.keys() - {name for names in keys.aliases for name in names}
    infos = (keys[key] for key in once)
    return sum(span(each.shape, each.stride) * ITEM_SIZES.get(each.dtype, 1) for each in infos) - _COVERED * size
