"""Which checkpoints a pattern or a directory of runs stands for: by names alone, nothing is read."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import is_address
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.limits import MAX_ENTRIES, MAX_LEVELS, Budget
from pytest_lora_ckpt.checkpoint.meant import stands_for_one
from pytest_lora_ckpt.checkpoint.schemes import storage_for
from pytest_lora_ckpt.checkpoint.storage import LocalStorage, lies_in
from pytest_lora_ckpt.vocabulary.files import GGUF_ENDING, TRAINING_STATE, WEIGHTS_ENDINGS
from pytest_lora_ckpt.wording import count, listed, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_lora_ckpt.checkpoint.storage import Listing

_MAGIC = re.compile(r"[*?\[]")
_NUMBERS = re.compile(r"(\d+)")
_MOST = 1000
_SHOWN = 5


class TooManyError(ValueError):
    """There is more below a directory than is looked at, or is audited in one run.

    Attributes:
        found: The checkpoints that were found so far.
    """

    def __init__(self, message: str, found: Iterable[str]) -> None:
        super().__init__(f"{message}. Name fewer: a directory further down, or a pattern such as `runs/*/best.ckpt`.")
        self.found = list(found)


def is_pattern(text: str) -> bool:
    """Whether a path is a pattern; one that exists as it is written, brackets included, is none.

    Example:
        >>> is_pattern("runs/*/best.ckpt"), is_pattern("runs/best.ckpt"), is_pattern("https://host/a.ckpt?x=*")
        (True, False, False)
    """
    return not is_address(text) and _MAGIC.search(text) is not None and not os.path.lexists(text)


def meant_by(text: str) -> tuple[str, ...]:
    """Return the checkpoints that a path stands for, in the order in which people count.

    The path of a checkpoint stands for itself, as does one under which nothing lies; a pattern for all that matches;
    and a directory that is no checkpoint itself for those below it.

    Raises:
        ValueError: Nothing matches the pattern, or too much is meant; the message says what there is instead.
    """
    if not is_pattern(text):
        return _in_directory(text) or (text,)
    matches = sorted(glob.glob(text, recursive=True), key=counting)  # noqa: PTH207
    if not matches:
        raise ValueError(_nothing_matches(text))
    is_named = Path(text).suffix != "" or not is_pattern(Path(text).name)
    found = dict.fromkeys(each for match in matches for each in _of_match(match, is_named=is_named))
    if not found:
        raise ValueError(f"of the {count(len(matches), 'match', 'matches')} none is a checkpoint: {listed(matches)}.")
    return _few(tuple(found))


def counting(path: str) -> list[tuple[int, str]]:
    """Return what sorts paths as people count: `checkpoint-2` before `checkpoint-10`.

    Example:
        >>> sorted(["checkpoint-10", "checkpoint-2"], key=counting)
        ['checkpoint-2', 'checkpoint-10']
    """
    parts = _NUMBERS.split(path)
    return [(int(part), "") if part.isdecimal() and part.isascii() else (0, part) for part in parts]


def checkpoints_below(listing: Listing) -> list[str]:
    """Return the checkpoints in a directory and a little below it, the nearest first.

    They are the directories that some layout accepts, or that hold the steps of one run, and in all others the files
    with weights; not what hides behind a dot, and not a training's own state. A link is followed within the directory
    only, and to what is not found without.

    Raises:
        TooManyError: There is more below it than is looked at.
        OSError: A directory cannot be read.
    """
    found: list[str] = []
    level, seen = [listing], 0
    for _ in range(MAX_LEVELS):
        below: list[Listing] = []
        for here in level:
            names = [name for name in here.names if not name.startswith((".", "__"))]
            left, seen = MAX_ENTRIES - seen, seen + len(names)
            names = [name for name in names[: max(left, 0)] if _is_here(here.where(name), listing.folder)]
            folders = [folder for folder in map(here.directory, names) if folder is not None]
            below += [folder for folder in folders if not stands_for_one(folder)]
            found += [folder.path for folder in folders if stands_for_one(folder)]
            found += [here.where(name) for name in names if has_weights(name) and here.has(name)]
        level = below
    found.sort(key=os.path.islink)
    once = {os.path.realpath(path): path for path in reversed(found)}.values()
    found = sorted(once, key=lambda path: (len(Path(path).parts), counting(path)))
    if seen > MAX_ENTRIES:
        raise TooManyError(f"there are more than {MAX_ENTRIES} files and directories below it", found)
    return found


def has_weights(name: str) -> bool:
    """Whether a file may hold weights, by its name.

    Example:
        >>> has_weights("last.ckpt"), has_weights("optimizer.pt"), has_weights("config.json")
        (True, False, False)
    """
    return name.endswith((*WEIGHTS_ENDINGS, GGUF_ENDING)) and not name.startswith(TRAINING_STATE)


def _is_here(path: str, top: str) -> bool:
    """Whether a name is no link, or one to a file in the directory; a link to a directory may lead in a circle."""
    return not os.path.islink(path) or (lies_in(path, top) and os.path.isfile(path))  # noqa: PTH113, PTH114


def _in_directory(text: str) -> tuple[str, ...]:
    """Return the checkpoints below a directory that is none itself; nothing for what is no such directory."""
    if is_address(text):  # No server is asked before the checks run.
        return ()
    try:
        listing = storage_for(text, Budget()).locate(text)
        if listing.name is not None or stands_for_one(listing):
            return ()
        return _few(tuple(checkpoints_below(listing)))
    except (CheckpointError, OSError):
        return ()  # The check `readable` says what is wrong with it.


def _of_match(match: str, *, is_named: bool) -> tuple[str, ...]:
    """Return what a match of a pattern stands for; a file counts if its name was asked for, or is one of weights."""
    if os.path.isdir(match):  # noqa: PTH112
        listing = LocalStorage().locate(match)
        return (match,) if stands_for_one(listing) else _in_directory(match)
    return (match,) if is_named or has_weights(Path(match).name) else ()


def _few(paths: tuple[str, ...]) -> tuple[str, ...]:
    if len(paths) > _MOST:
        raise TooManyError(f"these are {len(paths)} checkpoints, and at most {_MOST} are audited in one run", paths)
    return paths


def _nothing_matches(pattern: str) -> str:
    """Say from where on a pattern matches nothing, and what there is instead."""
    path = Path(pattern)
    wrong = next(each for each in (*reversed(path.parents), path) if not glob.glob(str(each)))  # noqa: PTH207
    tops = glob.glob(str(wrong.parent))[:MAX_ENTRIES]  # noqa: PTH207
    names: dict[str, None] = {}
    for top in tops:
        with contextlib.suppress(OSError):
            names |= dict.fromkeys(entry.name for _, entry in zip(range(MAX_ENTRIES), os.scandir(top), strict=False))
    ordered = sorted(names, key=counting)
    where = printable(wrong.parent) if len(tops) == 1 else f"the {len(tops)} matches of {printable(wrong.parent)}"
    import difflib  # Only a failure pays for it.

    near = difflib.get_close_matches(wrong.name, ordered, n=1)
    said = (
        f"nothing matches: {where} has no {printable(wrong.name)}, but {listed(ordered, _SHOWN) or 'nothing at all'}."
    )
    meant = str(wrong.parent / near[0] / path.relative_to(wrong)) if near else ""
    return f"{said} Did you mean {printable(meant)}?" if meant else said
