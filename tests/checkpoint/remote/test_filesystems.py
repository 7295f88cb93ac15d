"""Other filesystems of fsspec: memory, chains, and those that are not there."""

from __future__ import annotations

import sys
import zipfile
from typing import TYPE_CHECKING

import fsspec
import pytest
import torch
from fsspec.registry import _registry
from safetensors.torch import save_file

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from tests.helpers.tiny_adapters import adapted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Fails = Callable[..., CheckpointError]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    adapted().save_pretrained(folder)
    return folder


@pytest.fixture
def memory() -> fsspec.AbstractFileSystem:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    return fs


def _same(address: str, folder: Path) -> None:
    there, here = open_checkpoint(address), open_checkpoint(folder)
    assert (there.layout, there.keys, there.adapter_config) == (here.layout, here.keys, here.adapter_config)
    there.expect(here.keys)
    assert all(torch.equal(there.read(key), here.read(key)) for key in here.keys)


@pytest.mark.parametrize("end", ["", "/"])
def test_memory(memory: fsspec.AbstractFileSystem, adapter: Path, end: str) -> None:
    memory.put(f"{adapter}/", "memory://run/adapter/", recursive=True)
    _same(f"memory://run/adapter{end}", adapter)
    checkpoint = open_checkpoint(f"memory://run/adapter{end}")
    assert str(checkpoint.path) == "memory://run/adapter"
    assert [str(each) for each in checkpoint.files] == ["memory://run/adapter/adapter_model.safetensors"]


@pytest.mark.parametrize("address", ["file://{}", "local://{}", "file://{}/adapter_model.safetensors"])
def test_this_machine(adapter: Path, address: str) -> None:
    _same(address.format(adapter), adapter)
    # As any path on this machine: the same care with links and pipes.
    assert open_checkpoint(address.format(adapter)).folder == adapter


def test_a_chain(memory: fsspec.AbstractFileSystem, adapter: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in adapter.iterdir():
            archive.write(path, f"run/{path.name}")
    memory.put(str(tmp_path / "a.zip"), "memory://a.zip")
    _same("zip://run::memory://a.zip", adapter)
    assert open_checkpoint("zip://run::memory://a.zip").path.name == "run"


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_rank_that_is_cut_off_shows_in_the_list_of_files(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    from torch.distributed.checkpoint import FileSystemWriter, save

    state = {f"layers.{i}.weight": torch.ones(8, 8) for i in range(9)}
    save(state, storage_writer=FileSystemWriter(tmp_path / "dcp", thread_count=3), no_dist=True)
    memory.put(f"{tmp_path}/dcp/", "memory://dcp/", recursive=True)
    _same("memory://dcp", tmp_path / "dcp")
    assert not any("file" in note for note in open_checkpoint("memory://dcp").notes)
    memory.pipe("memory://dcp/__0_2.distcp", b"short")
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint("memory://dcp")


def test_a_file_that_changes_is_told(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    state = {f"layers.{i}.weight": torch.ones(64, 64) for i in range(20)}
    save_file(state, tmp_path / "a.safetensors")
    memory.put(str(tmp_path / "a.safetensors"), "memory://a.safetensors")
    checkpoint = open_checkpoint("memory://a.safetensors")
    memory.put(str(tmp_path / "a.safetensors"), "memory://a.safetensors")
    with pytest.raises(CheckpointError, match="changed"):
        checkpoint.read("layers.15.weight")
    memory.rm("memory://a.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.read("layers.15.weight")


def test_what_is_not_there(memory: fsspec.AbstractFileSystem, fails: Fails) -> None:
    fails("memory://no/such.safetensors", "missing")
    fails("memory://no/such", "missing")
    fails("file:///no/such/path", "missing")


def test_a_scheme_that_nobody_knows(fails: Fails) -> None:
    assert "nowhere" in fails("nowhere://bucket/a.ckpt", "unknown-scheme").found


@pytest.mark.parametrize(
    ("address", "module", "extra"), [("s3://bucket/a.ckpt", "s3fs", "s3"), ("gs://bucket/a", "gcsfs", "gcs")]
)
def test_a_package_that_is_not_installed(
    fails: Fails, monkeypatch: pytest.MonkeyPatch, address: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("s3", "gs"):
        monkeypatch.delitem(_registry, name, raising=False)
    error = fails(address, "missing-package")
    assert module in error.found
    assert f"pytest-lora-ckpt[{extra}]" in error.remedy
