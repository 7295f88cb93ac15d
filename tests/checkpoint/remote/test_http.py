"""Checkpoints behind a web server: what is asked for, and how it fails."""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from pytest_lora_ckpt.checkpoint import Limits, open_checkpoint
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from tests.helpers.tiny_adapters import adapted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.web_server import Web

    Fails = Callable[..., CheckpointError]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's directory."""
    folder = tmp_path_factory.mktemp("adapter")
    adapted().save_pretrained(folder)
    (folder / "notes.log").write_text("no pickle")
    return folder


def _state(number: int, rows: int = 64) -> dict[str, torch.Tensor]:
    return {f"model.layers.{i}.q_proj.weight": torch.full((rows, 64), float(i)) for i in range(number)}


def _header(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def test_a_big_file_takes_two_requests_and_its_header(tmp_path: Path, web: Web) -> None:
    save_file(_state(2000), tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(f"{web.url}/model.safetensors")
    assert len(checkpoint.keys) == 2000
    assert len(web.requests) <= 2
    assert web.sent <= _header(tmp_path / "model.safetensors") + 100_000
    assert checkpoint.path.name == "model.safetensors"
    assert str(checkpoint.path) == f"{web.url}/model.safetensors"
    assert torch.equal(checkpoint.read("model.layers.7.q_proj.weight"), torch.full((64, 64), 7.0))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_big_torch_file_takes_a_few_requests_more(tmp_path: Path, web: Web, *, zipped: bool) -> None:
    state = _state(600 if zipped else 20, rows=128)
    saved = {"state_dict": state, "pytorch-lightning_version": "2"}
    torch.save(saved, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(f"{web.url}/last.ckpt")
    assert checkpoint.keys.keys() == state.keys()
    if zipped:
        # The beginning, the end, the rest of the pickle; and whether `lora_weights` is there.
        assert len(web.requests) == 4
        assert web.sent < 300_000
    web.reset()
    checkpoint.expect(state)
    for key, tensor in state.items():
        assert torch.equal(checkpoint.read(key), tensor)
    assert len(web.requests) <= 16
    assert not checkpoint.damaged(state)


def test_a_record_with_another_header_is_told_when_it_is_read(tmp_path: Path, web: Web, fails: Fails) -> None:
    torch.save(_state(600, rows=128), tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    at = data.index(b"a/data/300")
    data[at : at + 10] = b"a/data/301"
    (tmp_path / "a.pt").write_bytes(data)
    fails(tmp_path / "a.pt", "ambiguous-archive")
    checkpoint = open_checkpoint(f"{web.url}/a.pt")
    assert any("header" in note for note in checkpoint.notes)
    with pytest.raises(CheckpointError, match="ambiguous-archive"):
        checkpoint.read("model.layers.300.q_proj.weight")
    assert checkpoint.read("model.layers.299.q_proj.weight")[0, 0] == 299


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("end", ["", "/"])
def test_an_adapter(tmp_path: Path, web: Web, adapter: Path, end: str, *, lists: bool) -> None:
    shutil.copytree(adapter, tmp_path / "run 1" / "adapter")
    web.lists = lists
    checkpoint = open_checkpoint(f"{web.url}/run%201/adapter{end}")
    here = open_checkpoint(adapter)
    assert checkpoint.layout == "peft_adapter"
    assert (checkpoint.keys, checkpoint.adapter_config) == (here.keys, here.adapter_config)
    assert str(checkpoint.path) == f"{web.url}/run%201/adapter"
    assert (checkpoint.path.name, checkpoint.path.parent.name) == ("adapter", "run 1")
    assert len(web.requests) <= (8 if lists else 6)
    web.reset()
    checkpoint.expect(checkpoint.keys)
    assert all(torch.equal(checkpoint.read(key), here.read(key)) for key in here.keys)
    assert len(web.requests) <= 1
    assert not checkpoint.unread


def test_an_adapters_weights_file(tmp_path: Path, web: Web, adapter: Path) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    web.lists = False
    checkpoint = open_checkpoint(f"{web.url}/adapter/adapter_model.safetensors")
    assert checkpoint.layout == "peft_adapter"
    assert str(checkpoint.path) == f"{web.url}/adapter/adapter_model.safetensors"


@pytest.mark.parametrize("lists", [True, False])
def test_shards_are_read_at_once(tmp_path: Path, web: Web, *, lists: bool) -> None:
    names = [f"model-{i:05d}-of-00012.safetensors" for i in range(1, 13)]
    weight_map = {}
    for number, name in enumerate(names):
        state = {f"layers.{number}.{i}.weight": torch.ones(2, 2) for i in range(3)}
        save_file(state, tmp_path / name)
        weight_map |= dict.fromkeys(state, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    web.lists, web.gather = lists, threading.Barrier(4)
    checkpoint = open_checkpoint(web.url)
    assert len(checkpoint.keys) == 36
    assert len(checkpoint.files) == 12
    of_shards = [each for each in web.requests if "-of-" in each]
    assert len(of_shards) == 12
    assert len(web.requests) - len(of_shards) <= (2 if lists else 20)
    web.gather = None
    assert torch.equal(checkpoint.read("layers.3.1.weight"), torch.ones(2, 2))


def test_a_distributed_checkpoint_takes_four_requests(tmp_path: Path, web: Web) -> None:
    state = {f"layers.{i}.weight": torch.full((64, 64), float(i)) for i in range(50)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": state}, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    checkpoint = open_checkpoint(f"{web.url}/dcp/")
    assert checkpoint.layout == "distributed"
    assert len(checkpoint.keys) == 50
    assert len(web.requests) <= 4
    web.reset()
    checkpoint.expect(checkpoint.keys)
    assert all(checkpoint.read(key)[0, 0] == int(key.split(".")[-2]) for key in checkpoint.keys)
    assert len(web.requests) <= 2


def _in_files(folder: Path, files: int) -> dict[str, torch.Tensor]:
    """Save a distributed checkpoint in so many files, with an object in one of them."""
    state = {f"layers.{i}.weight": torch.full((64, 64), float(i)) for i in range(50)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = dcp.FileSystemWriter(folder, thread_count=files)
        dcp.save({"model": state, "epoch": 3}, storage_writer=writer, no_dist=True)
    return state


@pytest.mark.parametrize("files", [1, 2, 9])
@pytest.mark.parametrize("end", ["", "/", "/.metadata"])
def test_the_number_of_ranks_does_not_count(tmp_path: Path, web: Web, files: int, end: str) -> None:
    state = _in_files(tmp_path / "dcp", files)
    checkpoint = open_checkpoint(f"{web.url}/dcp{end}")
    assert len(web.requests) <= 4
    assert len(checkpoint.files) == files + 1
    assert checkpoint.keys == open_checkpoint(tmp_path / "dcp").keys
    assert checkpoint.envelope == {"epoch": 3}
    left = [note.partition(" of its ranks")[0] for note in checkpoint.notes if "file" in note]
    assert left == {1: [], 2: ["1 file"], 9: ["8 files"]}[files]
    web.reset()
    checkpoint.expect(checkpoint.keys)
    assert all(torch.equal(checkpoint.read(key), tensor) for key, tensor in state.items())
    assert len(web.requests) <= 2 * files


@pytest.mark.parametrize("files", [1, 3])
def test_a_rank_whose_file_is_cut_off(tmp_path: Path, web: Web, fails: Fails, files: int) -> None:
    _in_files(tmp_path / "dcp", files)
    cut = max((tmp_path / "dcp").glob("*.distcp"))
    os.truncate(cut, cut.stat().st_size - 1)
    if files == 1:
        fails(tmp_path / "dcp", "truncated")
        fails(f"{web.url}/dcp/", "truncated")
        return
    checkpoint = open_checkpoint(f"{web.url}/dcp/")
    with pytest.raises(CheckpointError, match="truncated") as error:
        checkpoint.expect(checkpoint.keys)
    assert error.value.path.name == cut.name


def test_a_rank_whose_file_is_missing(tmp_path: Path, web: Web, fails: Fails) -> None:
    _in_files(tmp_path / "dcp", 3)
    gone = max((tmp_path / "dcp").glob("*.distcp"))
    data = gone.read_bytes()
    gone.unlink()
    assert fails(f"{web.url}/dcp/", "missing-shard").path.name == gone.name
    gone.write_bytes(data)
    checkpoint = open_checkpoint(f"{web.url}/dcp/")
    gone.unlink()
    with pytest.raises(CheckpointError, match="missing-shard"):
        checkpoint.expect(checkpoint.keys)


def test_pickles_around_it_are_read_and_nothing_else_is(tmp_path: Path, web: Web, adapter: Path) -> None:
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    (tmp_path / "training_args.bin").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    (tmp_path / "big.dat").write_bytes(b"x" * 100_000)
    checkpoint = open_checkpoint(web.url)
    assert [each.qualname for each in checkpoint.globals] == ["posix.system"]
    assert not any("dat" in each for each in web.requests)
    assert any("not looked at" in note for note in checkpoint.notes)


def test_lora_weights_next_to_a_checkpoint(tmp_path: Path, web: Web, adapter: Path) -> None:
    torch.save({"state_dict": _state(3), "pytorch-lightning_version": "2"}, tmp_path / "last.ckpt")
    shutil.copytree(adapter, tmp_path / "lora_weights")
    checkpoint = open_checkpoint(f"{web.url}/last.ckpt")
    assert checkpoint.adapter_beside is not None
    assert str(checkpoint.adapter_beside.path) == f"{web.url}/lora_weights"


# Bad input


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (401, "forbidden"),
        (403, "forbidden"),
        (404, "missing"),
        (410, "missing"),
        (429, "server-error"),
        (503, "server-error"),
    ],
)
def test_a_refusal_is_told_with_its_status(tmp_path: Path, web: Web, fails: Fails, status: int, problem: str) -> None:
    save_file(_state(3), tmp_path / "a.safetensors")
    web.refuses["a.safetensors"] = status
    error = fails(f"{web.url}/a.safetensors", problem)
    assert problem == "missing" or str(status) in error.found


def test_a_missing_file_is_told(web: Web, fails: Fails) -> None:
    fails(f"{web.url}/no.safetensors", "missing")
    fails(f"{web.url}/no/such/directory", "missing")
    fails(f"{web.url}/no/such/directory/", "missing")


@pytest.mark.parametrize(
    "address",
    ["http://", "http://[::1", "http:///a.pt", "http://127.0.0.1:99999/a.pt", f"http://{'a' * 300}/x.pt", "zip://a::"],
)
def test_what_is_no_address_is_told(fails: Fails, address: str) -> None:
    assert "no address" in fails(address, "missing").found


def test_a_page_is_told(tmp_path: Path, web: Web, fails: Fails) -> None:
    (tmp_path / "a.html").write_text("<!doctype html><html>Sign in</html>")
    fails(f"{web.url}/a.html", "web-page")
    fails(f"{web.url}/", "not-a-checkpoint")


def test_a_server_without_ranges(tmp_path: Path, web: Web, fails: Fails) -> None:
    web.ranges = False
    save_file(_state(3), tmp_path / "small.safetensors")
    save_file(_state(400, rows=128), tmp_path / "big.safetensors")
    checkpoint = open_checkpoint(f"{web.url}/small.safetensors")
    assert checkpoint.read("model.layers.2.q_proj.weight")[0, 0] == 2
    web.reset()
    error = fails(f"{web.url}/big.safetensors", "no-ranges")
    assert "12.5 MiB" in error.found
    assert len(web.requests) == 1


def test_a_connection_that_breaks(tmp_path: Path, web: Web, fails: Fails) -> None:
    save_file(_state(2000), tmp_path / "a.safetensors")
    web.breaks = ("a.safetensors",)
    fails(f"{web.url}/a.safetensors", "connection-lost")
    fails("http://127.0.0.1:9/a.safetensors", "no-connection")
    fails("http://no.such.host.invalid/a.safetensors", "no-connection")


def test_a_connection_that_breaks_later(tmp_path: Path, web: Web) -> None:
    save_file(_state(2000), tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(f"{web.url}/a.safetensors")
    web.breaks = ("a.safetensors",)
    with pytest.raises(CheckpointError, match="connection-lost"):
        checkpoint.read("model.layers.1000.q_proj.weight")


def test_a_server_that_does_not_answer(web: Web) -> None:
    web.hangs = ("a.safetensors",)
    with pytest.raises(CheckpointError, match="timeout") as caught:
        open_checkpoint(f"{web.url}/a.safetensors", limits=Limits(request_seconds=1))
    assert "request_seconds = 2" in caught.value.remedy


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changes_is_told(tmp_path: Path, web: Web, *, etags: bool) -> None:
    path = tmp_path / "a.safetensors"
    web.etags = etags
    save_file(_state(2000), path)
    checkpoint = open_checkpoint(f"{web.url}/a.safetensors")
    if etags:
        os.utime(path, (1, 1))
    else:
        save_file(_state(1999), path)
    with pytest.raises(CheckpointError, match="changed"):
        checkpoint.read("model.layers.1000.q_proj.weight")


def test_a_file_that_is_gone_is_told(tmp_path: Path, web: Web) -> None:
    save_file(_state(2000), tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(f"{web.url}/a.safetensors")
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.read("model.layers.1000.q_proj.weight")


def test_an_empty_file(tmp_path: Path, web: Web, fails: Fails) -> None:
    (tmp_path / "a.ckpt").touch()
    fails(f"{web.url}/a.ckpt", "empty-file")


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "%2e%2e/secret.safetensors",
        "%2e%2e%2fsecret.safetensors",
        "a/../../secret.safetensors",
        "a?b",
        "//x/y",
    ],
)
def test_an_index_leads_nowhere_else(tmp_path: Path, web: Web, name: str) -> None:
    save_file(_state(1), tmp_path / "secret.safetensors")
    web.lists = False  # Each name is asked for.
    (tmp_path / "run").mkdir()
    index = {"weight_map": {"model.layers.0.q_proj.weight": name}}
    (tmp_path / "run" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError):
        open_checkpoint(f"{web.url}/run")
    assert not any("secret" in each and "/run/" not in each for each in web.requests)
