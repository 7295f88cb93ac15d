"""An object of a few attributes that is read in one step is what its opcodes make of it one by one."""

from __future__ import annotations

import pickle
import random
import re
import struct
from contextlib import suppress

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.limits import Budget
from pytest_lora_ckpt.checkpoint.pickle import machine as machines
from pytest_lora_ckpt.checkpoint.pickle import record_call
from pytest_lora_ckpt.checkpoint.pickle.torch_types import TorchCalls

OPCODES = b")\x81\x94}(hjKMJ\x8a\x8c\x85\x86\x87tRub"


def pickled() -> bytes:
    """A file of metadata with numbers of one to nine bytes, and tensors of no to five dimensions."""
    shapes = [(), (7,), (300, 2), (2, 70_000, 3), (2, 1, 3, 2), (1, 2, 1, 2, 1)] * 3
    tensors, places = {}, {}
    for number, shape in enumerate(shapes):
        size, zero = torch.Size(shape), torch.Size([0] * len(shape))
        tensors[f"model.{number}"] = TensorStorageMetadata(
            TensorProperties(torch.float32), size, [ChunkStorageMetadata(zero, size)]
        )
        place = _StorageInfo(f"__{number % 3}_0.distcp", 7 ** (number % 22), number)
        places[MetadataIndex(f"model.{number}", zero, number)] = place
    return pickle.dumps(Metadata(tensors, {}, places))


def test_most_objects_are_read_in_one_step() -> None:
    assert len(record_call._record().findall(pickled())) > 3 * 18 - 10


def read(data: bytes) -> tuple[object, ...]:
    """Return everything that the machine makes of a pickle, or says of it; where it broke may differ by a few bytes."""
    machine = _machine(data)
    with suppress(BrokenFileError, LookupError, TypeError, ValueError, struct.error):
        made = machine._run()
        return repr((made, machine.memo, machine.sparse)), machine.ledger.globals()
    machine = _machine(data)
    with pytest.raises(BrokenFileError) as broken:
        machine.load()
    return re.sub(r"byte \d+", "byte", str(broken.value)), machine.ledger.globals()


def _machine(data: bytes) -> machines.PickleMachine:
    return machines.PickleMachine(data, builders=TorchCalls().builders, budget=Budget())


@pytest.mark.slow
def test_one_step_is_the_same_as_all_opcodes(monkeypatch: pytest.MonkeyPatch) -> None:
    data, seed = pickled(), random.Random(5)
    opcodes = [place for place, byte in enumerate(data) if byte in OPCODES]
    files = [data]
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(seed.choice((1, 1, 2, 4))):
            place = seed.choice((seed.choice(opcodes), seed.randrange(len(data))))
            changed[place] = seed.choice((seed.randrange(256), *OPCODES))
        files.append(bytes(changed))
    in_one_step = [read(each) for each in files]
    monkeypatch.setattr(machines, "read_record_call", lambda *_: 0)
    assert in_one_step == [read(each) for each in files]
