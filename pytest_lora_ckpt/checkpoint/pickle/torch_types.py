"""What torch's names mean in a pickle: storages and tensors, as `TensorInfo`.

Sources: `torch/_utils.py`, `torch/_tensor.py`, `torch/storage.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.index import is_addressable
from pytest_lora_ckpt.checkpoint.pickle.inert import Builder, Opaque, UnfitError, describe
from pytest_lora_ckpt.tensors import ITEM_SIZES, MOST_DIMENSIONS, TensorInfo
from pytest_lora_ckpt.vocabulary.formats import STORAGE_DTYPES, TENSOR_CLASSES
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


_TOO_LARGE = 1 << 63


@dataclass(slots=True, eq=False)
class Storage:
    """Memory that tensors share: `numel` elements of `dtype`, `shift` of them into the record called `name`."""

    name: str
    dtype: str
    numel: int
    shift: int = 0

    def __str__(self) -> str:
        """Say which storage it is, in a few words whatever the file calls it."""
        return f"storage {describe(self.name, 60)} of {describe(self.numel, 40)} {printable(self.dtype, 40)}"

    @property
    def nbytes(self) -> int | None:
        """Bytes from the start of the record to the storage's end; None for a dtype that is not known here."""
        size = ITEM_SIZES.get(self.dtype)
        return None if size is None else (self.shift + self.numel) * size


