"""How a tensor lies in the flat tensors of the ranks, and where its bytes are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pytest_lora_ckpt.checkpoint.index import TensorSource
from pytest_lora_ckpt.tensors import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_lora_ckpt.checkpoint.index import Piece, Stretch


class Held(NamedTuple):
    """A tensor in the file of one rank, and that file's source."""

    source: TensorSource
    info: TensorInfo

    def cut(self, start: int, numel: int) -> Held:
        """Return some consecutive elements of a flat tensor, as a tensor of their own."""
        info = self.info
        offset = info.storage_offset + start
        return Held(self.source, TensorInfo((numel,), info.dtype, storage=info.storage, storage_offset=offset))


class Part(Protocol):
    """Where a tensor of the model lies."""

    def held(self, numel: int) -> Iterator[Held]:
        """List the stretches of which it consists, its first element first."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A tensor that lies in one file as it is."""

    tensor: Held

    def held(self, numel: int) -> Iterator[Held]:  # noqa: ARG002 - It is not cut.
        """See `Part`."""
        yield self.tensor


@dataclass(frozen=True, slots=True, eq=False)
class Consecutive:
    """ZeRO 1 and 2: the flat tensors of the ranks, one behind another, are one row of all tensors of a group.

    Attributes:
        flats: The group's flat tensor of each rank.
        start: Where in the row the tensor begins.
    """

    flats: tuple[Held, ...]
    start: int

    def held(self, numel: int) -> Iterator[Held]:
        """See `Part`."""
        begin = 0
        for flat in self.flats:
            end = begin + flat.info.numel
            first, last = max(self.start, begin), min(self.start + numel, end)
            if first < last:
                yield flat.cut(first - begin, last - first)
            begin = end


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """ZeRO 3: each rank has an equal share of the tensor, at the same place; the last ones are filled up.

    Attributes:
        flats: The flat tensor of each rank.
        start: Where in each of them the share begins.
    """

    flats: tuple[Held, ...]
    start: int = 0

    def held(self, numel: int) -> Iterator[Held]:
        """See `Part`."""
        share = share_of(numel, len(self.flats))
        for rank, flat in enumerate(self.flats):
            left = numel - rank * share
            if left > 0:
                yield flat.cut(self.start, min(share, left))


def share_of(numel: int, ranks: int) -> int:
    """Return how many elements of a tensor each rank has (deepspeed/utils/zero_to_fp32.py).

    Example:
        >>> share_of(15, 2), share_of(3, 4)
        (8, 1)
    """
    return -(-numel // ranks)


@dataclass(frozen=True, slots=True, eq=False)
class ZeroSource(TensorSource):
    """Finds the tensors of a model in the files of the ranks."""

    parts: Mapping[str, Part]

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:
        """See `TensorSource`."""
        held = list(self.parts[key].held(info.numel))
        if len(held) == 1:
            return held[0].source.pieces(key, held[0].info)
        pieces: list[Piece] = []
        position = 0
        for source, inside in held:
            target = slice(position, position + inside.numel)
            pieces += [replace(piece, target=target) for piece in source.pieces(key, inside)]
            position += inside.numel
        return tuple(pieces)

    def stretches(self, key: str, info: TensorInfo) -> Iterator[Stretch]:
        """See `TensorSource`."""
        for source, inside in self.parts[key].held(info.numel):
            yield from source.stretches(key, inside)

    def damaged(self, infos: Mapping[str, TensorInfo]) -> list[str]:
        """See `TensorSource`."""
        asked: dict[TensorSource, dict[str, TensorInfo]] = defaultdict(dict)
        key_of: dict[str, str] = {}
        for key, info in infos.items():
            for source, inside in self.parts[key].held(info.numel):
                stretch = str(len(key_of))
                key_of[stretch], asked[source][stretch] = key, inside
        found = {key_of[stretch] for source, inside in asked.items() for stretch in source.damaged(inside)}
        return [key for key in infos if key in found]
