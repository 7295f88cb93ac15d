"""The readers, found by looking into their folder, and which of them reads a path."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, cast

from pytest_lora_ckpt.checkpoint import unsupported
from pytest_lora_ckpt.checkpoint.errors import CheckpointError, NotMineError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint, Reader

HEAD = 4096  # Bytes of the beginning that every reader may judge by.


@cache
def readers() -> tuple[Reader, ...]:
    """Return all readers, in the order in which they are asked: those that look at names first."""
    names = ("peft_directory", "safetensors_file", "torch_legacy", "torch_zip")
    folder = "pytest_lora_ckpt.checkpoint.formats"
    return tuple(cast("Reader", importlib.import_module(f"{folder}.{name}")) for name in names)


def read_file(path: Path, *, but: tuple[str, ...] = ()) -> Checkpoint:
    """Read a file by the first reader that takes it, those named in `but` left out.

    Raises:
        CheckpointError: No reader takes it, or the one that does finds it broken.
    """
    head = _head(path)
    if not head:
        raise CheckpointError(
            "empty-file",
            path,
            expected="a checkpoint",
            found="a file of 0 bytes",
            remedy="Copy it again: a full disk or an interrupted download leaves such a file.",
        )
    if (known := unsupported.recognise_head(path, head)) is not None:
        raise known
    return _ask(path, head, but)


def read_directory(path: Path) -> Checkpoint:
    """Read a directory by the first reader that takes it.

    Raises:
        CheckpointError: No reader takes it, or the one that does finds it broken.
    """
    return _ask(path, b"", ())


def _ask(path: Path, head: bytes, but: tuple[str, ...]) -> Checkpoint:
    reasons: list[str] = []
    for reader in readers():
        if reader.NAME in but:
            continue
        if not reader.accepts(head, path):
            reasons.append(f"{reader.NAME}: expects {reader.EXPECTS}")
            continue
        try:
            return reader.read(path)
        except NotMineError as error:
            reasons.append(f"{reader.NAME}: {error}")
        except OSError as error:
            raise unreadable(path, error) from error
    raise unsupported.not_a_checkpoint(path, head, reasons)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Return what to say when the operating system does not let the file be read."""
    denied = isinstance(error, PermissionError)
    return CheckpointError(
        "no-permission" if denied else "unreadable",
        path,
        expected="a file that this user may read" if denied else "a file that can be read",
        found=error.strerror or str(error),
        remedy="Give read permission (`chmod +r`, and `+x` for the directories above), or run as its owner."
        if denied
        else "Look at the path and at the disk.",
    )
