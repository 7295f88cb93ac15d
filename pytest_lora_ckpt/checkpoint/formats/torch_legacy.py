"""torch's format before 1.6: five pickles, then the storages, each after its number of elements.

Source: `torch.serialization._legacy_save` and `_legacy_load`. Nothing but the pickles and those numbers is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import AmbiguousArchiveError, BrokenFileError, big_endian
from pytest_lora_ckpt.checkpoint.index import FileIndex, Piece, TensorSource
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from pytest_lora_ckpt.checkpoint.pickle.scan import globals_of, scan_between
from pytest_lora_ckpt.checkpoint.pickle.torch_types import TorchCalls, span
from pytest_lora_ckpt.tensors import ITEM_SIZES, TensorInfo
from pytest_lora_ckpt.vocabulary.formats import LEGACY_MAGIC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.checkpoint.window import Window

NAME = "torch legacy"
EXPECTS = "a pickle of torch's magic number"

_PROTOCOL = 1001
_MAGIC_SPELLINGS = (b"\x8a\n" + LEGACY_MAGIC.to_bytes(10, "little"), b"L%dL\n" % LEGACY_MAGIC)
_MAGIC_WITHIN = 48
_COUNT = 8
_TAR_HEADER = 512
_FIRST = 1 << 20  # Bytes of the beginning that are tried first: the pickles of most checkpoints end in them.


def accepts(head: bytes, name: str) -> bool:  # noqa: ARG001 - All formats are asked in the same way.
    """See `Format`: the magic number stands at the beginning, in any pickle protocol."""
    return any(spelling in head[:_MAGIC_WITHIN] for spelling in _MAGIC_SPELLINGS)


def index(window: Window) -> FileIndex:
    """See `Format`: read the pickles, and where each storage lies."""
    if _is_tar(window.read(0, _TAR_HEADER)):
        raise AmbiguousArchiveError("it is a tar archive as well, as which `torch.load` tries to read it first")
    machine, calls, (system, contents, names) = _pickles(window)
    with machine.ledger.on_error():
        starts, end = _storages(window, names, calls, machine.position)
    behind = window.read(end, min(window.length - end, window.budget.limits.pickle_bytes))
    asked = globals_of(machine, contents, window.budget)
    return FileIndex(
        format=NAME,
        window=window,
        contents=contents,
        source=LegacySource(window, starts, isinstance(system, dict) and system.get("little_endian") is False),
        globals=(*asked, *(scan_between(behind, "", window.budget) if behind else ())),
        notes=calls.notes,
    )


def _is_tar(head: bytes) -> bool:
    """Whether the checksum of a tar header is right, by which alone `tarfile` knows one."""
    import tarfile  # Few checkpoints are of this format.

    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _pickles(window: Window) -> tuple[PickleMachine, TorchCalls, tuple[object, object, object]]:
    """Read the pickles. Nothing says how long they are, so more is read as long as they seem cut off."""
    size, most = _FIRST, min(window.length, window.budget.limits.pickle_bytes)
    while True:
        calls = TorchCalls()
        machine = PickleMachine(
            window.read(0, size), builders=calls.builders, persistent=calls.persistent, budget=window.budget
        )
        try:
            with machine.ledger.on_error():
                _expect(machine, LEGACY_MAGIC, "magic number")
                _expect(machine, _PROTOCOL, "version")
                return machine, calls, (machine.load(), machine.load(), machine.load())
        except BrokenFileError as error:
            if not error.truncated or size >= most:
                raise
            size = min(8 * size, most)


def _expect(machine: PickleMachine, number: int, what: str) -> None:
    found = machine.load()
    if found != number:
        raise BrokenFileError(f"{describe(found, 40)} instead of torch's {what} {number}")


def _storages(window: Window, names: object, calls: TorchCalls, position: int) -> tuple[dict[str, int], int]:
    """Return where each storage's bytes begin, and where the last ends, after checking that the file holds them all."""
    if type(names) is not list or {*map(type, names)} - {str} or sorted(names) != sorted(calls.storages):
        raise BrokenFileError("the list of storages is not that of the storages used")
    starts: dict[str, int] = {}
    for done, name in enumerate(names):
        storage = calls.storages[name]
        size = ITEM_SIZES.get(storage.dtype)
        raw = window.read(position, _COUNT)
        if len(raw) < _COUNT:
            raise BrokenFileError(f"the file ends before storage {done + 1} of {len(names)}", truncated=True)
        count = int.from_bytes(raw, "little")
        if size is None or count != storage.numel:
            raise BrokenFileError(f"{storage} is said to have {count}")
        starts[name] = position + _COUNT
        position += _COUNT + count * size
        if position > window.length:
            raise BrokenFileError(f"the file ends inside storage {done + 1} of {len(names)}", truncated=True)
    return starts, position


@dataclass(frozen=True, slots=True, eq=False)
class LegacySource(TensorSource):
    """Finds a tensor behind the pickles."""

    window: Window
    starts: Mapping[str, int]
    big_endian: bool

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:  # noqa: ARG002 - Its storage says it.
        """See `TensorSource`."""
        size = ITEM_SIZES[info.dtype]
        if self.big_endian and size > 1:
            raise big_endian(self.window.origin, "a file from a machine with the highest byte first")
        start = self.starts[str(info.storage)] + info.storage_offset * size
        return (Piece(self.window, start, span(info.shape, info.stride) * size),)
