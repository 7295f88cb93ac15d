"""What `.metadata` says, held against itself: names, shapes, and where each chunk lies. Nothing of it is believed.

Sources: `torch/distributed/checkpoint/metadata.py` and `filesystem.py`. torch has moved its classes, so that the last
part of a name says which one it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.index import is_addressable
from pytest_lora_ckpt.checkpoint.pickle.inert import Key, Opaque, describe
from pytest_lora_ckpt.tensors import ITEM_SIZES, MOST_DIMENSIONS, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DEEPEST = 16  # Steps of a path: an application's state has some five.

Sizes = tuple[int, ...]
Path = tuple[str | int, ...]
Places = dict[tuple[str, Sizes | None], "Stretch"]


class Stretch(NamedTuple):
    """Bytes of one of the ranks' files.

    Attributes:
        file: Its name, in the checkpoint's directory.
        offset: Where they begin.
        length: How many.
        transforms: What they went through, as in `StreamTransformExtension`: compression, encryption.
    """

    file: str
    offset: int
    length: int
    transforms: tuple[str, ...] = ()


class Chunk(NamedTuple):
    """A box of a tensor's elements, and where it lies."""

    offsets: Sizes
    sizes: Sizes
    stretch: Stretch


@dataclass(frozen=True, slots=True)
class Saved:
    """What a distributed checkpoint holds, by the names that it gives.

    Attributes:
        tensors: The whole tensors.
        chunks: The chunks of each.
        opaque: Tensors of which torch has no plain dtype -> what they are.
        objects: Everything else -> where its pickle lies.
        paths: Where each lay in what was saved.
    """

    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    chunks: dict[str, tuple[Chunk, ...]] = field(default_factory=dict)
    opaque: dict[str, str] = field(default_factory=dict)
    objects: dict[str, Stretch] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)


def saved_in(contents: object) -> Saved:
    """Return what a record of torch's `Metadata` says.

    Raises:
        BrokenFileError: It is none, or contradicts itself.
    """
    fields = _fields(contents, "Metadata")
    places = _places(fields.get("storage_data"))
    paths = fields.get("planner_data")
    saved = Saved()
    for name, entry in _dict(fields.get("state_dict_metadata"), "state_dict_metadata").items():
        if not isinstance(name, str):
            raise BrokenFileError(f"an entry whose name is not a text: {describe(name, 80)}")
        saved.paths[name] = _path(name, paths)
        if isinstance(entry, Opaque) and _class(entry) == "BytesStorageMetadata":
            saved.objects[name] = _place(places, name, None)
        else:
            _add_tensor(saved, name, _fields(entry, "TensorStorageMetadata"), places)
    return saved


def merged(parts: Iterable[Saved]) -> Saved:
    """Put together what ranks say that each wrote metadata of its own (`dcp.save(…, use_collectives=False)`).

    Raises:
        BrokenFileError: Two of them give one name to different tensors.
    """
    whole = Saved()
    boxes: dict[str, dict[Sizes, Chunk]] = {}
    for part in parts:
        for name, info in part.tensors.items():
            if whole.tensors.setdefault(name, info) != info:
                raise BrokenFileError(f"two ranks have different tensors under {describe(name, 200)}")
            known = boxes.setdefault(name, {})
            for chunk in part.chunks[name]:  # What all ranks have, each of them wrote.
                known.setdefault(chunk.offsets, chunk)
        whole.opaque.update(part.opaque)
        whole.objects.update(part.objects)
        whole.paths.update(part.paths)
    whole.chunks.update((name, tuple(found.values())) for name, found in boxes.items())
    return whole


def _add_tensor(saved: Saved, name: str, fields: Mapping[object, object], places: Places) -> None:
    """Read one tensor, and check that its chunks lie in it and have bytes enough."""
    shape, dtype = _sizes(fields.get("size"), name), _dtype(fields.get("properties"), name)
    if not is_addressable(shape):
        raise BrokenFileError(f"{describe(name, 200)} has sizes that no memory has: {describe(shape)}")
    size = ITEM_SIZES.get(dtype)
    if size is None or dtype.startswith("q"):
        saved.opaque[name] = f"a tensor {describe(shape)} of dtype {dtype}"
        return
    chunks = fields.get("chunks")
    if not isinstance(chunks, list):
        raise BrokenFileError(f"{describe(name, 200)} has {describe(chunks, 80)} for chunks")
    found = []
    for each in chunks:
        box = _fields(each, "ChunkStorageMetadata")
        offsets, sizes = _sizes(box.get("offsets"), name), _sizes(box.get("sizes"), name)
        if not len(offsets) == len(sizes) == len(shape) or any(
            start + length > whole for start, length, whole in zip(offsets, sizes, shape, strict=True)
        ):
            raise BrokenFileError(
                f"a chunk {describe(sizes)} at {describe(offsets)} outside {describe(name, 200)}, a tensor"
                f" {describe(shape)}"
            )
        place = _place(places, name, offsets)
        if not place.transforms and math.prod(sizes) * size > place.length:
            raise BrokenFileError(
                f"{place.length} bytes in {describe(place.file, 80)} for a chunk {describe(sizes)} {dtype} of"
                f" {describe(name, 200)}"
            )
        found.append(Chunk(offsets, sizes, place))
    saved.tensors[name], saved.chunks[name] = TensorInfo(shape, dtype), tuple(found)


