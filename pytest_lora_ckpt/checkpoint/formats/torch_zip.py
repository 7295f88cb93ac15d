"""torch's zip format, since torch 1.6: a pickle, `data.pkl`, and each storage as a record of its own, `data/N`.

Source: `torch.serialization._save` and `_load`. Only the archive's directory and the pickle are read, and of the pickle
at most `MAX_PICKLE` bytes (1 GiB, some three million tensors): a bigger one is an error.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import CheckpointError, NotMineError
from pytest_lora_ckpt.checkpoint.formats.zip_index import BrokenZipError, Record, ZipIndex, read_index
from pytest_lora_ckpt.checkpoint.index import Extent, read_bytes
from pytest_lora_ckpt.checkpoint.layouts.torch_envelope import make_checkpoint
from pytest_lora_ckpt.checkpoint.pickle.machine import MAX_PICKLE, PickleMachine
from pytest_lora_ckpt.checkpoint.pickle.state import BrokenPickleError
from pytest_lora_ckpt.checkpoint.pickle.torch_types import Storage, TorchCalls, span
from pytest_lora_ckpt.tensors import ITEM_SIZES, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint

NAME = "torch zip"
EXPECTS = "a zip archive that holds `data.pkl`"

# How many times the bytes of the tensors asked for may be read for a checksum of all that lies in their record.
_MOST = 4

_COPY_AGAIN = "Copy the file again and compare its size with the original's; if that one is the same, save it again."


def accepts(head: bytes, path: Path) -> bool:  # noqa: ARG001 - Every reader is asked in the same way.
    """Say whether it begins as a zip archive does."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def read(path: Path) -> Checkpoint:
    """Read the directory and the pickle.

    Raises:
        NotMineError: A zip archive of something else.
        CheckpointError: Damaged, or without a state dict.
    """
    try:
        with path.open("rb") as file:
            index = read_index(file)
            prefix = _prefix(index, path)
            contents = index.read(file, f"{prefix}data.pkl", MAX_PICKLE)
            order = index.read(file, f"{prefix}byteorder", 16) if f"{prefix}byteorder" in index.records else b"little"
            size = file.seek(0, 2)
    except BrokenZipError as error:
        raise CheckpointError(
            "truncated" if error.truncated else "damaged",
            path,
            expected="a whole zip archive, as `torch.save` writes it",
            found=f"{error} ({path.stat().st_size} bytes)",
            remedy=_COPY_AGAIN,
        ) from error
    calls = TorchCalls(_Check(index, prefix))
    machine = PickleMachine(contents, builders=calls.builders, persistent=calls.persistent)
    try:
        made = machine.load()
    except BrokenPickleError as error:
        raise CheckpointError(
            "damaged", path, expected="a pickle of a state dict in `data.pkl`", found=str(error), remedy=_COPY_AGAIN
        ) from error
    return make_checkpoint(
        made,
        path,
        file_format=NAME,
        file_bytes=size,
        calls=calls,
        names=machine.globals,
        source=lambda infos: ZipSource(path, infos, index, prefix, order),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Check:
    """Compares each storage that the pickle names with the record that holds it."""

    index: ZipIndex
    prefix: str

    def __call__(self, storage: Storage) -> None:
        record = self.index.records.get(f"{self.prefix}data/{storage.name}")
        if record is None:
            raise BrokenPickleError(f"it names {storage}, for which the archive has no record")
        if storage.nbytes is not None and storage.nbytes != record.size:
            raise BrokenPickleError(f"{storage} needs {storage.nbytes} bytes, its record has {record.size}")


@dataclass(frozen=True, slots=True, eq=False)
class ZipSource:
    """Finds a tensor's record; its header is read only then."""

    path: Path
    infos: Mapping[str, TensorInfo]
    index: ZipIndex
    prefix: str
    order: bytes

    def locate(self, key: str) -> Extent:
        """See `TensorSource`."""
        info = self.infos[key]
        size = ITEM_SIZES[info.dtype]
        if self.order != b"little" and size > 1:
            raise CheckpointError(
                "big-endian",
                self.path,
                expected="values with the lowest byte first",
                found=f"byte order {self.order!r}: names and shapes are known, values are not",
                remedy="Load it with `torch.load`, which swaps the bytes, and save it again.",
            )
        record, start = self._record(key)
        inside = info.storage_offset * size
        length = span(info.shape, info.stride) * size
        if record.deflated:
            return Extent(self.path, start, length, record.packed, inside)
        return Extent(self.path, start + inside, length)

    def damaged(self, keys: Iterable[str]) -> list[str]:
        """See `ChecksummedSource`."""
        by_storage: dict[object, list[str]] = defaultdict(list)
        for key in keys:
            by_storage[self.infos[key].storage].append(key)
        found: list[str] = []
        for sharing in by_storage.values():
            record, start = self._record(sharing[0])
            if not record.crc or record.size > _MOST * sum(self.infos[key].nbytes for key in sharing):
                continue
            whole = Extent(self.path, start, record.size, record.packed if record.deflated else 0)
            if zlib.crc32(read_bytes(whole)) != record.crc:
                found += sharing
        return found

    def _record(self, key: str) -> tuple[Record, int]:
        """Return the record that holds this tensor, and where in the file its data begins."""
        name = f"{self.prefix}data/{self.infos[key].storage}"
        try:
            with self.path.open("rb") as file:
                return self.index.records[name], self.index.data_offset(file, name)
        except (OSError, BrokenZipError, struct.error) as error:
            raise CheckpointError(
                "changed",
                self.path,
                expected=f"the record of {key!r}, as when the checkpoint was opened",
                found=str(error),
                remedy="Open the checkpoint again once nothing writes to it any more.",
            ) from error


def _prefix(index: ZipIndex, path: Path) -> str:
    """Return the folder inside the archive that torch puts everything in.

    Raises:
        NotMineError: There is no `data.pkl`.
        CheckpointError: A TorchScript archive.
    """
    found = [name for name in index.records if name.endswith("/data.pkl") and name.count("/") == 1]
    if not found:
        shown = ", ".join(name[:60] for name in list(index.records)[:3]) or "no records"
        raise NotMineError(f"a zip archive without `data.pkl` ({shown})")
    prefix = found[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in index.records or any(name.startswith(f"{prefix}code/") for name in index.records):
        raise CheckpointError(
            "torchscript",
            path,
            expected="a checkpoint, as `torch.save` writes it",
            found="a TorchScript archive, as `torch.jit.save` writes it: a program, with weights in it",
            remedy="Save the state dict of the original model: `torch.save(model.state_dict(), path)`.",
        )
    return prefix
