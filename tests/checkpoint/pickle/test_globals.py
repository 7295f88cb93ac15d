"""What a pickle asks for is known, also where it breaks halfway."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from tests.helpers.checkpoint_samples import zip_around

if TYPE_CHECKING:
    from pathlib import Path


def uses(pickled: bytes) -> dict[str, str]:
    machine = PickleMachine(pickled)
    machine.load()
    return {each.qualname: each.use for each in machine.ledger.globals()}


@pytest.mark.parametrize(
    ("pickled", "use"),
    [
        (b"cos\nsystem\n.", "named"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "named"),
        (b"cos\nsystem\n)R.", "called"),
        (b"cos\nsystem\n)\x81.", "made"),
        (b"cos\nsystem\n)}\x92.", "made"),
        (b"(ios\nsystem\n.", "called"),
        (b"(cos\nsystem\no.", "called"),
        (b"cos\nsystem\n}b.", "changed"),
        (b"cos\nsystem\nI1\nI2\ns.", "changed"),
        (b"cos\nsystem\nI1\na.", "changed"),
    ],
)
def test_what_is_done_with_a_global(pickled: bytes, use: str) -> None:
    assert uses(pickled) == {"os.system": use}


def test_names_of_python_2_are_those_that_pickle_makes_of_them() -> None:
    assert uses(b"c__builtin__\neval\n.") == {"builtins.eval": "named"}
    assert uses(b"ccommands\ngetoutput\n.") == {"subprocess.getoutput": "named"}
    assert uses(b"\x80\x03c__builtin__\neval\n.") == {"__builtin__.eval": "named"}


def test_an_error_takes_along_what_was_asked_for(tmp_path: Path) -> None:
    broken = pickle.dumps({"w": 1}, 2)[:-1] + b"cos\nsystem\nX\1\0\0\0a\x85R\xff"
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(zip_around(broken, tmp_path / "a.pt"))
    (asked,) = caught.value.globals
    assert (asked.module, asked.name, asked.called) == ("os", "system", True)
    assert asked.entry.startswith("a.pt: ")
    assert asked.entry.endswith("/data.pkl")
    assert pickle.loads(pickle.dumps(caught.value)).globals == (asked,)


def test_a_checkpoint_without_a_state_dict_says_it_too(tmp_path: Path) -> None:
    torch.save([torch.float32, torch.Size([1])], tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "a.pt")
    assert {"torch.float32", "torch.Size"} <= {each.qualname for each in caught.value.globals}
