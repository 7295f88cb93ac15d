"""Parts of tensors in safetensors files: the header says which part of the whole each of its tensors is.

Sources: `torch/distributed/checkpoint/filesystem.py`, `_write_files_from_queue`, and `hf_storage.py`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.bounded_json import parse_json
from pytest_lora_ckpt.checkpoint.distributed.chunks import placed
from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.index import FileIndex, Piece, TensorSource
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.tensors import TensorInfo
from pytest_lora_ckpt.vocabulary.formats import SHARDING_INFO, SHARDING_OFFSETS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.distributed.metadata import Sizes


class Part(NamedTuple):
    """A box of a tensor's elements, as a tensor in a file of its own.

    Attributes:
        source: Finds the tensors of that file.
        name: What the file calls it.
        info: What it is there.
        offsets: Where in the whole tensor it begins.
    """

    source: TensorSource
    name: str
    info: TensorInfo
    offsets: Sizes


@dataclass(frozen=True, slots=True, eq=False)
class PartsSource(TensorSource):
    """Finds the parts of a tensor.

    Attributes:
        parts: The parts of each.
    """

    parts: Mapping[str, Sequence[Part]]

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:
        """See `TensorSource`."""
        return tuple(
            placed(piece, part.offsets, part.info.shape, info.shape)
            for part in self.parts.get(key, ())
            if part.info.numel
            for piece in part.source.pieces(part.name, part.info)
        )


def parts_in(index: FileIndex) -> dict[str, Part]:
    """Return the parts of tensors that a safetensors file holds, by name.

    Raises:
        BrokenFileError: Its header does not say which parts they are.
    """
    raw = (index.metadata or {}).get(SHARDING_INFO)
    if not isinstance(raw, str) or not isinstance(index.contents, dict):
        raise BrokenFileError(f"no `{SHARDING_INFO}` in the header, which says which part of each tensor is here")
    try:
        said = parse_json(raw.encode(), index.window.budget).value
    except ValueError as error:
        raise BrokenFileError(f"`{SHARDING_INFO}` is not JSON: {error}") from error
    parts = {}
    for name, info in index.contents.items():
        entry = said.get(name) if isinstance(said, dict) else None
        offsets = entry.get(SHARDING_OFFSETS) if isinstance(entry, dict) else None
        if not isinstance(offsets, list) or len(offsets) != len(info.shape) or not {*map(type, offsets)} <= {int}:
            raise BrokenFileError(f"{describe(offsets, 80)} for where {describe(name, 200)} begins in the whole tensor")
        if min(offsets, default=0) < 0:
            raise BrokenFileError(f"{describe(name, 200)} begins at {describe(offsets, 80)}")
        parts[name] = Part(index.source, name, info, tuple(offsets))
    return parts


def together(files: Sequence[Mapping[str, Part]]) -> tuple[dict[str, TensorInfo], dict[str, list[Part]]]:
    """Return the whole tensors whose parts lie in several files, and the parts: nothing else says how large they are.

    Raises:
        BrokenFileError: Two parts of a tensor are not of one dtype, or have not the same number of dimensions.
    """
    parts: dict[str, list[Part]] = defaultdict(list)
    for file in files:
        for name, part in file.items():
            parts[name].append(part)
    wholes = {}
    for name, found in parts.items():
        kinds = {(part.info.dtype, len(part.offsets)) for part in found}
        if len(kinds) > 1:
            raise BrokenFileError(f"parts of {describe(name, 200)} that do not fit: {describe(sorted(kinds))}")
        ends = [[start + size for start, size in zip(part.offsets, part.info.shape, strict=True)] for part in found]
        wholes[name] = TensorInfo(tuple(map(max, *ends)) if len(ends) > 1 else tuple(ends[0]), found[0].info.dtype)
    return wholes, parts
