"""torch's zip format, since torch 1.6: a pickle, `data.pkl`, and each storage as a record of its own, `data/N`.

Source: `torch.serialization._save` and `_load`. Of the records only `data.pkl` is read.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import (
    AmbiguousArchiveError,
    BrokenFileError,
    CheckpointError,
    NotMineError,
    big_endian,
)
from pytest_lora_ckpt.checkpoint.formats.zip_index import ZipIndex, read_index
from pytest_lora_ckpt.checkpoint.index import FileIndex, Piece, TensorSource, read_bytes
from pytest_lora_ckpt.checkpoint.limits import MAX_CHECKSUMMED, OverLimitError
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from pytest_lora_ckpt.checkpoint.pickle.scan import globals_of, scan_between
from pytest_lora_ckpt.checkpoint.pickle.torch_types import Storage, TorchCalls, span
from pytest_lora_ckpt.tensors import ITEM_SIZES, TensorInfo
from pytest_lora_ckpt.vocabulary.formats import TORCH_RECORDS, TORCHSCRIPT_RECORDS
from pytest_lora_ckpt.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.formats.zip_directory import Entry
    from pytest_lora_ckpt.checkpoint.index import Stretch
    from pytest_lora_ckpt.checkpoint.pickle.globals import Global
    from pytest_lora_ckpt.checkpoint.window import Window

NAME = "torch zip"
EXPECTS = "a zip archive that holds `data.pkl`"

_NOT_COMPARED = (
    "over a network, the header of a tensor's record is compared with the archive's directory when the tensor is read"
)
_SMALL = 4096  # Bytes of a record that no tensor lies in and that does not begin as a pickle: a version, a byte order.


def accepts(head: bytes, name: str) -> bool:  # noqa: ARG001 - All formats are asked in the same way.
    """See `Format`."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def index(window: Window) -> FileIndex:
    """See `Format`: read the directory, the records' headers, and the pickle."""
    archive = read_index(window, partial(_check_names, window.origin))
    prefix = next(iter(archive.records)).partition("/")[0] + "/"
    _refuse_packed(archive, prefix)
    start, length = archive.stretch(f"{prefix}data.pkl")
    window.expect([(start, length + _SMALL)])  # Small records follow.
    contents = archive.read(f"{prefix}data.pkl", window.budget.limits.pickle_bytes)
    order = archive.read(f"{prefix}byteorder", 16) if f"{prefix}byteorder" in archive.records else b"little"
    if order not in {b"little", b"big"}:
        raise BrokenFileError(f"the unknown byte order {order!r}")
    calls = TorchCalls(partial(_check, archive, prefix))
    name = f"{prefix}data.pkl"
    # Time and memory are allowed for the bytes of the file, not for what they unpack to.
    window.budget.grant(archive.records[name].packed - len(contents))
    machine = PickleMachine(contents, name, builders=calls.builders, persistent=calls.persistent, budget=window.budget)
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
        globals=(
            *globals_of(machine, made, window.budget),
            *_hidden(archive, prefix, calls, machine),
        ),
        notes=(*calls.notes, *([_NOT_COMPARED] if archive.unread else [])),
    )


def _refuse_packed(archive: ZipIndex, prefix: str) -> None:
    """Refuse packed storages: torch writes none, and its two ways of reading find different values in them."""
    for name, record in archive.records.items():
        if record.deflated and record.size and name.startswith(f"{prefix}data/"):
            raise AmbiguousArchiveError(
                "its tensors are compressed: `torch.load` unpacks them, and `torch.load(…, mmap=True)`, as transformers"
                " calls it, takes the packed bytes for the values"
            )


def _hidden(archive: ZipIndex, prefix: str, calls: TorchCalls, read: PickleMachine) -> Iterator[Global]:
    """List what pickles ask for that torch does not load: behind its own, and in records that hold no tensor."""
    budget = archive.window.budget
    if read.position < len(read.data):
        yield from scan_between(read.data, f"{prefix}data.pkl", budget, start=read.position)
    for name, record in archive.records.items():
        if name != f"{prefix}data.pkl" and name.removeprefix(f"{prefix}data/") not in calls.storages:
            window, start = archive.record(name)
            data = window.read(start, min(record.size, _SMALL))
            if data.startswith(b"\x80") and record.size > _SMALL:
                data = window.read(start, min(record.size, budget.limits.pickle_bytes))
            yield from scan_between(data, name, budget)


