"""From a path to a checkpoint or to an error that says what to do."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pytest_lora_ckpt.checkpoint import CheckpointError, UnknownKeyError, open_checkpoint
from tests.helpers.checkpoint_samples import zip_around

Fails = Callable[..., CheckpointError]
Untouched = Callable[[], None]


def test_a_missing_path_names_its_neighbours(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "best.ckpt").touch()
    (tmp_path / "unlike").touch()
    remedy = fails(tmp_path / "bset.ckpt", "missing").remedy
    assert str(tmp_path / "best.ckpt") in remedy
    assert "unlike" not in remedy
    assert "does not exist either" in fails(tmp_path / "no" / "such", "missing").found
    fails(tmp_path / "best.ckpt" / "inside", "missing")
    fails("a\0b", "missing")
    fails("x" * 1500, "unreadable")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert "gone" in fails(tmp_path / "link", "missing").found


def test_a_path_may_be_text_or_path_or_a_link(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").symlink_to(tmp_path / "a.pt")
    for path in (str(tmp_path / "a.pt"), tmp_path / "a.pt", tmp_path / "b.pt"):
        assert list(open_checkpoint(path).keys) == ["w"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path, fails: Fails) -> None:
    os.mkfifo(tmp_path / "pipe")
    fails(tmp_path / "pipe", "not-a-file")
    fails("/dev/zero", "not-a-file")


def test_no_permission(tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    (tmp_path / "a.pt").chmod(0)
    if os.access(tmp_path / "a.pt", os.R_OK):  # The superuser may read all.

        def deny(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pytest_lora_ckpt.checkpoint.window.FileIO", deny)
    assert "chmod" in fails(tmp_path / "a.pt", "no-permission").remedy


def test_opening_and_reading_write_nothing(tmp_path: Path, untouched: Untouched) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    (tmp_path / "b.ckpt").write_bytes(b"PK\x03\x04")
    untouched()
    open_checkpoint(tmp_path / "a.pt").read("w")
    for path in (tmp_path / "b.ckpt", tmp_path, tmp_path / "gone"):
        with pytest.raises(CheckpointError):
            open_checkpoint(path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs the list of open files")
def test_no_file_stays_open(tmp_path: Path) -> None:
    def held() -> list[str]:
        links = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        return [str(link.readlink()) for link in links if str(tmp_path) in str(link.readlink())]

    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    torch.save({"w": torch.ones(3)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for path in (tmp_path / "a.pt", tmp_path / "b.pt"):
        checkpoint = open_checkpoint(path)
        assert held() == []
        tensor, data = checkpoint.read("w"), checkpoint.read_bytes("w")
        path.unlink()
        assert tensor.tolist() == [1, 1, 1]
        assert len(data) == 12
        del tensor, data
        assert held() == []


def test_opening_and_reading_bytes_import_no_torch_and_no_numpy(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.save({"state_dict": {"w": torch.ones(2)}, "hyper_parameters": {"x": Path("y")}}, tmp_path / "a.ckpt")
    torch.save({"w": torch.ones(2)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    save_file({"w": torch.ones(2)}, tmp_path / "c.safetensors")
    (tmp_path / "lora_weights").mkdir()
    (tmp_path / "lora_weights" / "adapter_config.json").write_text("{}")
    save_file({"m.lora_A.weight": torch.ones(2, 2)}, tmp_path / "lora_weights" / "adapter_model.safetensors")
    program = """
import sys
from pytest_lora_ckpt.checkpoint import open_checkpoint
for path in sys.argv[1:]:
    checkpoint = open_checkpoint(path)
    repr(checkpoint), repr(checkpoint.envelope), checkpoint.adapters
    for key in checkpoint.keys:
        assert bytes(checkpoint.read_bytes(key)) == b"\\0\\0\\x80?" * checkpoint.keys[key].numel
    assert checkpoint.layout != "lightning" or checkpoint.adapter_beside is not None
heavy = {"torch", "numpy", "safetensors", "peft", "lightning", "transformers", "hypothesis", "pickle"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    paths = [tmp_path / name for name in ("a.ckpt", "b.pt", "c.safetensors", "lora_weights")]
    subprocess.run([sys.executable, "-W", "error", "-c", program, *paths], check=True)


def test_an_error_survives_the_way_from_another_process() -> None:
    for kind in (CheckpointError, UnknownKeyError):
        error = kind("missing", Path("a.ckpt"), expected="x", found="y\nz", remedy="w")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert str(again) == str(error)
        assert (again.problem, again.path) == ("missing", Path("a.ckpt"))
    assert "    z" in str(error)


HOSTILE_NAME = "w\x1b[2J\u202e\r\n##[error]"


@pytest.mark.parametrize("kind", ["record", "entry", "global", "file"])
def test_what_a_file_says_is_printed_safely(tmp_path: Path, fails: Fails, kind: str) -> None:
    path = tmp_path / "a.ckpt"
    if kind == "record":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(HOSTILE_NAME, "x")
    elif kind == "entry":
        torch.save({HOSTILE_NAME: 1}, path)
    elif kind == "global":
        zip_around(b"\x80\x02}X\x01\0\0\0xcos\nsys\x1b[2Jtem\n)Rs.", path)
    else:
        path = tmp_path / "folder"
        path.mkdir()
        (path / HOSTILE_NAME).touch()
    lines = str(fails(path)).split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any("##[" in line for line in lines)
    assert any("\\x1b" in line for line in lines)
