"""The state dict of a distributed checkpoint, as `.metadata` says, each tensor made up of the ranks' chunks.

Of the ranks' files only the objects that are no tensors are read here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
from pytest_lora_ckpt.checkpoint.distributed import tiling
from pytest_lora_ckpt.checkpoint.distributed.boxes import PartsSource
from pytest_lora_ckpt.checkpoint.distributed.chunks import ChunkedSource
from pytest_lora_ckpt.checkpoint.distributed.files import objects_in, parts_by_key, rank_files
from pytest_lora_ckpt.checkpoint.distributed.metadata import merged, saved_in
from pytest_lora_ckpt.checkpoint.distributed.state import state_in
from pytest_lora_ckpt.checkpoint.distributed.windows import COPY_AGAIN
from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, CheckpointError
from pytest_lora_ckpt.checkpoint.formats import safetensors_file, torch_zip
from pytest_lora_ckpt.checkpoint.limits import OverLimitError, check_keys, over_limit
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.vocabulary.files import (
    DISTRIBUTED_METADATA,
    LIGHTNING_ENVELOPE,
    RANK_FILES,
    RANK_METADATA,
)
from pytest_lora_ckpt.wording import listed

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.distributed.metadata import Saved
    from pytest_lora_ckpt.checkpoint.distributed.state import State
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.storage import Listing


def read(listing: Listing, folder: Listing, index_file: IndexFile) -> Checkpoint:
    """Put the checkpoint together.

    Args:
        listing: What was given.
        folder: The directory of the checkpoint.
        index_file: Reads what one file holds.

    Raises:
        CheckpointError: A file is missing or broken.
    """
    names = _metadata_files(folder)
    parts = [index_file(folder, name) for name in names]
    metadata = folder.where(names[0])
    try:
        saved = merged(saved_in(part.contents) for part in parts)
        state = state_in(saved, metadata)
        keys = _keys(saved, state, parts[0].window.budget)
        files = rank_files(folder, saved, state.names)
    except OverLimitError as error:
        raise over_limit(metadata, error) from error
    except BrokenFileError as error:
        expected = "for each entry what it is, and where in this directory it lies"
        raise CheckpointError(
            "broken-index", metadata, expected=expected, found=str(error), remedy=COPY_AGAIN
        ) from error
    objects = objects_in(folder, saved, files.windows.opened, index_file)
    parts_of = parts_by_key(saved, state.names, files.windows)
    opaque = {
        key: saved.opaque.get(name) or f"not a tensor: {describe(objects.get(name), 100)}"
        for key, name in state.names.items()
        if key not in keys
    }
    return Checkpoint(
        path=place(listing.path),
        layout="distributed",
        format=safetensors_file.NAME if parts_of else torch_zip.NAME,
        keys=keys,
        source=PartsSource(parts_of)
        if parts_of
        else ChunkedSource(files.windows, {key: saved.chunks[state.names[key]] for key in keys}),
        files=tuple(place(folder.where(name)) for name in (*names, *files.windows)),
        envelope={
            **state.envelope({**saved.tensors, **saved.opaque, **objects}),
            **_lightning_envelope(folder, index_file),
        },
        opaque_keys={**opaque, **{key: f"not a tensor: {what}" for key, what in state.nested.items()}},
        globals=tuple(asked for part in parts for asked in part.globals),
        notes=(*state.notes, *files.notes),
        doubts=files.doubts,
        budget=parts[0].window.budget,
    )


def _metadata_files(folder: Listing) -> list[str]:
    """Return the file that says what the others hold, or those of the ranks where each has its own."""
    if folder.has(DISTRIBUTED_METADATA):
        return [DISTRIBUTED_METADATA]
    of_ranks = [name for name in folder.names if re.fullmatch(RANK_METADATA, name)]
    if not of_ranks:
        begun = f"; `{DISTRIBUTED_METADATA}.tmp` was begun" if folder.has(f"{DISTRIBUTED_METADATA}.tmp") else ""
        files = [name for name in folder.names if name.endswith(RANK_FILES)]
        raise CheckpointError(
            "no-metadata",
            folder.where(DISTRIBUTED_METADATA),
            expected="the file that says what the ranks' files hold",
            found=f"{listed(files)} without it{begun}: it is written last, so that the save did not end",
            remedy="Take the checkpoint before this one, or copy the file too where the directory was copied.",
        )
    return of_ranks


def _keys(saved: Saved, state: State, budget: Budget) -> KeySet:
    """Return the tensors of the state dict, each made up by its chunks."""
    keys = KeySet({key: saved.tensors[name] for key, name in state.names.items() if name in saved.tensors})
    check_keys(keys, budget)
    tiling.check(keys, lambda key: [chunk[:2] for chunk in saved.chunks[state.names[key]]], budget)
    return keys


def _lightning_envelope(folder: Listing, index_file: IndexFile) -> dict[str, object]:
    """Return what Lightning keeps beside: hyper-parameters, loops, callbacks."""
    if not folder.has(LIGHTNING_ENVELOPE):
        return {}
    contents = index_file(folder, LIGHTNING_ENVELOPE).contents
    return {str(name): value for name, value in contents.items()} if isinstance(contents, dict) else {}
