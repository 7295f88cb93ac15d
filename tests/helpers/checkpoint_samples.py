"""Small tensors that cover what a checkpoint can hold, and the ways in which a file is cut or spoilt."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def every_dtype() -> dict[str, torch.Tensor]:
    """Return one small tensor of each dtype that torch saves, with different bytes in each element."""
    raw = torch.arange(64, dtype=torch.uint8)
    tensors = {
        name: raw.view(getattr(torch, name)).reshape(2, -1).clone()
        for name in (
            *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "complex64"),
            *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"),
        )
    }
    return {**tensors, "bool": torch.tensor([[True, False], [False, True]])}


def awkward() -> dict[str, torch.Tensor]:
    """Return tensors that share memory, have strides, or hold nothing."""
    base = torch.arange(60, dtype=torch.float32)
    tied = torch.arange(12, dtype=torch.bfloat16).reshape(4, 3)
    return {
        "embed_tokens.weight": tied,
        "lm_head.weight": tied,
        "half.view": base[30:].view(5, 6),
        "transposed": base[:12].view(3, 4).t(),
        "stepped": base[1:21:3],
        "expanded": base[:3].view(1, 3).expand(4, 3),
        "one.by.one": torch.ones(1, 1).t(),
        "scalar": torch.tensor(7.5),
        "empty": torch.zeros(0, 4),
        "three.d": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
    }


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Say whether two tensors have the same dtype, shape and bits."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    one, other = (tensor.contiguous().flatten() for tensor in (left, right))
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def zip_around(pickled: bytes, path: Path, records: Iterable[tuple[str, bytes]] = (), **options: int) -> Path:
    """Write a pickle as torch's zip format does, with whatever other records."""
    with zipfile.ZipFile(path, "w", **options) as archive:  # type: ignore[arg-type]
        archive.writestr("archive/data.pkl", pickled)
        for name, data in records:
            archive.writestr(f"archive/{name}", data)
    return path


def repacked(path: Path, target: Path, compression: int, **replaced: bytes) -> Path:
    """Write a torch zip file again with other packing, some records replaced (None of them a storage)."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, replaced.get(name.rpartition("/")[2], old.read(name)))
    return target


def saved(contents: object, *, legacy: bool = False, protocol: int = 2) -> bytes:
    """Return what `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(contents, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


class Call:
    """Pickles as a call of any function: the usual way to make a pickle that runs something."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.what  # type: ignore[return-value]


def protocols() -> Iterator[int]:
    """Every protocol that Python writes."""
    yield from range(pickle.HIGHEST_PROTOCOL + 1)
