"""Where the manifest of a checkpoint lies: `find_manifest`. Each audit looks, and few find one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.storage import lies_in
from pytest_lora_ckpt.vocabulary.files import MANIFEST

if TYPE_CHECKING:
    import os

    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.window import Window


def find_manifest(checkpoint_path: str | os.PathLike[str]) -> Path | None:
    """Return the manifest that belongs to a checkpoint, or None.

    For a directory (an adapter, a Trainer's `checkpoint-500`) that is `lora_manifest.json` in it. For a file it is
    `NAME.lora_manifest.json` next to `NAME.ckpt`, which belongs to that file alone, else `lora_manifest.json` there. A
    link out of the directory is none.

    Example:
        >>> find_manifest("no/such.ckpt") is None
        True
    """
    path = Path(checkpoint_path)
    try:
        places = [path / MANIFEST] if path.is_dir() else [own_name(path), path.parent / MANIFEST]
        return next((each for each in places if each.is_file() and lies_in(str(each), str(each.parent))), None)
    except (OSError, ValueError):  # A name that no file can have.
        return None


def manifest_next_to(checkpoint: Listing) -> Window | None:
    """Return the manifest of a checkpoint that lies elsewhere than on this machine, as `find_manifest` looks for it."""
    own = [] if checkpoint.name is None else [own_name(Path(checkpoint.name)).name]
    name = next(filter(checkpoint.has, [*own, MANIFEST]), None)
    return None if name is None else checkpoint.window(name)


def own_name(checkpoint_path: Path) -> Path:
    """Return the name of the manifest that belongs to one file among several in a directory.

    Example:
        >>> own_name(Path("run/epoch=1.ckpt")).name
        'epoch=1.lora_manifest.json'
    """
    return checkpoint_path.parent / f"{checkpoint_path.stem}.{MANIFEST}"
