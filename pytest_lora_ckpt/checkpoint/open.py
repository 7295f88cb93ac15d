"""`open_checkpoint`: from a path to a `Checkpoint`."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint import registry
from pytest_lora_ckpt.checkpoint.checkpoint import open_companion
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.vocabulary.files import LORA_WEIGHTS

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint

_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_SIBLINGS = 2000
_FILE_LAYOUTS = {"lightning", "torch"}


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the index of a checkpoint: names, shapes and dtypes, what lies around them; no tensor data.

    Nothing from the file is executed, nothing is written, and no file stays open. torch is not imported.

    Args:
        path: A torch file (zip or legacy format, with a state dict, or with one in an envelope as Lightning writes it),
            a safetensors file, a PEFT adapter directory or the weights file in one.

    Raises:
        CheckpointError: It is none of these, or broken; the message says which, why, and what to do.

    Example:
        >>> open_checkpoint("no/such.ckpt")
        Traceback (most recent call last):
        ...
        pytest_lora_ckpt.checkpoint.errors.CheckpointError: cannot read checkpoint no/such.ckpt (missing)
          expected: a checkpoint file or directory
          found: nothing under this path; no/ does not exist either
          what to do: Look at the path.
    """
    text = os.fspath(path)
    if _URL.match(text):
        raise CheckpointError(
            "url",
            text,
            expected="a path on this machine",
            found="an address: remote files are not read",
            remedy="Download it first and give the path of the copy.",
        )
    path = Path(text)
    if stat.S_ISDIR(_mode(path)):
        return registry.read_directory(path)
    checkpoint = registry.read_file(path)
    return _with_adapter(checkpoint) if checkpoint.layout in _FILE_LAYOUTS else checkpoint


def _mode(path: Path) -> int:
    """Return the kind of file, which must be a regular one or a directory: reading a pipe could wait for ever."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise _missing(path) from error
    except OSError as error:
        raise registry.unreadable(path, error) from error
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return mode
    raise CheckpointError(
        "not-a-file",
        path,
        expected="a regular file or a directory",
        found="a device, a pipe or a socket",
        remedy="Write it to a file first.",
    )


def _missing(path: Path) -> CheckpointError:
    import difflib  # Only a failure pays for it.

    try:
        names = [entry.name for _, entry in zip(range(_SIBLINGS), os.scandir(path.parent), strict=False)]
    except (OSError, ValueError):
        names = None
    near = difflib.get_close_matches(path.name, names or [], n=3, cutoff=0.5)
    meant = " or ".join(str(path.parent / name) for name in near)
    broken_link = path.is_symlink()
    where = f"; {path.parent}/ does not exist either" if names is None else ""
    return CheckpointError(
        "missing",
        path,
        expected="a checkpoint file or directory",
        found=f"a link to {path.readlink()}, which does not exist"
        if broken_link
        else f"nothing under this path{where}",
        remedy=f"Did you mean {meant}?" if meant and not broken_link else "Look at the path.",
    )


def _with_adapter(checkpoint: Checkpoint) -> Checkpoint:
    """Add the PEFT adapter that some projects save in `lora_weights/` beside the file, or why it cannot be read."""
    folder = checkpoint.path.parent / LORA_WEIGHTS
    if not folder.is_dir():
        return checkpoint
    companion = open_companion("adapter", folder, registry.read_directory)
    return dataclasses.replace(checkpoint, companions=(*checkpoint.companions, companion))
