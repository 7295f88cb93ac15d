"""The ranks' files of `HuggingFaceStorageWriter`: each holds a part of every tensor, and nothing lists the files.

Source: `torch/distributed/checkpoint/hf_storage.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, CheckpointError
from pytest_lora_ckpt.checkpoint.formats import safetensors_file
from pytest_lora_ckpt.checkpoint.limits import OverLimitError, check_keys, over_limit
from pytest_lora_ckpt.checkpoint.storage import Listing
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.vocabulary.files import MODEL_WEIGHTS, RANK_SHARDS, RANK_SHARDS_FOLDER, SHARD_INDEX
from pytest_lora_ckpt.wording import count, listed

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.distributed.boxes import Part
    from pytest_lora_ckpt.checkpoint.index import IndexFile

NAME = "shards by rank"

_INDEX = MODEL_WEIGHTS[0] + SHARD_INDEX


def accepts(listing: Listing) -> bool:
    """See `Layout`: not where the whole tensors lie next to them."""
    if listing.name is not None:
        return re.fullmatch(RANK_SHARDS, listing.name) is not None
    return not listing.has(_INDEX) and _folder(listing) is not None


def _folder(listing: Listing) -> Listing | None:
    """Return the directory of the ranks' files, or None where there is none."""
    top = Listing(listing.storage, listing.folder)
    inner = top.directory(RANK_SHARDS_FOLDER)
    return next((each for each in (top, inner) if each is not None and _shards(each)), None)


def _shards(folder: Listing) -> list[str]:
    return [name for name in folder.names if re.fullmatch(RANK_SHARDS, name)]


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`."""
    # Only such a checkpoint pays for it.
    from pytest_lora_ckpt.checkpoint.distributed import tiling
    from pytest_lora_ckpt.checkpoint.distributed.boxes import PartsSource, parts_in, together

    folder = _folder(listing) or listing
    names = _shards(folder)
    folder.expect(names)
    files: dict[str, dict[str, Part]] = {}
    opaque: dict[str, str] = {}
    for name in names:
        index = index_file(folder, name)
        opaque.update(index.opaque)
        try:
            files[name] = parts_in(index)
        except BrokenFileError as error:
            expected = "a header that says which part of each tensor the file holds, as `HuggingFaceStorageWriter` does"
            raise _error("broken-index", folder.where(name), expected, str(error)) from error
    budget = index.window.budget
    try:
        wholes, parts = together(list(files.values()))
        keys = KeySet(wholes)
        check_keys(keys, budget)
        tiling.check(keys, lambda key: [(part.offsets, part.info.shape) for part in parts[key]], budget)
    except OverLimitError as error:
        raise over_limit(folder.path, error) from error
    except BrokenFileError as error:
        raise _error("missing-shard", folder.path, "the file of each rank", f"{error}{_gaps(names)}") from error
    return Checkpoint(
        path=place(listing.path),
        layout="distributed",
        format=safetensors_file.NAME,
        keys=keys,
        source=PartsSource(parts),
        files=tuple(place(folder.where(name)) for name in names),
        opaque_keys=opaque,
        notes=(f"{count(len(names), 'file')} of the ranks; nothing says how many there were",),
        budget=budget,
    )


def _gaps(names: list[str]) -> str:
    """Say which numbers are not there below the highest."""
    found = {int(match[1]) for name in names if (match := re.fullmatch(RANK_SHARDS, name))}
    gaps = [number for number in range(1, min(max(found), 10 * len(found)) + 1) if number not in found]
    return f"; there is no file of rank {listed(gaps)}" if gaps else ""


def _error(problem: str, path: str, expected: str, found: str) -> CheckpointError:
    from pytest_lora_ckpt.checkpoint.distributed.windows import COPY_AGAIN

    return CheckpointError(problem, path, expected=expected, found=found, remedy=COPY_AGAIN)
