"""`.metadata`: the pickle by which a distributed checkpoint says where each chunk of each tensor lies.

Source: `torch/distributed/checkpoint/filesystem.py`, `FileSystemWriter.finish`. torch's own reader loads it as any
pickle, with whatever code is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.index import FileIndex, Piece, TensorSource
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from pytest_lora_ckpt.checkpoint.pickle.scan import globals_of, scan_between
from pytest_lora_ckpt.checkpoint.pickle.torch_types import TorchCalls
from pytest_lora_ckpt.vocabulary.files import DISTRIBUTED_METADATA

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.window import Window
    from pytest_lora_ckpt.tensors import TensorInfo

NAME = "torch.distributed metadata"
EXPECTS = f"a pickle called `{DISTRIBUTED_METADATA}`"

_TIMES = 2  # An object of three numbers has few bytes: they take longer than those of other pickles.


def accepts(head: bytes, name: str) -> bool:
    """See `Format`."""
    return name.endswith(DISTRIBUTED_METADATA) and head.startswith(b"\x80")


def index(window: Window) -> FileIndex:
    """See `Format`: `contents` is the record of torch's `Metadata`; no tensor is in it."""
    window.budget.check("pickle_bytes", window.length)
    window.budget.grant(_TIMES * window.length)
    data = window.read(0, window.length)
    machine = PickleMachine(data, builders=TorchCalls().builders, budget=window.budget)
    with machine.ledger.on_error():
        made = machine.load()
    behind = scan_between(data, "", window.budget, start=machine.position) if machine.position < len(data) else ()
    return FileIndex(
        format=NAME,
        window=window,
        contents=made,
        source=NoTensors(),
        globals=(*globals_of(machine, made, window.budget), *behind),
    )


class NoTensors(TensorSource):
    """Has none: the metadata says in which other files they lie."""

    def pieces(self, key: str, info: TensorInfo) -> tuple[Piece, ...]:
        """See `TensorSource`."""
        raise BrokenFileError(f"no tensor lies in the metadata: neither {key!r} nor another of {info.shape}")