def _check(archive: ZipIndex, prefix: str, storage: Storage) -> None:
    """Compare a storage that the pickle names with the record that holds it."""
    record = archive.records.get(f"{prefix}data/{storage.name}")
    if record is None:
        raise BrokenFileError(f"it names {storage}, for which the archive has no record")
    if storage.nbytes is not None and storage.nbytes != record.size:
        raise BrokenFileError(f"{storage} needs {storage.nbytes} bytes, its record has {record.size}")


@dataclass(frozen=True, slots=True, eq=False)
class ZipSource(TensorSource):
    """Finds a tensor's record."""

    archive: ZipIndex
    prefix: str
    order: bytes

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:  # noqa: ARG002 - Its storage says it.
        """See `TensorSource`."""
        size = ITEM_SIZES[info.dtype]
        if self.order != b"little" and size > 1:
            raise big_endian(self.archive.window.origin, f"byte order {self.order!r}")
        window, start = self._record(info)
        return (Piece(window, start + info.storage_offset * size, span(info.shape, info.stride) * size),)

    def _record(self, info: TensorInfo) -> tuple[Window, int]:
        """Return the record of a tensor's storage; where its header was not read before, it may be another one."""
        try:
            return self.archive.record(f"{self.prefix}data/{info.storage}")
        except BrokenFileError as error:
            raise CheckpointError(
                "ambiguous-archive" if isinstance(error, AmbiguousArchiveError) else "damaged",
                self.archive.window.origin,
                expected="records as the archive's directory has them",
                found=str(error),
                remedy="Save it again with `torch.save`, or take it from its source again.",
            ) from error

    def stretches(self, key: str, info: TensorInfo) -> Iterator[Stretch]:  # noqa: ARG002 - As above.
        """See `TensorSource`."""
        yield self.archive.window, *self.archive.stretch(f"{self.prefix}data/{info.storage}")

    def checksum(self, key: str, info: TensorInfo) -> int | None:  # noqa: ARG002 - As above.
        """See `TensorSource`."""
        record = self.archive.records[f"{self.prefix}data/{info.storage}"]
        is_whole = info.stride is None and info.storage_offset == 0 and info.nbytes == record.size
        return record.crc or None if is_whole else None

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
            window, start = self._record(infos[sharing[0]])
            data = read_bytes(TensorInfo((record.size,), "uint8"), (Piece(window, start, record.size),))
            if zlib.crc32(data) != record.crc:
                damaged += sharing
        return damaged


def _check_names(origin: str, entries: Sequence[Entry]) -> None:
    """Check that an archive has what torch writes, in one folder, and nothing else.

    Raises:
        NotMineError: There is no `data.pkl`.
        CheckpointError: A TorchScript archive.
        AmbiguousArchiveError: Not all is torch's: its reader ignores case, and takes the folder of the first record.
    """
    if not any(entry.name.partition(b"/")[2].lower() == b"data.pkl" for entry in entries):
        shown = listed((entry.shown for entry in entries), 3) if entries else "no records"
        raise NotMineError(f"a zip archive without `data.pkl` ({shown})")
    folder = entries[0].name.partition(b"/")[0] + b"/"
    known, inside = TORCH_RECORDS.fullmatch, len(folder)
    others = [entry for entry in entries if not (entry.name.startswith(folder) and known(entry.name, inside))]
    if any(entry.name.partition(b"/")[2].startswith(TORCHSCRIPT_RECORDS) for entry in others):
        raise CheckpointError(
            "torchscript",
            origin,
            expected="a checkpoint, as `torch.save` writes it",
            found="a TorchScript archive, as `torch.jit.save` writes it: a program, with weights in it",
            remedy="Save the state dict of the original model: `torch.save(model.state_dict(), path)`.",
        )
    for entry in others:
        if not entry.name.startswith(folder):
            raise AmbiguousArchiveError(f"its records lie in several folders, {entry.shown} in another than the first")
        raise AmbiguousArchiveError(f"record {entry.shown} is not among those that `torch.save` writes")