class TorchCalls:
    """The calls by which torch's pickles make tensors.

    Args:
        check: Called once for each storage; raises `BrokenFileError` if the file does not hold it.

    Attributes:
        storages: name -> the storage as first named.
        subclasses: Classes of tensors beyond torch's own, which were read as plain tensors.
    """

    def __init__(self, check: Callable[[Storage], None] = lambda _: None) -> None:
        self._check = check
        self.storages: dict[str, Storage] = {}
        self._views: dict[str, Storage] = {}
        self.subclasses: set[str] = set()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth showing."""
        names = (printable(name, 100) for name in sorted(self.subclasses))
        return tuple(f"tensors of class {name} are read as plain tensors" for name in names)

    @property
    def builders(self) -> Mapping[str, Builder]:
        """Qualified name -> what to make of its arguments."""
        return {
            "torch.Size": _size,
            **{f"torch._utils.{name}": builder for name, builder in _TENSORS.items()},
            **{
                f"torch.{module}._rebuild_from_type{version}": self._from_type
                for module in ("_tensor", "tensor")
                for version in ("", "_v2")
            },
        }

    def persistent(self, saved: tuple[object, ...]) -> object:
        """Return the storage that a persistent id describes.

        Raises:
            BrokenFileError: It is not a storage, the file does not hold it, or it has two descriptions.
        """
        match saved:  # Few steps: a file has as many of these as tensors.
            case ("storage" | b"storage", kind, name, device, numel, *view) if (
                type(kind) is Opaque and type(name) is str and type(numel) is int and numel >= 0
            ):
                dtype = _storage_dtype(kind.qualname)
                known = self.storages.get(name)
                if known is None:
                    known = self.storages[name] = Storage(name, dtype, numel)
                    self._check(known)
                elif (known.dtype, known.numel) != (dtype, numel) and (numel or known.numel):
                    # torch takes the first description for both; it writes no second one.
                    raise BrokenFileError(f"storage {describe(name, 60)} is described twice, differently")
                if device in {"meta", b"meta"}:
                    raise BrokenFileError(f"{known} is for the meta device: torch gives it no values")
                return self._view(known, *view)
            case ("module" | b"module", Opaque() as kind, _, _):
                return kind  # The legacy format keeps the source code of a module's class with it.
        raise BrokenFileError(f"a persistent id that is not a storage: {describe(saved)}")

    def _view(self, storage: Storage, view: object = None) -> Storage:
        """Return the part of a storage that the legacy format may name; torch keeps it by that name, as a storage."""
        if storage.name in self._views:
            raise BrokenFileError(f"storage {describe(storage.name, 60)} is described twice, once as a part of one")
        match view:
            case None:
                return storage
            case (str() as name, int() as offset, int() as numel) if offset >= 0 <= numel:
                part = Storage(storage.name, storage.dtype, numel, storage.shift + offset)
                if offset + numel <= storage.numel and name not in self.storages:
                    known = self._views.setdefault(name, part)
                    if (known.name, known.dtype, known.numel, known.shift) == (
                        part.name,
                        part.dtype,
                        numel,
                        part.shift,
                    ):
                        return part
        raise BrokenFileError(
            f"a view {describe(view)} outside storage {describe(storage.name, 60)}, or twice, differently"
        )

    def _from_type(self, arguments: tuple[object, ...]) -> object:
        """Make a tensor of a subclass: `(function, class, its arguments, state)`."""
        match arguments:
            case (Opaque() as function, Opaque() as kind, tuple() as inner, _) if kind.args is None:
                module, _, name = function.qualname.rpartition(".")
                builder = _TENSORS.get(name) if module == "torch._utils" else None
                if builder is not None and function.args is None:
                    made = builder(inner)
                    if kind.qualname not in TENSOR_CLASSES:
                        self.subclasses.add(kind.qualname)
                    return made
        raise UnfitError


@lru_cache(maxsize=64)
def _storage_dtype(qualname: str) -> str:
    return STORAGE_DTYPES.get(qualname.rpartition(".")[2], qualname)


def _size(arguments: tuple[object, ...]) -> tuple[object, ...]:
    match arguments:
        case (tuple() | list() as sizes,):
            return tuple(sizes)
    raise UnfitError


def _first(arguments: tuple[object, ...]) -> TensorInfo:
    """Make a `Parameter`: the tensor comes first."""
    if arguments and isinstance(arguments[0], TensorInfo):
        return arguments[0]
    raise UnfitError


def _tensor(arguments: tuple[object, ...]) -> TensorInfo:
    """Make a tensor from `(storage, offset, size, stride[, requires_grad, hooks[, metadata]])`."""
    if len(arguments) > 6 and arguments[6]:  # noqa: PLR2004 - The seventh.
        raise UnfitError  # A conjugate or negative view: its bytes are not its values.
    return _placed(arguments[:4], None)


def _tensor_v3(arguments: tuple[object, ...]) -> TensorInfo:
    """Make a tensor from `(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`."""
    match arguments:
        case (_, _, _, _, _, _, Opaque(qualname=name)) | (_, _, _, _, _, _, Opaque(qualname=name), None | {}):
            return _placed(arguments[:4], name.removeprefix("torch."))
    raise UnfitError


_TENSORS: Mapping[str, Builder] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": _first,
}


def _placed(arguments: tuple[object, ...], dtype: str | None) -> TensorInfo:
    """Return what is known of a tensor after checking that it lies inside its storage."""
    if len(arguments) != 4:  # noqa: PLR2004 - Storage, offset, size, stride.
        raise UnfitError
    storage, offset, shape, stride = arguments
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)):
        raise UnfitError
    if len(shape) != len(stride) or set(map(type, (offset, *shape, *stride))) != {int}:
        raise UnfitError
    size = ITEM_SIZES.get(dtype or storage.dtype)
    if size is None:
        raise UnfitError
    numel, covered, kept = _geometry(shape, stride)
    offset += storage.shift * ITEM_SIZES[storage.dtype] // size if storage.shift else 0  # type: ignore[operator]
    if offset < 0 or (numel and (offset + covered) * size > (storage.nbytes or 0)):
        raise BrokenFileError(
            f"a tensor of shape {describe(shape)} reaches outside {storage}, of {storage.nbytes} bytes"
        )
    return TensorInfo(shape, dtype or storage.dtype, numel * size, kept, storage.name, offset)


@lru_cache(maxsize=1024)
def _geometry(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, int, tuple[int, ...] | None]:
    """Return the number of elements, how many are covered, and the stride where it says something.

    A checkpoint has thousands of tensors and few shapes, so each is worked out once.
    """
    if len(shape) > MOST_DIMENSIONS:
        raise BrokenFileError(f"a tensor of {len(shape)} dimensions")
    if shape and max(*shape, *stride) >= _TOO_LARGE:
        raise BrokenFileError(f"a tensor with a size or stride beyond torch's: {describe(shape)} {describe(stride)}")
    if shape and min(*shape, *stride) < 0:
        raise BrokenFileError(f"a tensor with a negative size or stride: {describe(shape)} {describe(stride)}")
    if not is_addressable(shape, stride):
        raise BrokenFileError(f"a tensor with sizes that no memory has: {describe(shape)} {describe(stride)}")
    return math.prod(shape), span(shape, stride), _strided(shape, stride)


def span(shape: tuple[int, ...], stride: tuple[int, ...] | None) -> int:
    """Return from its first to its last element, how many elements a tensor covers.

    Example:
        >>> span((2, 3), (1, 2)), span((2, 3), (4, 1)), span((2, 3), None)
        (6, 7, 6)
    """
    if stride is None or 0 in shape:
        return math.prod(shape)
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _strided(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the stride where it says something, None where the tensor is contiguous (as torch defines it)."""
    step = 1
    for size, actual in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and actual != step:
            return None if 0 in shape else stride
        step *= size
    return None
