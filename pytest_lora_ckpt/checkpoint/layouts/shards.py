"""Shards of a model, held against their index: each key in the file that it names, none missing, none twice."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts.json_file import read_object
from pytest_lora_ckpt.checkpoint.layouts.several_files import Part, join
from pytest_lora_ckpt.checkpoint.layouts.single_file import checkpoint_of
from pytest_lora_ckpt.vocabulary.files import SHARD, SHARD_INDEX
from pytest_lora_ckpt.wording import count, listed, printable, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing

COPY_AGAIN = "Copy all files of the model again, from one `save_pretrained`."

_INDEX = "a JSON object whose `weight_map` says for each key which file of this directory holds it"
_IS_INDEX = re.compile(rf".+{re.escape(SHARD_INDEX.removesuffix('.json'))}(\.[\w-]+)?\.json")
_SHOWN = 6
_MOST = 1 << 60  # Bytes: more than any model has.


class _Index(NamedTuple):
    """What an index says.

    Attributes:
        name: Its file.
        shard_of: Which shard holds each key.
        total: How many bytes the tensors have; None where it does not say.
    """

    name: str
    shard_of: Mapping[str, str]
    total: int | None


def is_index(name: str) -> bool:
    """Whether a file is called as the index of shards, with the name of a variant or without.

    Example:
        >>> is_index("model.safetensors.index.json"), is_index("model.safetensors.index.fp16.json"), is_index("a.json")
        (True, True, False)
    """
    return _IS_INDEX.fullmatch(name) is not None


def index_of(listing: Listing, shard: str) -> str | None:
    """Return the index next to a shard that it belongs to by its name, or None."""
    whole = _whole(shard)
    if whole is None:
        return None
    stem, _, ending = whole.rpartition(".")
    usual, _, variant = stem.rpartition(".")
    names = [f"{whole}{SHARD_INDEX}"]
    names += [f"{usual}.{ending}{SHARD_INDEX.removesuffix('.json')}.{variant}.json"] if usual else []
    return next(filter(listing.has, names), None)


def assemble(listing: Listing, index: str, index_file: IndexFile) -> Checkpoint:
    """Put the shards together, and check them against the index.

    Raises:
        CheckpointError: The index is broken, or a shard is missing, or broken, or does not hold what the index says.
    """
    said = _read(listing, index)
    parts = []
    listing.expect(dict.fromkeys(said.shard_of.values()))
    for name, number in Counter(said.shard_of.values()).items():
        if not listing.has(name):
            found = f"no such file, of which {index} expects {count(number, 'key')}"
            raise _error("missing-shard", listing, name, found)
        parts.append(Part(name, checkpoint_of(index_file(listing, name))))
    holders = _holders(listing, parts)
    _compare(listing, said, holders)
    unlisted = [key for key in holders if key not in said.shard_of]
    checkpoint = join(parts, listing.path, "transformers")
    notes = checkpoint.notes
    if unlisted:
        notes += (f"{index} does not name {count(len(unlisted), 'key')} of the shards: {listed(unlisted)}",)
    return dataclasses.replace(checkpoint, notes=notes, doubts=tuple(_doubts(listing, said, checkpoint)))


def _holders(listing: Listing, parts: Sequence[Part]) -> dict[str, str]:
    """Return which shard holds each key."""
    holders: dict[str, str] = {}
    for name, shard, _ in parts:
        for key in (*shard.keys, *shard.opaque_keys):
            if key in holders:
                found = f"the key {printable(repr(key), 200)}, which {printable(holders[key])} holds too"
                raise _error("key-twice", listing, name, found)
            holders[key] = name
    return holders


def _compare(listing: Listing, index: _Index, holders: Mapping[str, str]) -> None:
    """Check that each key is where the index says; the error names the shard that lacks most, and its keys."""
    lacking: dict[str, list[str]] = {}
    for key, name in index.shard_of.items():
        if holders.get(key) != name:
            lacking.setdefault(name, []).append(key)
    if not lacking:
        return
    name = max(lacking, key=lambda each: len(lacking[each]))
    keys = lacking[name]
    expected = sum(each == name for each in index.shard_of.values())
    found = f"no key {printable(repr(keys[0]), 200)}, which {index.name} expects in it"
    if len(keys) > 1:
        found = f"{len(keys)} of the {expected} keys that {index.name} expects in it are not there, such as "
        found += printable(repr(keys[0]), 200)
    if holder := holders.get(keys[0]):
        found += f"; {printable(holder)} holds it"
    if len(keys) == expected > 1 and not holder:
        found += ": it is of another model, or of another run"
    raise _error("misplaced-key", listing, name, found)


def _doubts(listing: Listing, index: _Index, checkpoint: Checkpoint) -> list[str]:
    """Say what speaks against the shards and their index being of one save, though each key is where it should be."""
    named = {*index.shard_of.values()}
    doubts = []
    keys = checkpoint.keys
    # A tensor with two names counts once for the libraries of today, twice for older ones.
    counted = {keys.nbytes, sum(info.nbytes for info in keys.values())}
    if index.total and not checkpoint.opaque_keys and index.total not in counted:
        doubts.append(
            f"by its `total_size` {index.name} is of tensors of {index.total} bytes ({size(index.total)}), and the"
            f" shards hold {keys.nbytes} ({size(keys.nbytes)})"
        )
    whole = {_whole(name) for name in named} - {None}
    strangers = [name for name in listing.names if name not in named and _whole(name) in whole]
    if strangers:
        doubts.append(f"{index.name} does not name {listed(map(printable, strangers), _SHOWN)}, which lies next to it")
    counts = {int(found[1]) for name in named if (found := re.search(r"-of-(\d+)\.", name))}
    if counts and counts != {len(named)}:
        said = " and ".join(map(str, sorted(counts)))
        doubts.append(f"the names of its {count(len(named), 'shard')} say that they are of {said}")
    return doubts


def without_index(listing: Listing, names: Sequence[str]) -> CheckpointError:
    """Return the error for shards that nothing puts together."""
    whole = next((found for name in names if (found := _whole(name))), "model")
    return CheckpointError(
        "no-index",
        listing.path,
        expected=f"`{whole}{SHARD_INDEX}`, which says what shard holds which key",
        found=f"{count(len(names), 'shard')} and no index: {listed(names, _SHOWN)}",
        remedy="Copy the index too: the library does not load shards without it. A shard alone can be given as a file.",
    )


def _whole(name: str) -> str | None:
    """Return what the weights would be called in one file; None for a name that is no shard's.

    Example:
        >>> _whole("model-00001-of-00002.safetensors")
        'model.safetensors'
    """
    found = re.search(SHARD, name)
    return f"{name[: found.start()]}.{name[found.end() :]}" if found else None


def _read(listing: Listing, index: str) -> _Index:
    """Read the index."""
    content, twice = read_object(listing, index, "index_bytes", what="index", expected=_INDEX, remedy=COPY_AGAIN)
    shard_of = content.get("weight_map")
    if twice:
        raise _error("key-twice", listing, index, f"the key {printable(repr(twice[0]), 200)} twice")
    if not isinstance(shard_of, dict) or not shard_of:
        raise _error("broken-index", listing, index, "no `weight_map`, or an empty one")
    for key, shard in shard_of.items():
        if not isinstance(shard, str):
            found = f"a {type(shard).__name__}, not the name of a file, for the key {printable(repr(key), 200)}"
            raise _error("broken-index", listing, index, found)
    for name in dict.fromkeys(shard_of.values()):
        # A shard lies in this directory: an index must not lead to other files.
        if PurePath(name).name != name or name in {"", "..", index} or "\\" in name:
            raise _error("broken-index", listing, index, f"a shard called {printable(repr(name), 200)}")
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return _Index(index, shard_of, int(total) if isinstance(total, (int, float)) and 0 < total < _MOST else None)


def _error(problem: str, listing: Listing, name: str, found: str) -> CheckpointError:
    return CheckpointError(
        problem, listing.where(name), expected="the shards that the index names", found=found, remedy=COPY_AGAIN
    )
