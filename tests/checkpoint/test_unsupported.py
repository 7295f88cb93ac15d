"""What is not a checkpoint is named, with a remedy."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt.checkpoint import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

Fails = Callable[..., CheckpointError]

FILES: dict[str, tuple[bytes, str, str]] = {
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "hdf5", "HDF5"),
    "numpy": (b"\x93NUMPY\x01\0" + bytes(100), "numpy", "numpy"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x05" + bytes(100), "onnx", "ONNX"),
    "gzip": (gzip.compress(b"x"), "gzip", "gzip"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(100), "tflite", "TensorFlow Lite"),
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web-page", "web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web-page", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n", "git-lfs-pointer", "git-LFS"),
    "text": ("Größe: 12\nsecond line".encode(), "text-file", "'Größe: 12'"),
    "long text": (("é" * 4000).encode(), "text-file", "text file"),
    "json": (b'{"r": 8}', "text-file", '{"r": 8}'),
    "zeros": (bytes(5000), "zeros", "zeros"),
    "noise": (bytes(range(255, 100, -1)), "not-a-checkpoint", "155 bytes that begin ff fe fd"),
    "short": (b"\x00\x01", "truncated", "only 2 bytes"),
    "empty": (b"", "empty-file", "0 bytes"),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path: Path, fails: Fails, name: str) -> None:
    contents, problem, words = FILES[name]
    (tmp_path / "a.ckpt").write_bytes(contents)
    error = fails(tmp_path / "a.ckpt", problem)
    assert words in error.found


def test_the_error_lists_each_reader_with_its_reason(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "a.ckpt").write_text("hello")
    found = fails(tmp_path / "a.ckpt").found
    for reader in ("safetensors", "torch legacy", "torch zip"):
        assert f"\n{reader}: " in found


DIRECTORIES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "runs": (("last.ckpt", "best.ckpt", "hparams.yaml"), "directory-of-checkpoints", "best.ckpt"),
    "nested": (("a/b/epoch=3.ckpt",), "directory-of-checkpoints", "a/b/epoch=3.ckpt"),
    "other": (("notes.txt",), "not-a-checkpoint", "PEFT adapter directory"),
    "none": ((), "not-a-checkpoint", "PEFT adapter directory"),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directories(tmp_path: Path, fails: Fails, name: str) -> None:
    files, problem, words = DIRECTORIES[name]
    folder = tmp_path / "given"
    folder.mkdir()
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    error = fails(folder, problem)
    assert words in error.remedy
    assert problem == "directory-of-checkpoints" or all(file.partition("/")[0] in error.found for file in files[-1:])


def test_of_many_checkpoints_a_few_are_named(tmp_path: Path, fails: Fails) -> None:
    for number in range(40):
        (tmp_path / f"epoch={number:02}.ckpt").touch()
    remedy = fails(tmp_path, "directory-of-checkpoints").remedy
    assert "epoch=04.ckpt" in remedy
    assert "epoch=05.ckpt" not in remedy
    assert "35 more" in remedy


def test_links_that_go_in_circles(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    fails(tmp_path, "not-a-checkpoint")


def test_a_torch_file_is_none_of_these(tmp_path: Path, fails: Fails) -> None:
    torch.save({"epoch": 1}, tmp_path / "a.ckpt")
    fails(tmp_path / "a.ckpt", "no-state-dict")
