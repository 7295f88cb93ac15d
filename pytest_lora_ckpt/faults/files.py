"""Damage to the bytes of the weights file: cut off, turned over, or not a checkpoint at all."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import Draft, NotApplicable, require
from pytest_lora_ckpt.faults.fault import ALL_LAYOUTS, LAYOUTS, TORCH_FILES, fault

if TYPE_CHECKING:
    from pathlib import Path


_SIGN = 0x80
_SAFETENSORS = frozenset({"safetensors", "peft_adapter"})
_LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize %d\n"
)
_PAGE = b"<!DOCTYPE html>\n<html>\n<body><p>Access denied. Log in to download this file.</p></body>\n</html>\n"


@fault(ALL_LAYOUTS, "file")
def truncated(draft: Draft) -> None:
    """A copy or a download stopped at two thirds of the file."""
    draft.patches.append(lambda path: os.truncate(path, path.stat().st_size * 2 // 3))


@fault(ALL_LAYOUTS, "file", erases=True)
def empty_file(draft: Draft) -> None:
    """The disk was full: the file is there and has 0 bytes."""
    draft.patches.append(lambda path: os.truncate(path, 0))


@fault(_SAFETENSORS, "file")
def trailing_bytes(draft: Draft) -> None:
    """A download was resumed at the wrong place: bytes of the beginning follow the end."""
    _require_safetensors(draft)

    def append(path: Path) -> None:
        with path.open("r+b") as file:
            start = file.read(1024)
            file.seek(0, os.SEEK_END)
            file.write(start)

    draft.patches.append(append)


@fault(_SAFETENSORS, "file")
def zero_tail(draft: Draft) -> None:
    """A download that allots the whole file first was broken off: the length is right and the end is zeros."""
    # Zero the bytes from the first byte of a LoRA tensor in the middle to the end.
    _require_safetensors(draft)
    starts = sorted(draft.checkpoint.pieces(key)[0].offset for key in selecting.lora_keys(draft))
    start = starts[len(starts) // 2]

    def zero(path: Path) -> None:
        size = path.stat().st_size
        os.truncate(path, start)
        os.truncate(path, size)

    draft.patches.append(zero)


@fault(ALL_LAYOUTS, "file", erases=True)
def lfs_pointer(draft: Draft) -> None:
    """Cloned without Git LFS: a pointer of three lines lies where the weights should."""
    pointer = _LFS_POINTER % draft.weights.stat().st_size
    draft.patches.append(lambda path: path.write_bytes(pointer))


@fault(ALL_LAYOUTS, "file", erases=True)
def web_page(draft: Draft) -> None:
    """Downloaded without logging in: the file is the page that says so."""
    draft.patches.append(lambda path: path.write_bytes(_PAGE))


@fault(LAYOUTS - {"lightning"}, "manifest")
def bit_flip(draft: Draft) -> None:
    """A bit turned over on the disk or on the way: one adapter value has the other sign, and no format checks it."""
    require(draft.checkpoint.format != "torch zip", "a zip archive has checksums: see bit-flip-in-zip")
    _flip(draft)


@fault(TORCH_FILES | {"peft_adapter"}, "file")
def bit_flip_in_zip(draft: Draft) -> None:
    """A bit turned over on the disk: the zip archive's checksum tells, and torch.load does not look at it."""
    require(draft.checkpoint.format == "torch zip", "it is not a zip archive and has no checksums: see bit-flip")
    _flip(draft)


def _flip(draft: Draft) -> None:
    """Turn the sign of the first value of a lora_B that is not zero."""
    for pair in draft.pairs:
        info, start = draft.keys[pair.up], draft.checkpoint.pieces(pair.up)[0].file_offset
        data, size = draft.checkpoint.read_bytes(pair.up), info.nbytes // max(info.numel, 1)
        values = range(0, len(data) - size + 1, max(size, 1)) if "float" in info.dtype else ()
        at = next((at for at in values if any(data[at : at + size])), None)
        if at is not None:
            draft.patches.append(partial(_turn_sign, start + at + size - 1))
            return
    raise NotApplicable("every lora_B is zero, or not of floats")


def _turn_sign(offset: int, path: Path) -> None:
    # The sign lies in the last byte of a little-endian float.
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ _SIGN]))


def _require_safetensors(draft: Draft) -> None:
    require(draft.checkpoint.format == "safetensors", "a torch file has its index at the end: see truncated")
