"""Which checkpoint a path stands for, where the path itself is none: the one that it belongs to, or that it holds.

A config, the state of the training, or a single shard stands for its directory; the directory of a run, which holds
nothing but its steps, for the best of them, or else for the newest.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts import LAYOUTS, distributed, distributed_safetensors, transformers_model
from pytest_lora_ckpt.checkpoint.layouts.json_file import read_object
from pytest_lora_ckpt.checkpoint.layouts.shards import index_of
from pytest_lora_ckpt.vocabulary.files import (
    CONFIGS,
    STEP_DIRECTORY,
    TRAINER_BEST,
    TRAINER_STATE,
    TRAINING_STATE_FILE,
)
from pytest_lora_ckpt.wording import block, count, printable

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.storage import Listing

_OTHER_FILES = frozenset({"no-state-dict", "not-a-checkpoint", "text-file", "pickle", "numpy"})
_NUMBER = re.compile(r"(?<![0-9])[0-9]{1,18}\Z")
_NO_STATE = "the state of a Trainer as it writes it, with a JSON object in it"


class Meant(NamedTuple):
    """What to open.

    Attributes:
        listing: Where it lies.
        note: Why it is not the path that was given; empty where it is.
    """

    listing: Listing
    note: str = ""


def meant(listing: Listing) -> Meant:
    """Return what a path stands for; the path itself, where nothing says otherwise."""
    if listing.name is None:
        return listing_of_run(listing)
    folder = dataclasses.replace(listing, name=None)
    if (index := index_of(listing, listing.name)) is not None:
        note = f"{listing.name} is one shard: all shards are audited, by {index}"
        is_whole = transformers_model.accepts(folder) and transformers_model.weights_in(folder) == index
        return Meant(folder if is_whole else dataclasses.replace(listing, name=index), note)
    if distributed.accepts(listing) or distributed_safetensors.accepts(listing):
        _names(folder)  # Over a network this answers at once what will be asked of the directory, name by name.
        return Meant(folder, f"{printable(listing.name)} is part of a distributed checkpoint: its directory is audited")
    is_config = listing.name in CONFIGS
    if is_config or re.fullmatch(TRAINING_STATE_FILE, listing.name):
        inside = listing_of_run(folder)
        if is_checkpoint(inside.listing):
            what = "the config" if is_config else "the state of the training"
            note = f"{listing.name} is {what}: the checkpoint in {inside.listing.folder} is audited"
            return Meant(inside.listing, note)
    return Meant(listing)


def name_the_checkpoint(error: CheckpointError, listing: Listing) -> None:
    """Say in an error on a file which checkpoint lies next to it."""
    if listing.name is None or error.problem not in _OTHER_FILES:
        return
    if is_checkpoint(folder := dataclasses.replace(listing, name=None)):
        error.remedy = block(
            f"{error.remedy}\nThe checkpoint next to it: --lora-ckpt={printable(folder.path)}", wrapped=False
        )


def stands_for_one(folder: Listing) -> bool:
    """Whether a directory is one checkpoint, readable or not, or that of a run, which stands for one of its steps."""
    return is_checkpoint(folder) or bool(_steps(folder))


def is_checkpoint(folder: Listing) -> bool:
    """Whether a directory is a checkpoint, readable or not, by the names in it."""
    try:
        return any(layout.accepts(folder) for layout in LAYOUTS)
    except OSError:
        return False  # Whoever opens it says that it cannot be read.


def listing_of_run(folder: Listing) -> Meant:
    """Return the step that the directory of a run stands for; the directory itself, where it is none."""
    if is_checkpoint(folder):
        return Meant(folder)
    steps = _steps(folder)
    if not steps:
        return Meant(folder)
    newest = max(steps, key=lambda name: steps[name][0])
    best, why = _best(steps, newest)
    taken = best or newest
    others = [name for name in steps if name != taken]
    if not others:
        return Meant(steps[taken][1], f"{printable(folder.path)} holds {taken}, which is audited")
    note = f"{printable(folder.path)} holds {count(len(steps), 'checkpoint')}: {taken} is audited, {why}"
    shown = f"--lora-ckpt={printable(folder.where(newest if taken != newest else others[-1]))}"
    return Meant(steps[taken][1], f"{note}; for {'the newest' if taken != newest else 'another'}: {shown}")


def _steps(folder: Listing) -> dict[str, tuple[int, Listing]]:
    """Return the checkpoints of a run, oldest first, with their numbers; none where they are not of one kind."""
    found = {}
    kinds = set()
    for name in _names(folder):
        if re.fullmatch(STEP_DIRECTORY, name) and (number := _NUMBER.search(name)):
            inside = folder.directory(name)
            if inside is not None and is_checkpoint(inside):
                found[name] = (int(number[0]), inside)
                kinds.add(name[: number.start()])
    if len(kinds) > 1:
        return {}  # Epochs and steps: which of them is the newest cannot be told.
    return dict(sorted(found.items(), key=lambda each: each[1][0]))


def _best(steps: dict[str, tuple[int, Listing]], newest: str) -> tuple[str | None, str]:
    """Return the step that the Trainer calls the best, and why it is taken, or why another is."""
    inside = steps[newest][1]
    if not inside.has(TRAINER_STATE):
        return None, "the newest"
    try:
        state = read_object(
            inside, TRAINER_STATE, "index_bytes", what="trainer-state", expected=_NO_STATE, remedy="Copy it again."
        ).value
    except CheckpointError as error:
        return None, f"the newest, as {TRAINER_STATE} cannot be read ({error.problem})"
    best = state.get(TRAINER_BEST)
    if not isinstance(best, str):
        return None, f"the newest: {TRAINER_STATE} names no best one"
    # A path of the machine that trained: its last part is the step.
    name = PurePath(best.replace("\\", "/")).name
    if name not in steps:
        return None, f"the newest: the best by {TRAINER_STATE}, {printable(name, 60)}, is not there"
    return name, f"the best by {TRAINER_STATE}" + (", and the newest" if name == newest else "")


def _names(folder: Listing) -> list[str]:
    try:
        return folder.names
    except OSError:
        return []
