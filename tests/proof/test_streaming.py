"""A tensor compared with its file a stretch at a time says what a whole reading says, or nothing."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from pytest_lora_ckpt.proof import prove_load, streaming
from pytest_lora_ckpt.proof.loaded_model import LoadedModel, ModelTensor
from pytest_lora_ckpt.proof.streaming import equal_in_file, equal_in_files
from tests.helpers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint import Checkpoint

FULL = slice(None)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Checkpoint]:
    """Save a tensor, by `torch.save` unless asked for safetensors, and open it."""

    def save(tensor: torch.Tensor, ending: str = "pt") -> Checkpoint:
        path = tmp_path / f"a.{ending}"
        state = {"before": torch.zeros(3, dtype=torch.uint8), "a": tensor}
        save_file(state, path) if ending == "safetensors" else torch.save(state, path)
        return open_checkpoint(path)

    return save


def seen(checkpoint: Checkpoint, now: torch.Tensor, *part: slice) -> str | None:
    return equal_in_file(checkpoint, "a", ModelTensor(now, local_slices=part or None))


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int8,
    torch.int64,
    torch.bool,
    torch.float8_e4m3fn,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_equal(saved: Callable[..., Checkpoint], dtype: torch.dtype, ending: str) -> None:
    tensor = random(37, 5).to(dtype)
    assert not seen(saved(tensor, ending), tensor.clone())
    assert seen(saved(tensor, ending), tensor.clone()) == ""


@pytest.mark.parametrize("elements", [1, 7, 32767, 32768, 32769, 100_001])
def test_every_bit_counts(saved: Callable[..., Checkpoint], elements: int) -> None:
    tensor = random(elements)
    tensor[0] = math.nan
    checkpoint = saved(tensor)
    for dtype, expected in ((torch.float32, ""), (torch.bfloat16, "float32 to bfloat16")):
        assert seen(checkpoint, tensor.to(dtype)) == expected
        for at in {1 % elements, elements // 2, elements - 1}:
            other = tensor.to(dtype)
            bits = other.view(torch.int16)
            bits[at * (other.element_size() // 2)] ^= 1
            assert seen(checkpoint, other) is None


# Dtype of the file, dtype of the model -> what is seen.
CASTS: list[tuple[torch.dtype, torch.dtype, str | None]] = [
    (torch.float32, torch.bfloat16, "float32 to bfloat16"),
    (torch.float64, torch.float32, "float64 to float32"),
    (torch.bfloat16, torch.float32, "bfloat16 to float32"),
    (torch.float16, torch.float32, "float16 to float32"),
    (torch.float32, torch.float16, None),  # It may overflow: to be looked at whole.
    (torch.float32, torch.float8_e4m3fn, None),
    (torch.int8, torch.float32, None),
    (torch.float32, torch.int8, None),
]


@pytest.mark.parametrize(("file", "model", "expected"), CASTS, ids=str)
def test_casts(saved: Callable[..., Checkpoint], file: torch.dtype, model: torch.dtype, expected: str | None) -> None:
    tensor = random(40, 3).to(file)
    assert seen(saved(tensor), tensor.to(model)) == expected


def test_a_part_of_it(saved: Callable[..., Checkpoint]) -> None:
    tensor = random(8, 4)
    checkpoint = saved(tensor)
    assert seen(checkpoint, tensor[2:5].clone(), slice(2, 5), slice(0, 4)) == ""
    assert seen(checkpoint, tensor[2:5].clone(), slice(3, 6), slice(0, 4)) is None
    assert seen(checkpoint, tensor[2:5].clone(), slice(2, 6), slice(0, 4)) is None
    assert seen(checkpoint, tensor[8:].clone(), slice(8, 8), slice(0, 4)) is None  # Nothing of it.
    assert seen(checkpoint, tensor[:, 1:3].contiguous(), slice(0, 8), slice(1, 3)) is None  # It has gaps in the file.


UNSEEN: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
    "another shape": (random(4, 2), random(4, 2).view(2, 4)),
    "a view in the file": (random(8, 4).T, random(8, 4).T.contiguous()),
    "a view in the model": (random(8, 4).T.contiguous(), random(8, 4).T),
    "nothing in it": (random(0, 4), random(0, 4)),
    "negative zero": (torch.zeros(3), -torch.zeros(3)),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_nothing_is_said(saved: Callable[..., Checkpoint], name: str) -> None:
    file, model = UNSEEN[name]
    assert seen(saved(file), model) is None


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shards(tmp_path: Path) -> None:
    from torch.distributed.checkpoint import FileSystemWriter, save

    tensor = random(64, 8)
    save({"a": tensor}, storage_writer=FileSystemWriter(tmp_path / "d"), no_dist=True)
    assert seen(open_checkpoint(tmp_path / "d"), tensor.clone()) == ""


def test_a_file_that_has_changed(saved: Callable[..., Checkpoint]) -> None:
    tensor = random(8, 4)
    checkpoint = saved(tensor)
    with checkpoint.path.open("r+b") as file:
        file.truncate(checkpoint.path.stat().st_size - 40)
    with pytest.raises(CheckpointError):
        seen(checkpoint, tensor)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_proof_is_that_of_a_whole_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    model = torch.nn.ModuleList(torch.nn.Linear(20, 30) for _ in range(12))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    model[3].bfloat16()
    model[4].half()
    with torch.no_grad():
        model[5].weight[2, 3] += 1
        model[6].bias.zero_()
    monkeypatch.setattr(streaming, "_WORTH_THREADS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    proof: Any = prove_load(model, tmp_path / "a.pt")
    assert proof.counts == {"equal": 18, "cast": 4, "differs": 2, "merged": 0, "not provable": 0}
    monkeypatch.setattr("pytest_lora_ckpt.proof.streaming.equal_in_file", lambda *_: None)
    assert prove_load(model, tmp_path / "a.pt") == proof


class _Watched(LoadedModel):
    """Notes which threads read which tensors."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module)
        self.readers: dict[str, threading.Thread] = {}

    def read(self, key: str) -> ModelTensor:
        self.readers[key] = threading.current_thread()
        return super().read(key)


def test_what_is_elsewhere_is_read_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import cpu_offload

    model = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    cpu_offload(model[1], torch.device("cpu"))
    monkeypatch.setattr(streaming, "_WORTH_THREADS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    loaded, checkpoint = _Watched(model), open_checkpoint(tmp_path / "a.pt")
    assert [*equal_in_files(checkpoint, {key: key for key in checkpoint.keys}, loaded)] == [""] * 6
    here = {key for key, thread in loaded.readers.items() if thread is threading.current_thread()}
    assert here == {"1.weight", "1.bias"}


def test_nothing_is_fetched_to_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes over a network is read whole, by one thread: what keeps it is not made for several."""
    model = torch.nn.ModuleList(torch.nn.Linear(256, 256) for _ in range(3))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    monkeypatch.setattr(streaming, "_WORTH_THREADS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with web_server(tmp_path) as web:
        checkpoint = open_checkpoint(f"{web.url}/a.pt")
        web.reset()
        assert [*equal_in_files(checkpoint, {key: key for key in checkpoint.keys}, LoadedModel(model))] == [None] * 6
        assert not web.requests
        assert prove_load(model, checkpoint).proved


def test_torch_keeps_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    monkeypatch.setattr(streaming, "_WORTH_THREADS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert prove_load(model, tmp_path / "a.pt").proved
        found: list[int] = []
        later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert (torch.get_num_threads(), found) == (2, [2])
    finally:
        torch.set_num_threads(before)
