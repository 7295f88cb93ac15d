"""What `torch.distributed.checkpoint` writes from one process: entries, envelopes, and how it goes wrong."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from pytest_lora_ckpt.checkpoint.window import FileWindow
from tests.helpers.checkpoint_samples import same_bits
from tests.helpers.distributed_samples import save_alone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Fails = Callable[..., CheckpointError]

MODEL = {
    "layer.weight": torch.arange(12.0).reshape(3, 4),
    "layer.bias": torch.arange(3).to(torch.bfloat16),
    "layer.turned": torch.arange(12.0).reshape(3, 4).t(),
    "layer.every_second": torch.arange(10)[::2],
    "scale": torch.tensor(2.0),
    "empty": torch.empty(0, 4),
}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3, 4)}}, "param_groups": [{"lr": 0.5, "params": [0]}]}


@pytest.mark.parametrize(
    ("state", "where"),
    [
        (MODEL, ()),
        ({"model": MODEL}, ("model",)),
        ({"model": MODEL, "optim": OPTIMIZER, "epoch": 3}, ("model",)),
        ({"state_dict": MODEL, "optimizer_0": OPTIMIZER}, ("state_dict",)),
        ({"app": {"model": MODEL, "optim": OPTIMIZER}}, ("app", "model")),
        ({"transformer": MODEL, "optimizer": OPTIMIZER}, ("transformer",)),
        ({"model": MODEL, "ema": MODEL}, ("model",)),
    ],
    ids=["flat", "model", "optim", "lightning", "app", "own name", "two"],
)
def test_the_keys_are_the_state_dicts(tmp_path: Path, state: dict[str, Any], where: tuple[str, ...]) -> None:
    checkpoint = open_checkpoint(save_alone(state, tmp_path / "saved"))
    assert checkpoint.layout == "distributed"
    assert {key: info.shape for key, info in checkpoint.keys.items()} == {
        key: tuple(tensor.shape) for key, tensor in MODEL.items()
    }
    assert all(same_bits(checkpoint.read(key), tensor.contiguous()) for key, tensor in MODEL.items())
    assert checkpoint.damaged(checkpoint.keys) == ()
    told = [note for note in checkpoint.notes if "lies under" in note]
    assert told == ([f"the state dict lies under {'.'.join(where)!r}"] if where else [])
    assert any("ema" in note for note in checkpoint.notes) == ("ema" in state)


def test_what_lies_around_the_state_dict_is_its_envelope(tmp_path: Path) -> None:
    state = {"model": MODEL, "optim": OPTIMIZER, "epoch": 3, "args": {"lr": 0.1, "names": ["a", "b"]}}
    envelope = open_checkpoint(save_alone(state, tmp_path / "saved")).envelope
    assert envelope["epoch"] == 3
    assert envelope["args"] == {"lr": 0.1, "names": ["a", "b"]}
    optimizer = envelope["optim"]
    assert isinstance(optimizer, dict)
    assert optimizer["state"]["0"]["exp_avg"].shape == (3, 4)
    assert optimizer["param_groups"][0] == {"lr": 0.5, "params": [0]}


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_file_of_it_opens_its_directory(tmp_path: Path, name: str) -> None:
    save_alone({"model": MODEL}, tmp_path / "saved")
    checkpoint = open_checkpoint(tmp_path / "saved" / name)
    assert set(checkpoint.keys) == set(MODEL)
    assert checkpoint.path == tmp_path / "saved"
    assert any(name in note for note in checkpoint.notes)
    loaded = []
    audit(tmp_path / "saved" / name, loader=loaded.append)
    assert [str(path) for path in loaded] == [str(tmp_path / "saved")]


def test_the_names_that_torch_writes_are_known_to_be_data(tmp_path: Path) -> None:
    save_alone({"model": MODEL, "optim": OPTIMIZER}, tmp_path / "saved")
    result = audit(tmp_path / "saved")
    assert result.check("safe").outcome == "passed"
    assert not result.findings


class Evil:
    """Calls a function when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_code_in_the_metadata_is_seen_and_the_loader_is_not_called(tmp_path: Path) -> None:
    saved = save_alone({"model": MODEL}, tmp_path / "saved")
    metadata = pickle.loads((saved / ".metadata").read_bytes())
    metadata.planner_data["more"] = Evil()
    (saved / ".metadata").write_bytes(pickle.dumps(metadata))
    called: list[Any] = []
    result = audit(saved, loader=called.append)
    assert not called
    assert result.check("safe").outcome == "failed"
    assert "print" in result.check("safe").summary


