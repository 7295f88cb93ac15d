"""One way to open a file: links, pipes, files that change, and the base model that a config names."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from pytest_lora_ckpt.checkpoint.limits import Budget
from pytest_lora_ckpt.checkpoint.storage import lies_in, may_be_opened
from pytest_lora_ckpt.checkpoint.window import FileWindow
from pytest_lora_ckpt.manifest import find_manifest, read_manifest

Fails = Callable[..., CheckpointError]

KEY = "base_model.model.layer.lora_A.weight"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    tensors = {KEY: torch.ones(2, 3), KEY.replace("lora_A", "lora_B"): torch.ones(3, 2)}
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["layer"]})
    )
    return folder


def linked(folder: Path, name: str, to: Path) -> None:
    """Move a file elsewhere, and leave a link to it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    (folder / name).rename(to)
    (folder / name).symlink_to(os.path.relpath(to, folder))


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_link_out_of_the_directory_is_not_followed(tmp_path: Path, fails: Fails, name: str) -> None:
    folder = adapter(tmp_path / "run")
    linked(folder, name, tmp_path / "elsewhere" / name)
    error = fails(folder, "link-outside")
    assert str(tmp_path / "elsewhere" / name) in error.found
    assert error.path.name == name


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_link_within_the_directory_is_followed(tmp_path: Path, name: str) -> None:
    folder = adapter(tmp_path / "run")
    linked(folder, name, folder / "store" / name)
    assert open_checkpoint(folder).read(KEY).sum() == 6


def test_what_the_user_names_may_be_a_link(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "run")
    (tmp_path / "latest").symlink_to(folder)
    (tmp_path / "last.safetensors").symlink_to(folder / WEIGHTS)
    assert open_checkpoint(tmp_path / "latest").layout == "peft_adapter"
    assert open_checkpoint(tmp_path / "last.safetensors").read(KEY).sum() == 6
    linked(folder, WEIGHTS, tmp_path / "elsewhere" / "w")
    assert open_checkpoint(folder / WEIGHTS).read(KEY).sum() == 6


def cached(tmp_path: Path) -> Path:
    """An adapter as the Hugging Face cache keeps it."""
    repository = tmp_path / "hub" / "models--me--adapter"
    folder = adapter(repository / "snapshots" / "0123abcd")
    for name in (WEIGHTS, CONFIG):
        linked(folder, name, repository / "blobs" / f"digest-of-{name}")
    return folder


def test_the_links_of_the_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    folder = cached(tmp_path)
    assert (folder / WEIGHTS).readlink() == Path("../../blobs") / f"digest-of-{WEIGHTS}"
    for path in (folder, folder / WEIGHTS):
        assert open_checkpoint(path).read(KEY).sum() == 6


def test_a_cache_that_leads_out_of_itself_is_not_followed(tmp_path: Path, fails: Fails) -> None:
    folder = cached(tmp_path)
    blobs = folder.parents[1] / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    fails(folder, "link-outside")


def test_a_linked_file_next_to_the_adapter_is_named_not_read(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "run")
    torch.save({"projector.weight": torch.ones(2, 2)}, tmp_path / "projector.pt")
    (folder / "projector.pt").symlink_to(tmp_path / "projector.pt")
    (found,) = open_checkpoint(folder).companions
    assert found.error is not None
    assert found.error.problem == "link-outside"


def test_a_linked_directory_is_not_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "run.ckpt")
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "run.ckpt").rename(run / "last.ckpt")
    (run / "lora_weights").symlink_to(adapter(tmp_path / "elsewhere"))
    (found,) = open_checkpoint(run / "last.ckpt").companions
    assert found.error is not None
    assert found.error.problem == "link-outside"


def test_a_linked_manifest_is_none(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "run")
    (tmp_path / "m.json").write_text('{"schema": 1, "tensors": {}}')
    (folder / "lora_manifest.json").symlink_to(tmp_path / "m.json")
    assert find_manifest(folder) is None
    assert read_manifest(folder / "lora_manifest.json").tensors == {}  # This one is named.


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "projector.pt", "lora_manifest.json", "config.yaml"])
def test_no_pipe_is_waited_for(tmp_path: Path, name: str) -> None:
    folder = adapter(tmp_path / "run")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    signal.alarm(5)
    try:
        with pytest.raises(OSError, match="no regular file"):
            FileWindow.of(str(folder / name), str(folder / name), Budget())
        assert find_manifest(folder) is None
        if name in {WEIGHTS, CONFIG}:
            with pytest.raises(CheckpointError):
                open_checkpoint(folder)
        else:
            assert open_checkpoint(folder).keys
    finally:
        signal.alarm(0)


