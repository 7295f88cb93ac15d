"""Ids on the Hugging Face Hub: its own library against a server on this machine, and its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fsspec.config
import pytest
import torch
from huggingface_hub import HfFileSystem, constants, snapshot_download

from pytest_lora_ckpt.checkpoint import open_checkpoint
from pytest_lora_ckpt.checkpoint.address import Address
from pytest_lora_ckpt.stacks.errors import StackError
from pytest_lora_ckpt.stacks.request import Request
from tests.helpers.hub_server import COMMIT, hub_server
from tests.helpers.tiny_adapters import adapted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint.errors import CheckpointError
    from tests.helpers.web_server import Web

    Fails = Callable[..., CheckpointError]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    adapted().save_pretrained(folder / "nobody" / "a-lora")
    adapted().save_pretrained(folder / "nobody" / "several" / "first")
    return folder


@pytest.fixture
def hub(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """The Hub, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # The server is on this machine.
    with hub_server(models) as web:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": web.url, "token": False})
        monkeypatch.setattr(HfFileSystem, "_cache", {})
        yield web


@pytest.mark.parametrize(
    "address", ["nobody/a-lora", "nobody/a-lora@main", "hf://nobody/a-lora", "hf://nobody/several/first"]
)
def test_a_repository_is_read_by_ranges(hub: Web, models: Path, address: str) -> None:
    checkpoint = open_checkpoint(address)
    here = open_checkpoint(models / "nobody" / "a-lora")
    assert checkpoint.layout == "peft_adapter"
    assert checkpoint.keys == here.keys
    assert isinstance(checkpoint.path, Address)
    assert str(checkpoint.path) == address if "://" in address else f"hf://{address}"
    checkpoint.expect(here.keys)
    assert all(torch.equal(checkpoint.read(key), here.read(key)) for key in here.keys)
    assert len([each for each in hub.requests if "/resolve/" in each]) <= 4
    assert len(hub.requests) <= 8


def test_the_cache_goes_first(hub: Web, tmp_path: Path, models: Path) -> None:
    cache = tmp_path / "cache"
    snapshot_download("nobody/a-lora", endpoint=hub.url, cache_dir=cache, token=False)
    hub.reset()
    checkpoint = open_checkpoint("nobody/a-lora")
    assert not hub.requests
    assert checkpoint.path == cache / "models--nobody--a-lora" / "snapshots" / COMMIT
    assert any("local cache" in note and COMMIT[:12] in note for note in checkpoint.notes)
    assert checkpoint.keys == open_checkpoint(models / "nobody" / "a-lora").keys
    assert open_checkpoint("hf://nobody/a-lora@main/adapter_model.safetensors").layout == "peft_adapter"
    assert not hub.requests


def test_a_librarys_loader_gets_what_the_cache_has(hub: Web, tmp_path: Path) -> None:
    with pytest.raises(StackError, match="this machine"):
        _ = Request("nobody/a-lora").path
    snapshot_download("nobody/a-lora", endpoint=hub.url, cache_dir=tmp_path / "cache", token=False)
    request = Request("nobody/a-lora")
    assert request.directory == tmp_path / "cache" / "models--nobody--a-lora" / "snapshots" / COMMIT


def test_a_cache_with_a_config_alone_is_no_checkpoint(hub: Web, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    snapshot_download("nobody/a-lora", endpoint=hub.url, cache_dir=cache, token=False, allow_patterns="*.json")
    assert isinstance(open_checkpoint("nobody/a-lora").path, Address)


def test_offline_is_respected(hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    snapshot_download("nobody/a-lora", endpoint=hub.url, cache_dir=tmp_path / "cache", token=False)
    hub.reset()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # As the variable of this name does at the start.
    assert open_checkpoint("nobody/a-lora").layout == "peft_adapter"
    error = fails("nobody/several", "hub-offline")
    assert "HF_HUB_OFFLINE" in error.found
    assert "`hf download nobody/several`" in error.remedy
    assert (
        "`hf download nobody/several --revision v2 --include 'first*'`" in fails("hf://nobody/several@v2/first").remedy
    )
    assert not hub.requests


def test_without_a_network_it_is_told(hub: Web, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": "http://127.0.0.1:9", "token": False})
    fails("nobody/a-lora", "no-connection")


def test_what_is_not_on_the_hub(hub: Web, tmp_path: Path, fails: Fails) -> None:
    error = fails("nobody/else", "missing")
    assert "hf auth login" in error.remedy
    fails("nobody/a-lora@no-such-branch-or-tag/sub", "missing")
    (tmp_path / "nobody").mkdir()
    assert "Hub" not in fails("nobody/a-lora", "missing").remedy  # There is such a directory here.
