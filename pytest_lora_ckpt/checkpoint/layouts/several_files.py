"""Several files that are one checkpoint: shards of a model, or components each with a directory of its own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.index import TensorSource
from pytest_lora_ckpt.tensors import KeySet, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.index import Piece, Stretch


class Part(NamedTuple):
    """One of the files, or what is put together of some of them.

    Attributes:
        name: Its name in the checkpoint's directory; each part has another.
        checkpoint: What it holds.
        prefix: What stands before its keys in the checkpoint.
    """

    name: str
    checkpoint: Checkpoint
    prefix: str = ""


class _Place(NamedTuple):
    """Where a tensor lies: the part's source, and what that calls the tensor."""

    source: TensorSource
    key: str
    info: TensorInfo


def join(parts: Sequence[Part], path: str, layout: str) -> Checkpoint:
    """Return the parts as one checkpoint. No key may be in two of them.

    Args:
        parts: At least one.
        path: What was opened.
        layout: How it lies on disk.
    """
    places: dict[str, _Place] = {}
    infos: dict[str, TensorInfo] = {}
    opaque: dict[str, str] = {}
    for name, part, prefix in parts:
        for key, info in part.keys.items():
            places[prefix + key] = _Place(part.source, key, info)
            infos[prefix + key] = _apart(name, info)
        opaque |= {prefix + key: what for key, what in part.opaque_keys.items()}
    held = [part for _, part, _ in parts]
    return dataclasses.replace(
        held[0],
        path=place(path),
        layout=layout,
        format=", ".join(dict.fromkeys(each.format for each in held)),
        keys=KeySet(infos),
        source=_JoinedSource(places),
        files=tuple(dict.fromkeys(file for each in held for file in each.files)),
        opaque_keys=opaque,
        globals=tuple(asked for each in held for asked in each.globals),
        notes=tuple(dict.fromkeys(note for each in held for note in each.notes)),
    )


def _apart(part: str, info: TensorInfo) -> TensorInfo:
    """Return the tensor with a storage that no other part has: each file counts its storages from 0."""
    return info if info.storage is None else dataclasses.replace(info, storage=(part, info.storage))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _JoinedSource(TensorSource):
    """Finds a tensor in the part that holds it."""

    places: Mapping[str, _Place]

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:  # noqa: ARG002 - Its own file has another.
        """See `TensorSource`."""
        place = self.places[key]
        return place.source.pieces(place.key, place.info)

    def stretches(self, key: str, info: TensorInfo) -> Iterable[Stretch]:  # noqa: ARG002 - As above.
        """See `TensorSource`."""
        place = self.places[key]
        return place.source.stretches(place.key, place.info)

    def checksum(self, key: str, info: TensorInfo) -> int | None:  # noqa: ARG002 - As above.
        """See `TensorSource`."""
        place = self.places[key]
        return place.source.checksum(place.key, place.info)

    def damaged(self, infos: Mapping[str, TensorInfo]) -> list[str]:
        """See `TensorSource`."""
        by_source: dict[TensorSource, dict[str, str]] = {}
        for key in infos:
            place = self.places[key]
            by_source.setdefault(place.source, {})[place.key] = key
        return [
            names[inner]
            for source, names in by_source.items()
            for inner in source.damaged({inner: self.places[key].info for inner, key in names.items()})
        ]
