"""What is known of a tensor without its data: `TensorInfo`; and a set of named ones: `KeySet`."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from pytest_lora_ckpt._garbage import no_garbage_collection

T = TypeVar("T")

MOST_DIMENSIONS = 64
"""Dimensions of a tensor: numpy has at most so many, and torch's operators too (`MAX_DIMS` of its TensorIterator)."""

# Bytes per element, by torch's name of the dtype (https://docs.pytorch.org/docs/stable/tensor_attributes.html).
ITEM_SIZES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape, dtype and place of one tensor; never its data.

    Attributes:
        shape: The sizes, outermost first, as in `torch.Tensor.shape`.
        dtype: torch's name without `torch.`: `"float32"`, `"bfloat16"`, `"int8"` …
        nbytes: Bytes of the elements (`numel x itemsize`), whatever storage they lie in.
        stride: In elements, as in `torch.Tensor.stride()`; None where contiguous or not known.
        storage: What the tensor's memory is called: equal for tensors that share it, None where not known.
        storage_offset: Where in that storage the tensor begins, in elements.

    Example:
        >>> TensorInfo((4, 32), "bfloat16").nbytes
        256
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    nbytes: int = -1
    stride: tuple[int, ...] | None = None
    storage: Hashable = None
    storage_offset: int = 0

    def __post_init__(self) -> None:
        """Work out `nbytes` where it was not given."""
        if self.nbytes < 0:
            object.__setattr__(self, "nbytes", self.numel * ITEM_SIZES.get(self.dtype, 1))

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def place(self) -> Hashable:
        """Equal for two keys exactly when they name one and the same tensor; None where not known."""
        if self.storage is None or not self.numel:
            return None
        return (self.storage, self.storage_offset, self.shape, self.stride)


class StackedPart(NamedTuple):
    """Where a tensor of an expert is in one that stacks all experts.

    Attributes:
        whole: The name of that tensor.
        number: Which segment of the expert's own name is its number.
        at: Which part of each expert's matrix it is: gate before up.
        parts: How many there are.
    """

    whole: str
    number: int
    at: int
    parts: int


class Published(Protocol):
    """How a library reads the keys of older checkpoints of its models."""

    def __call__(self, key: str) -> str:
        """Return what a key is called today."""

    def inside(self, key: str) -> Iterable[tuple[str, str]]:
        """Give what a key of a file of a model inside of this one may be called, there and in this one."""

    def part(self, key: str) -> StackedPart | None:
        """Return where the tensor of an expert is in one that stacks all experts."""


class KeySet(Mapping[str, TensorInfo]):
    """Keys with what is known of their tensors, and which keys are aliases (several keys, one tensor).

    Args:
        infos: key -> `TensorInfo`, in the order of the state dict.
        aliases: Further groups of keys that name one tensor, in addition to those seen in `TensorInfo.storage`.
        published: For the keys of a model: how its library reads the keys of an older checkpoint.

    Example:
        >>> keys = KeySet({"lm_head.weight": TensorInfo((8, 4), storage=1),
        ...                "embed_tokens.weight": TensorInfo((8, 4), storage=1)})
        >>> keys.aliases
        (('embed_tokens.weight', 'lm_head.weight'),)
    """

    __slots__ = ("_derived", "_infos", "aliases", "published")

    def __init__(
        self,
        infos: Mapping[str, TensorInfo],
        aliases: Iterable[Iterable[str]] = (),
        *,
        published: Published | None = None,
    ) -> None:
        self.published = published
        self._infos = dict(infos)
        self._derived: dict[Callable[[KeySet], Any], Any] = {}
        self.aliases: tuple[tuple[str, ...], ...] = _alias_groups(self._infos, aliases)

    def __getitem__(self, key: str) -> TensorInfo:
        return self._infos[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __contains__(self, key: object) -> bool:
        return key in self._infos

    # Mapping's own views ask for one key at a time; these are ten times as fast.
    def keys(self) -> KeysView[str]:
        """Return the keys in the order of the state dict."""
        return self._infos.keys()

    def values(self) -> ValuesView[TensorInfo]:
        """Return what is known of each tensor, in the order of the state dict."""
        return self._infos.values()

    def items(self) -> ItemsView[str, TensorInfo]:
        """Return the keys with what is known of their tensors, in the order of the state dict."""
        return self._infos.items()

    def __repr__(self) -> str:
        return f"KeySet({len(self)} keys, {self.nbytes} bytes)"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by key."""
        return {key: info.shape for key, info in self._infos.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, each tensor counted once however many keys name it."""
        return self.derived(_count_bytes)

    def derived(self, make: Callable[[KeySet], T]) -> T:
        """Return `make(self)`, worked out once: the parsed keys, templates and pairs of this key set are kept with it.

        Example:
            >>> def count(keys):
            ...     print("counting")
            ...     return len(keys)
            >>> keys = KeySet({"a.weight": TensorInfo((2, 2))})
            >>> keys.derived(count) + keys.derived(count)
            counting
            2
        """
        if make not in self._derived:
            with no_garbage_collection():
                self._derived[make] = make(self)
        value: T = self._derived[make]
        return value

    def alias_of(self) -> dict[str, tuple[str, ...]]:
        """Every key that has another name -> all names of that tensor, sorted."""
        return {key: group for group in self.aliases for key in group}

    def also_named(self, is_there: Callable[[str], bool]) -> set[str]:
        """Return all names of the tensors that have several, of which one is there.

        Example:
            >>> keys = KeySet({"a": TensorInfo((2,)), "b": TensorInfo((2,)), "c": TensorInfo((2,))}, [("a", "b")])
            >>> sorted(keys.also_named({"a", "c"}.__contains__))
            ['a', 'b']
        """
        return {name for group in self.aliases if any(map(is_there, group)) for name in group}


def _count_bytes(keys: KeySet) -> int:
    again = sum(keys[key].nbytes for names in _of_one_place(keys) for key in names[1:])
    return sum(info.nbytes for info in keys.values()) - again


def _of_one_place(infos: Mapping[str, TensorInfo]) -> list[list[str]]:
    """Group the keys that name one tensor.

    Places are compared as texts: a file could choose numbers such that very many tuples of them have one hash.
    """
    by_storage: dict[Hashable, list[str]] = {}
    for key, info in infos.items():
        if info.storage is not None:
            by_storage.setdefault(info.storage, []).append(key)
    groups: list[list[str]] = []
    for sharing in by_storage.values():
        by_place: dict[str, list[str]] = {}
        for key in sharing if len(sharing) > 1 else ():
            if (place := infos[key].place) is not None:
                by_place.setdefault(str(place), []).append(key)
        groups += (names for names in by_place.values() if len(names) > 1)
    return groups


def _alias_groups(infos: Mapping[str, TensorInfo], given: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    """Group keys by place, then join the groups that were given."""
    group_of: dict[str, set[str]] = {}
    for names in (*_of_one_place(infos), *given):
        groups = {id(group): group for name in names if name in infos for group in [group_of.setdefault(name, {name})]}
        # The smaller groups go into the largest one: so each key is moved a few times, however many groups there are.
        largest, *others = sorted(groups.values(), key=len, reverse=True) or [set[str]()]
        for group in others:
            largest |= group
            group_of.update(dict.fromkeys(group, largest))
    distinct = {id(group): group for group in group_of.values()}
    return tuple(sorted(tuple(sorted(group)) for group in distinct.values() if len(group) > 1))
