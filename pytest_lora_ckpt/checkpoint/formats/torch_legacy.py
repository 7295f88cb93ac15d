"""torch's format before 1.6: five pickles, then the storages, each after its number of elements.

Source: `torch.serialization._legacy_save` and `_legacy_load`. Nothing but the pickles and those numbers is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.index import Extent
from pytest_lora_ckpt.checkpoint.layouts.torch_envelope import make_checkpoint
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from pytest_lora_ckpt.checkpoint.pickle.state import BrokenPickleError
from pytest_lora_ckpt.checkpoint.pickle.torch_types import TorchCalls, span
from pytest_lora_ckpt.tensors import ITEM_SIZES, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint

NAME = "torch legacy"
EXPECTS = "a pickle of torch's magic number"

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAGIC_SPELLINGS = (b"\x8a\n" + _MAGIC.to_bytes(10, "little"), b"L%dL\n" % _MAGIC)
_MAGIC_WITHIN = 48
_COUNT = 8
_EXPECTED = "a whole file in torch's format before 1.6 (`_use_new_zipfile_serialization=False`)"


def accepts(head: bytes, path: Path) -> bool:  # noqa: ARG001 - Every reader is asked in the same way.
    """Say whether the magic number stands at the beginning, in any pickle protocol."""
    return any(spelling in head[:_MAGIC_WITHIN] for spelling in _MAGIC_SPELLINGS)


def read(path: Path) -> Checkpoint:
    """Read the pickles, and where each storage lies.

    Raises:
        CheckpointError: Damaged, or without a state dict.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        size = len(data)
        calls = TorchCalls()
        machine = PickleMachine(data, builders=calls.builders, persistent=calls.persistent)
        try:
            _expect(machine, _MAGIC, "magic number")
            _expect(machine, _PROTOCOL, "version")
            system, contents = machine.load(), machine.load()
            starts = _storages(machine, calls)
        except BrokenPickleError as error:
            raise CheckpointError(
                "truncated" if error.truncated else "damaged",
                path,
                expected=_EXPECTED,
                found=f"{error} ({size} bytes)",
                remedy="Copy the file again and compare its size with the original's; if that is right, save it again.",
            ) from error
    big = isinstance(system, dict) and system.get("little_endian") is False
    return make_checkpoint(
        contents,
        path,
        file_format=NAME,
        file_bytes=size,
        calls=calls,
        names=machine.globals,
        source=lambda infos: LegacySource(path, infos, starts, big),
    )


def _expect(machine: PickleMachine, number: int, what: str) -> None:
    found = machine.load()
    if found != number:
        raise BrokenPickleError(f"{describe(found, 40)} instead of torch's {what} {number}")


def _storages(machine: PickleMachine, calls: TorchCalls) -> dict[str, int]:
    """Return where each storage's bytes begin, after checking that the file holds them all."""
    names = machine.load()
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(calls.storages):
        raise BrokenPickleError("the list of storages is not that of the storages used")
    starts: dict[str, int] = {}
    for done, name in enumerate(names):
        storage = calls.storages[name]
        size = ITEM_SIZES.get(storage.dtype)
        if machine.left < _COUNT:
            raise BrokenPickleError(f"the file ends before storage {done + 1} of {len(names)}", truncated=True)
        count = machine.number(_COUNT)
        if size is None or count != storage.numel:
            raise BrokenPickleError(f"{storage} is said to have {count}")
        starts[name] = machine.position
        if machine.left < count * size:
            raise BrokenPickleError(f"the file ends inside storage {done + 1} of {len(names)}", truncated=True)
        machine.skip(count * size)
    return starts


@dataclass(frozen=True, slots=True, eq=False)
class LegacySource:
    """Finds a tensor behind the pickles."""

    path: Path
    infos: Mapping[str, TensorInfo]
    starts: Mapping[str, int]
    big_endian: bool

    def locate(self, key: str) -> Extent:
        """See `TensorSource`."""
        info = self.infos[key]
        size = ITEM_SIZES[info.dtype]
        if self.big_endian and size > 1:
            raise CheckpointError(
                "big-endian",
                self.path,
                expected="values with the lowest byte first",
                found="a file from a machine with the highest byte first: names and shapes are known, values are not",
                remedy="Load it with `torch.load` on such a machine and save it again.",
            )
        start = self.starts[str(info.storage)] + info.storage_offset * size
        return Extent(self.path, start, span(info.shape, info.stride) * size)
