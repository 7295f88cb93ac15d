"""torch's zip format, since torch 1.6: a pickle, `data.pkl`, and each storage as a record of its own, `data/N`.

Source: `torch.serialization._save` and `_load`. Only the archive's directory and the pickle are read.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, CheckpointError, NotMineError, big_endian
from pytest_lora_ckpt.checkpoint.formats.zip_index import ZipIndex, read_index
from pytest_lora_ckpt.checkpoint.index import FileIndex, Piece, read_bytes
from pytest_lora_ckpt.checkpoint.limits import MAX_CHECKSUMMED, OverLimitError
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from pytest_lora_ckpt.checkpoint.pickle.torch_types import Storage, TorchCalls, span
from pytest_lora_ckpt.tensors import ITEM_SIZES, TensorInfo
from pytest_lora_ckpt.wording import listed, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.checkpoint.window import Window

NAME = "torch zip"
EXPECTS = "a zip archive that holds `data.pkl`"


def accepts(head: bytes, name: str) -> bool:  # noqa: ARG001 - All formats are asked in the same way.
    """See `Format`."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def index(window: Window) -> FileIndex:
    """See `Format`: read the directory and the pickle."""
    archive = read_index(window)
    prefix = _prefix(archive)
    contents = archive.read(f"{prefix}data.pkl", window.budget.limits.pickle_bytes)
    order = archive.read(f"{prefix}byteorder", 16) if f"{prefix}byteorder" in archive.records else b"little"
    calls = TorchCalls(partial(_check, archive, prefix))
    name = f"{prefix}data.pkl"
    machine = PickleMachine(contents, name, builders=calls.builders, persistent=calls.persistent)
    try:
        with machine.ledger.on_error():
            made = machine.load()
    except OverLimitError:
        raise
    except BrokenFileError as error:  # The record of the pickle is all there: it is not the file that ends early.
        raise BrokenFileError(f"`data.pkl`: {error}", globals=error.globals) from error
    return FileIndex(
        format=NAME,
        window=window,
        contents=made,
        source=ZipSource(archive, prefix, order),
        globals=machine.ledger.globals(),
        notes=calls.notes,
    )


def _check(archive: ZipIndex, prefix: str, storage: Storage) -> None:
    """Compare a storage that the pickle names with the record that holds it."""
    record = archive.records.get(f"{prefix}data/{storage.name}")
    if record is None:
        raise BrokenFileError(f"it names {storage}, for which the archive has no record")
    if storage.nbytes is not None and storage.nbytes != record.size:
        raise BrokenFileError(f"{storage} needs {storage.nbytes} bytes, its record has {record.size}")


@dataclass(frozen=True, slots=True, eq=False)
class ZipSource:
    """Finds a tensor's record; its header is read only then."""

    archive: ZipIndex
    prefix: str
    order: bytes

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:
        """See `TensorSource`."""
        size = ITEM_SIZES[info.dtype]
        if self.order != b"little" and size > 1:
            raise big_endian(self.archive.window.origin, f"byte order {self.order!r}")
        window, start = self._record(key, info)
        return (Piece(window, start + info.storage_offset * size, span(info.shape, info.stride) * size),)

    def damaged(self, infos: Mapping[str, TensorInfo]) -> list[str]:
        """See `TensorSource`. A record that is far bigger than the tensors asked for in it is not read."""
        by_storage: dict[object, list[str]] = defaultdict(list)
        for key, info in infos.items():
            by_storage[info.storage].append(key)
        damaged: list[str] = []
        for storage, sharing in by_storage.items():
            record = self.archive.records[f"{self.prefix}data/{storage}"]
            if not record.crc or record.size > MAX_CHECKSUMMED * sum(infos[key].nbytes for key in sharing):
                continue
            window, start = self._record(sharing[0], infos[sharing[0]])
            data = read_bytes(TensorInfo((record.size,), "uint8"), (Piece(window, start, record.size),))
            if zlib.crc32(data) != record.crc:
                damaged += sharing
        return damaged

    def _record(self, key: str, info: TensorInfo) -> tuple[Window, int]:
        """Return the window that holds the tensor's storage, and where in it the storage begins."""
        try:
            return self.archive.record(f"{self.prefix}data/{info.storage}")
        except (OSError, BrokenFileError) as error:
            raise CheckpointError(
                "changed",
                self.archive.window.origin,
                expected=f"the record of {key!r}, as when the checkpoint was opened",
                found=str(error),
                remedy="Open the checkpoint again once nothing writes to it any more.",
            ) from error


def _prefix(index: ZipIndex) -> str:
    """Return the folder inside the archive that torch puts everything in.

    Raises:
        NotMineError: There is no `data.pkl`.
        CheckpointError: A TorchScript archive.
    """
    found = [name for name in index.records if name.endswith("/data.pkl") and name.count("/") == 1]
    if not found:
        shown = listed((printable(name, 60) for name in index.records), 3) if index.records else "no records"
        raise NotMineError(f"a zip archive without `data.pkl` ({shown})")
    prefix = found[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in index.records or any(name.startswith(f"{prefix}code/") for name in index.records):
        raise CheckpointError(
            "torchscript",
            index.window.origin,
            expected="a checkpoint, as `torch.save` writes it",
            found="a TorchScript archive, as `torch.jit.save` writes it: a program, with weights in it",
            remedy="Save the state dict of the original model: `torch.save(model.state_dict(), path)`.",
        )
    return prefix