FORMATS: dict[str, Callable[[Path, torch.Tensor], None]] = {
    "zip.pt": lambda path, tensor: torch.save({"w": tensor}, path),
    "legacy.pt": lambda path, tensor: torch.save({"w": tensor}, path, _use_new_zipfile_serialization=False),
    "a.safetensors": lambda path, tensor: save_file({"w": tensor}, path),
}


def opened(path: Path, elements: int) -> Checkpoint:
    FORMATS[path.name](path, torch.ones(elements))
    checkpoint = open_checkpoint(path)
    assert checkpoint.read("w").sum() == elements
    return checkpoint


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("elements", [10, 10_000_000], ids=["small", "big"])
@pytest.mark.parametrize(
    "change", ["shorter", "longer", "other contents", "another file", "gone", "a directory", "a pipe"]
)
def test_a_file_that_changes_after_opening_is_an_error(tmp_path: Path, name: str, elements: int, change: str) -> None:
    path = tmp_path / name
    checkpoint = opened(path, elements)
    if change == "shorter":
        os.truncate(path, path.stat().st_size - 5)
    elif change == "longer":
        os.truncate(path, path.stat().st_size + 5)
    elif change == "other contents":
        with path.open("r+b") as file:
            file.write(file.read(1))
        os.utime(path, ns=(0, 0))
    elif change == "another file":
        path.rename(tmp_path / "old")
        FORMATS[name](path, torch.zeros(elements))
        os.utime(path, ns=(0, (tmp_path / "old").stat().st_mtime_ns))
    else:
        path.unlink()
        if change == "a directory":
            path.mkdir()
        elif change == "a pipe":
            os.mkfifo(path)
    for read in (checkpoint.read, checkpoint.read_bytes):
        with pytest.raises(CheckpointError) as caught:
            read("w")
        assert caught.value.problem == "changed"


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_read_outlives_a_file_that_gets_shorter(tmp_path: Path, name: str) -> None:
    """A map of it would end the process."""
    checkpoint = opened(tmp_path / name, 10_000_000)
    tensor, data = checkpoint.read("w"), checkpoint.read_bytes("w")
    os.truncate(tmp_path / name, 0)
    assert tensor.sum() == 10_000_000
    assert bytes(data[-4:]) == b"\0\0\x80\x3f"


@pytest.mark.parametrize(
    ("path", "folder", "inside"),
    [
        ("a/b", "a", True),
        ("a", "a", True),
        ("a/../b", "a", False),
        ("ab", "a", False),
        ("..", "a", False),
        ("c/models--x/blobs/1", "c/models--x/snapshots/rev", True),
        ("c/models--x/blobs/1", "c/models--x/snapshots/rev/unet", True),
        ("c/models--y/blobs/1", "c/models--x/snapshots/rev", False),
        ("c/models--x/snapshots/other/1", "c/models--x/snapshots/rev", False),
    ],
)
def test_what_lies_in_a_directory(tmp_path: Path, path: str, folder: str, *, inside: bool) -> None:
    assert lies_in(str(tmp_path / path), str(tmp_path / folder)) is inside


@pytest.mark.parametrize(
    ("base", "allowed"),
    [
        ("run/adapter/base", True),
        ("run/base", True),
        ("run/adapter/../base", True),
        ("base", False),
        ("run/adapter/../../base", False),
        ("work/base", True),
        ("hub/models--x/snapshots/rev", True),
        ("run/link", False),
        ("/", False),
        ("/proc/self/cwd", False),
    ],
)
def test_a_base_model_that_a_config_names(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch, *, allowed: bool
) -> None:
    for folder in ("run/adapter/base", "run/base", "base", "work/base", "hub/models--x/snapshots/rev"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run" / "link").symlink_to(tmp_path / "base")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "run" / "adapter"
    assert may_be_opened(str(tmp_path / base), folder) is allowed
    assert may_be_opened(os.path.relpath(tmp_path / base), folder) is allowed


def test_the_directory_above_is_not_the_whole_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert not may_be_opened("/etc", Path("/adapter"))
    assert not may_be_opened("/etc", Path("/adapter/a.ckpt"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs the list of open files")
def test_an_error_that_is_kept_keeps_no_file_open(tmp_path: Path, fails: Fails) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(3)}, path)
    data = path.read_bytes()
    second = data.index(b"PK\x03\x04", 4)
    path.write_bytes(data[:second] + b"XX" + data[second + 2 :])
    error = fails(path, "damaged")
    links = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert not [link for link in links if str(path) in str(link.readlink())]
    assert "no header" in error.found