def test_code_in_an_entry_that_is_no_tensor_is_seen(tmp_path: Path) -> None:
    called: list[Any] = []
    result = audit(save_alone({"model": MODEL, "args": Evil()}, tmp_path / "saved"), loader=called.append)
    assert not called
    assert "in __0_0.distcp" in result.check("safe").summary


def test_code_in_an_optimizers_checkpoint_beside_it_is_seen(tmp_path: Path) -> None:
    save_alone({"model": MODEL}, tmp_path / "pytorch_model_fsdp_0")
    save_alone({"optimizer": OPTIMIZER, "args": Evil()}, tmp_path / "optimizer_0")
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.keys) == set(MODEL)
    assert not checkpoint.unread
    assert "in optimizer_0/__0_0.distcp" in audit(tmp_path).check("safe").summary


def test_without_its_metadata_it_is_half_written(tmp_path: Path, fails: Fails) -> None:
    saved = save_alone({"model": MODEL}, tmp_path / "saved")
    (saved / ".metadata").rename(saved / ".metadata.tmp")
    assert ".metadata.tmp" in fails(saved, "no-metadata").found
    (saved / ".metadata.tmp").unlink()
    fails(saved / "__0_0.distcp", "no-metadata")


@pytest.mark.parametrize("keep", [0, 1, 100, -10])
def test_a_metadata_file_that_is_cut_off(tmp_path: Path, fails: Fails, keep: int) -> None:
    saved = save_alone({"model": MODEL}, tmp_path / "saved")
    (saved / ".metadata").write_bytes((saved / ".metadata").read_bytes()[:keep])
    fails(saved, "truncated", "empty-file")


def test_a_file_of_a_rank_that_is_missing_or_cut_off(tmp_path: Path, fails: Fails) -> None:
    saved = save_alone({"model": MODEL}, tmp_path / "saved")
    data = (saved / "__0_0.distcp").read_bytes()
    (saved / "__0_0.distcp").write_bytes(data[:-1])
    assert "metadata" in fails(saved, "truncated").expected
    (saved / "__0_0.distcp").unlink()
    assert "6 keys" in fails(saved, "missing-shard").found


def test_an_adapters_config_next_to_it_does_not_hide_it(tmp_path: Path) -> None:
    save_alone({"model": MODEL}, tmp_path / "pytorch_model_fsdp_0")
    (tmp_path / "adapter_config.json").write_text('{"r": 2}', "utf-8")
    assert open_checkpoint(tmp_path).layout == "distributed"


@pytest.mark.parametrize("objects", [1, 400])
def test_objects_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objects: int) -> None:
    saved = save_alone({"model": MODEL, "args": {f"lr_{each}": each // 3 for each in range(objects)}}, tmp_path / "a")
    reads = []
    read = FileWindow.read
    monkeypatch.setattr(FileWindow, "read", lambda *place: reads.append(place[0].origin) or read(*place))
    args = open_checkpoint(saved).envelope["args"]
    assert args == {f"lr_{each}": each // 3 for each in range(objects)}
    assert sum(origin.endswith(".distcp") for origin in reads) <= 2


def test_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"model": {**MODEL, "large": torch.zeros(1 << 20)}}
    checkpoint = open_checkpoint(save_alone(state, tmp_path / "saved"))
    sizes = []
    read, view = FileWindow.read, FileWindow.view
    monkeypatch.setattr(FileWindow, "read", lambda *place: sizes.append(place[2]) or read(*place))
    monkeypatch.setattr(FileWindow, "view", lambda *place: sizes.append(place[2]) or view(*place))
    checkpoint.read("layer.weight")
    assert sum(sizes) < 100_000


@pytest.mark.parametrize("rows", [3, 9000])
def test_a_chunk_is_opened_a_few_times_whatever_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    tensor = torch.arange(8.0 * rows).reshape(rows, 8)
    checkpoint = open_checkpoint(save_alone({"model": {"w": tensor, "t": tensor.t()}}, tmp_path / "saved"))
    opened = []
    monkeypatch.setattr(FileWindow, "_open", _counted(FileWindow._open, opened))
    assert same_bits(checkpoint.read("w"), tensor)
    assert len(opened) <= (1 if rows == 3 else 3)
    assert same_bits(checkpoint.read("t"), tensor.t().contiguous())


def _counted(call: Any, calls: list[Any]) -> Any:
    return lambda *given: calls.append(given) or call(*given)


def test_a_file_that_is_gone_after_it_was_opened(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_alone({"model": MODEL}, tmp_path / "saved"))
    (tmp_path / "saved" / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match="changed"):
        checkpoint.read("layer.weight")
