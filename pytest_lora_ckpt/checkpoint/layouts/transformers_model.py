"""A Hugging Face model as `save_pretrained` writes it: a directory with its weights, in one file or in shards.

Source: transformers/modeling_utils.py (which weights are taken) and transformers/utils/hub.py
(`get_checkpoint_shard_files`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts.json_file import read_object
from pytest_lora_ckpt.checkpoint.layouts.single_file import checkpoint_of
from pytest_lora_ckpt.tensors import KeySet, TensorInfo
from pytest_lora_ckpt.vocabulary.files import MODEL_WEIGHTS, SHARD_INDEX
from pytest_lora_ckpt.wording import count, listed, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import Piece, TensorSource
    from pytest_lora_ckpt.checkpoint.layouts import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing

NAME = "Hugging Face model"
EXPECTS = f"a directory with {', '.join(MODEL_WEIGHTS[:2])} or one of them in shards (`*{SHARD_INDEX}`)"

# As transformers prefers them: a file before its shards, safetensors before pickles.
_NAMES = tuple(name for weights in MODEL_WEIGHTS for name in (weights, weights + SHARD_INDEX))
_INDEX = "a JSON object whose `weight_map` says for each key which file of this directory holds it"
_COPY_AGAIN = "Copy all files of the model again, from one `save_pretrained`."


def accepts(listing: Listing) -> bool:
    """See `Layout`."""
    if listing.name is None:
        return any(map(listing.has, _NAMES))
    return listing.name.endswith(SHARD_INDEX)


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`."""
    weights = listing.name or next(filter(listing.has, _NAMES))
    if weights.endswith(SHARD_INDEX):
        checkpoint = _sharded(listing, weights, index_file)
    else:
        checkpoint = checkpoint_of(index_file(listing, weights))
    return dataclasses.replace(checkpoint, path=Path(listing.path), layout="transformers")


def _sharded(listing: Listing, index: str, index_file: IndexFile) -> Checkpoint:
    """Put the shards together, and check them against the index."""
    shard_of = _weight_map(listing, index)
    shards = {}
    for name, number in Counter(shard_of.values()).items():
        if not listing.has(name):
            found = f"no such file, of which {index} expects {count(number, 'key')}"
            raise _shard_error("missing-shard", listing, name, found)
        shards[name] = checkpoint_of(index_file(listing, name))
    holders: dict[str, str] = {}
    for name, shard in shards.items():
        for key in (*shard.keys, *shard.opaque_keys):
            if key in holders:
                found = f"the key {printable(repr(key), 200)}, which {printable(holders[key])} holds too"
                raise _shard_error("key-twice", listing, name, found)
            holders[key] = name
    for key, name in shard_of.items():
        if (holder := holders.get(key)) != name:
            found = f"no key {printable(repr(key), 200)}, which {index} expects in it"
            found += f"; {printable(holder)} holds it" if holder else ""
            raise _shard_error("misplaced-key", listing, name, found)
    unlisted = [key for key in holders if key not in shard_of]
    first, *_ = shards.values()
    parts = {key: (shard.source, info) for shard in shards.values() for key, info in shard.keys.items()}
    notes = [note for shard in shards.values() for note in shard.notes]
    if unlisted:
        notes.append(f"{index} does not name {count(len(unlisted), 'key')} of the shards: {listed(unlisted)}")
    return dataclasses.replace(
        first,
        keys=KeySet({key: _apart(holders[key], info) for key, (_, info) in parts.items()}),
        source=ShardedSource(parts),
        files=tuple(Path(listing.where(name)) for name in shards),
        opaque_keys={key: what for shard in shards.values() for key, what in shard.opaque_keys.items()},
        globals=tuple(asked for shard in shards.values() for asked in shard.globals),
        notes=tuple(dict.fromkeys(notes)),
    )


def _weight_map(listing: Listing, index: str) -> dict[str, str]:
    """Return which shard holds each key, by the index."""
    content, twice = read_object(listing, index, "index_bytes", what="index", expected=_INDEX, remedy=_COPY_AGAIN)
    shard_of = content.get("weight_map")
    if twice:
        raise _shard_error("key-twice", listing, index, f"the key {printable(repr(twice[0]), 200)} twice")
    if not isinstance(shard_of, dict) or not shard_of:
        raise _shard_error("broken-index", listing, index, "no `weight_map`, or an empty one")
    for key, shard in shard_of.items():
        if not isinstance(shard, str):
            found = f"a {type(shard).__name__}, not the name of a file, for the key {printable(repr(key), 200)}"
            raise _shard_error("broken-index", listing, index, found)
    for name in dict.fromkeys(shard_of.values()):
        # A shard lies in this directory: an index must not lead to other files.
        if Path(name).name != name or name in {"", "..", index} or "\\" in name:
            raise _shard_error("broken-index", listing, index, f"a shard called {printable(repr(name), 200)}")
    return dict(shard_of)


def _shard_error(problem: str, listing: Listing, name: str, found: str) -> CheckpointError:
    return CheckpointError(
        problem, listing.where(name), expected="the shards that the index names", found=found, remedy=_COPY_AGAIN
    )


def _apart(shard: str, info: TensorInfo) -> TensorInfo:
    """Return the tensor with a storage that no other file has: each counts its storages from 0."""
    return info if info.storage is None else dataclasses.replace(info, storage=(shard, info.storage))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ShardedSource:
    """Finds a tensor in the file that holds it: key -> that file's source, and what that file calls the tensor."""

    parts: Mapping[str, tuple[TensorSource, TensorInfo]]

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:  # noqa: ARG002 - Its own file has another.
        """See `TensorSource`."""
        source, inside = self.parts[key]
        return source.pieces(key, inside)

    def damaged(self, infos: Mapping[str, TensorInfo]) -> list[str]:
        """See `TensorSource`."""
        by_source: dict[TensorSource, dict[str, TensorInfo]] = {}
        for key in infos:
            source, inside = self.parts[key]
            by_source.setdefault(source, {})[key] = inside
        return [key for source, inside in by_source.items() for key in source.damaged(inside)]
