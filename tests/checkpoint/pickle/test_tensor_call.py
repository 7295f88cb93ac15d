"""A tensor's call that is read in one step gives what its opcodes give one by one, whatever stands in it."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
from contextlib import suppress

import pytest
import torch

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.limits import Budget
from pytest_lora_ckpt.checkpoint.pickle import machine as machines
from pytest_lora_ckpt.checkpoint.pickle import tensor_call
from pytest_lora_ckpt.checkpoint.pickle.torch_types import TorchCalls

OPCODES = b"()hjXrKMJtQNR\x85\x86\x87\x88\x89"


def state() -> dict[str, torch.Tensor]:
    """Tensors of all spellings: numbers of one to four bytes, up to four dimensions, parts of others."""
    base = torch.arange(600.0).reshape(2, 300)
    tensors = {f"layers.{number}.weight": torch.ones(number + 1, 3, dtype=torch.bfloat16) for number in range(60)}
    return tensors | {
        "scalar": torch.tensor(1.0),
        "vector": torch.ones(70_000, dtype=torch.int8),
        "cube": torch.ones(2, 1, 3),
        "kernel": torch.ones(2, 1, 3, 2),
        "turned": base.t(),
        "part": base[1, 260:],
        "tied": base,
        "trained": torch.ones(2, requires_grad=True),
        "double": torch.ones(3, dtype=torch.float64),
        "empty": torch.ones(0, 3),
    }


def pickles() -> dict[str, bytes]:
    """Pickles of both formats of torch."""
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(state(), new)
    torch.save(state(), old, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(new) as archive:
        zipped = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return {"zip": zipped, "legacy": old.getvalue()}


def test_most_tensors_are_read_in_one_step() -> None:
    assert all(len(tensor_call._CALL.findall(data)) > 30 for data in pickles().values())


def read(data: bytes) -> tuple[object, ...]:
    """Return everything that the machine makes of a pickle, or says of it; where it broke may differ by a few bytes."""
    calls, start = TorchCalls(), _start(data)
    machine = machines.PickleMachine(
        data, builders=calls.builders, persistent=calls.persistent, budget=Budget(), start=start
    )
    with suppress(BrokenFileError, LookupError, TypeError, ValueError, struct.error):
        made = machine._run()
        return repr((made, machine.memo, machine.sparse)), sorted(calls.storages), machine.ledger.globals(), calls.notes
    machine.position = start
    with pytest.raises(BrokenFileError) as broken:
        machine.load()
    return re.sub(r"byte \d+", "byte", str(broken.value)), machine.ledger.globals(), calls.notes


def _start(data: bytes) -> int:
    """Return where the pickle begins that has the tensors: in the old format three others come before it."""
    return max(data.rfind(b"\x80\x02", 0, data.find(b"ctorch._utils\n")), 0)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.slow
def test_one_step_is_the_same_as_all_opcodes(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seed = pickles()[form], random.Random(form)
    opcodes = [place for place, byte in enumerate(data) if byte in OPCODES]
    last = data.index(b"scalar")
    tuples = [place for place in opcodes if place > last and data[place] in b"\x85\x86\x87"]
    files = [data, *(data[:place] + bytes([code]) + data[place + 1 :] for place in tuples for code in b"\x85\x86\x87t")]
    for _ in range(250):
        changed = bytearray(data)
        for _ in range(seed.choice((1, 1, 2, 4))):
            place = seed.choice((seed.choice(opcodes), seed.randrange(len(data))))
            changed[place] = seed.choice((seed.randrange(256), *OPCODES))
        files.append(bytes(changed))
    in_one_step = [read(each) for each in files]
    monkeypatch.setattr(machines, "read_tensor_call", lambda *_: 0)
    assert in_one_step == [read(each) for each in files]