def _places(storage: object) -> Places:
    """Return where each chunk lies, by name and offsets, as torch compares them."""
    places: Places = {}
    for key, value in _dict(storage, "storage_data").items():
        index = _fields(key.value if isinstance(key, Key) else key, "MetadataIndex")
        name, offsets = index.get("fqn"), index.get("offset")
        if not isinstance(name, str):
            raise BrokenFileError(f"a chunk whose name is not a text: {describe(name, 80)}")
        place = name, None if offsets is None else _sizes(offsets, name)
        if place in places:
            raise BrokenFileError(f"a chunk of {describe(name, 200)} listed twice, at {describe(offsets)}")
        places[place] = _stretch(_fields(value, "_StorageInfo"), name)
    return places


def _stretch(fields: Mapping[object, object], name: str) -> Stretch:
    file, offset, length = fields.get("relative_path"), fields.get("offset"), fields.get("length")
    transforms = fields.get("transform_descriptors") or ()
    if not isinstance(file, str) or type(offset) is not int or type(length) is not int or min(offset, length) < 0:
        raise BrokenFileError(f"{describe(dict(fields))} for where {describe(name, 200)} lies")
    # A chunk lies in this directory: the metadata must not lead to other files.
    if not file or file.startswith("/") or "\\" in file or ":" in file or {"", ".", ".."} & set(file.split("/")):
        raise BrokenFileError(f"{describe(name, 200)} in {describe(file, 200)}, which is no file of this directory")
    if not isinstance(transforms, (list, tuple)):
        raise BrokenFileError(f"{describe(transforms, 80)} for what {describe(name, 200)} went through")
    return Stretch(file, offset, length, tuple(describe(each, 60) for each in transforms))


def _place(places: Places, name: str, offsets: Sizes | None) -> Stretch:
    place = places.get((name, offsets))
    if place is None:
        what = "it" if offsets is None else f"its chunk at {describe(offsets)}"
        raise BrokenFileError(f"the name {describe(name, 200)}, and not where {what} lies")
    return place


def _path(name: str, paths: object) -> Path:
    """Return where an entry lay: its name alone where nothing says it (`DefaultSavePlanner`, `flatten_state_dict`)."""
    path = paths.get(name) if isinstance(paths, dict) else None
    if isinstance(path, tuple) and 0 < len(path) <= _DEEPEST and {*map(type, path)} <= {str, int}:
        return path
    return (name,)


def _dtype(properties: object, name: str) -> str:
    """Return the dtype: the first of the fields that torch's `TensorProperties` hands on."""
    if isinstance(properties, Opaque) and _class(properties) == "TensorProperties":
        match properties.state:
            case (Opaque(args=None, qualname=dtype), *_) | {"dtype": Opaque(args=None, qualname=dtype)}:
                return dtype.removeprefix("torch.")
    raise BrokenFileError(f"{describe(properties, 80)} for the dtype of {describe(name, 200)}")


def _sizes(value: object, name: str) -> Sizes:
    if isinstance(value, tuple) and {*map(type, value)} <= {int} and min(value, default=0) >= 0:
        if len(value) <= MOST_DIMENSIONS:
            return value
        raise BrokenFileError(f"{describe(name, 200)} has {len(value)} dimensions")
    raise BrokenFileError(f"{describe(value, 80)} for sizes of {describe(name, 200)}")


def _fields(value: object, kind: str) -> Mapping[object, object]:
    """Return the attributes of an object of one of torch's classes."""
    if isinstance(value, Opaque) and _class(value) == kind and isinstance(value.state, dict):
        return value.state
    raise BrokenFileError(f"{describe(value, 80)} where a `{kind}` should be")


def _class(value: Opaque) -> str:
    return value.qualname.rpartition(".")[2]


def _dict(value: object, what: str) -> Mapping[object, object]:
    if isinstance(value, dict):
        return value
    raise BrokenFileError(f"{describe(value, 80)} for `{what}`")
