"""Which files of a directory are one checkpoint of DeepSpeed: the directory of a tag, and a file for each rank."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.vocabulary.files import (
    UNIVERSAL_LATEST,
    ZERO_FILE,
    ZERO_LATEST,
    ZERO_PARALLEL_FILE,
    ZERO_SCRIPT,
    ZERO_STEP,
)
from pytest_lora_ckpt.wording import listed, printable

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.storage import Listing

EXPECTED = "DeepSpeed's files of one save: `*_model_states.pt`, and for ZeRO an `*_optim_states.pt` of each rank"
COPY_ALL = "Copy the whole directory again, from one `save_checkpoint`: every process must have written its files."

_FILE = re.compile(ZERO_FILE)
_PARALLEL = re.compile(ZERO_PARALLEL_FILE)
_STEP = re.compile(ZERO_STEP)
_LATEST = frozenset({ZERO_LATEST, UNIVERSAL_LATEST})
_NAME_BYTES = 1000


@dataclass(slots=True)
class RankFiles:
    """The files of one checkpoint, by the rank that wrote each.

    Attributes:
        models: Those with the model's states. Rank 0 alone writes one, except under ZeRO 3.
        optimizers: Those with the optimizer's.
        is_split: Whether each rank writes its model's states, as under ZeRO 3.
    """

    models: dict[int, str] = field(default_factory=dict)
    optimizers: dict[int, str] = field(default_factory=dict)
    is_split: bool = False


def is_rank_file(name: str) -> bool:
    """Whether a file is called as DeepSpeed calls those of the ranks."""
    return _FILE.fullmatch(name) is not None or _PARALLEL.fullmatch(name) is not None


def has_rank_files(folder: Listing) -> bool:
    """Whether DeepSpeed wrote its files into this directory."""
    return any(map(is_rank_file, _names(folder)))


def is_run(folder: Listing) -> bool:
    """Whether DeepSpeed wrote its checkpoints into this directory, whatever is left of them."""
    names = _names(folder)
    steps = (name for name in names if _STEP.fullmatch(name) and folder.directory(name))
    return ZERO_SCRIPT in names or any(steps) or bool(tags(folder))


def tags(folder: Listing) -> list[str]:
    """List the directories in which the checkpoints of a run lie, the newest last, as far as their names tell."""
    names = _names(folder)
    own = names if not _LATEST.isdisjoint(names) else filter(_STEP.fullmatch, names)
    found = [name for name in own if (inside := folder.directory(name)) is not None and has_rank_files(inside)]
    return sorted(found, key=_step)


def directory_of(folder: Listing) -> tuple[Listing, tuple[str, ...]]:
    """Return the directory with the files of the ranks, and what is worth saying of the choice.

    Raises:
        CheckpointError: There is none, or `latest` names another.
    """
    if has_rank_files(folder):
        return folder, ()
    there = tags(folder)
    latest = next(filter(folder.has, (ZERO_LATEST, UNIVERSAL_LATEST)), None)
    if latest is None:
        notes = (f"`{ZERO_LATEST}` is not there: the newest of {listed(there)} is read",) if len(there) > 1 else ()
        return _inside(folder, there[-1] if there else None), notes
    tag = folder.window(latest).read(0, _NAME_BYTES).decode("utf-8", "replace").strip()
    if tag not in there:  # Nor does one that is a path lead to other files.
        what = "holds none of DeepSpeed's files" if tag in _names(folder) else "is not there"
        found = f"`{latest}` names {printable(repr(tag), 200)}, which {what}"
        raise _no_files(folder, "missing-tag", found, there)
    others = [name for name in there if name != tag]
    notes = (f"`{latest}` names {printable(tag, 100)}: {listed(others)} next to it not read",) if others else ()
    return _inside(folder, tag), notes


def _inside(folder: Listing, tag: str | None) -> Listing:
    inside = folder.directory(tag) if tag is not None else None
    if inside is None:
        raise _no_files(folder, "no-rank-files", f"only {listed(_names(folder), 6)}", [])
    return inside


def _no_files(folder: Listing, problem: str, found: str, there: list[str]) -> CheckpointError:
    newest = f"Give the directory that is there: {folder.where(there[-1])}. Or copy the run again." if there else ""
    return CheckpointError(problem, folder.path, expected=EXPECTED, found=found, remedy=newest or COPY_ALL)


def rank_files(folder: Listing) -> RankFiles:
    """Return the files of the ranks.

    Raises:
        CheckpointError: They are of a model that is spread over processes in other ways, or of two runs.
    """
    files, parallel = RankFiles(), []
    for name in folder.names:
        if _PARALLEL.fullmatch(name):
            parallel.append(name)
        elif (found := _FILE.fullmatch(name)) is not None:
            if int(found["parallel"]):
                parallel.append(name)
                continue
            is_model = found["kind"] == "model"
            files.is_split |= is_model and found["rank"] is not None
            of_kind = files.models if is_model else files.optimizers
            rank = int(found["rank"] or 0)
            if rank in of_kind:
                two = f"two files of rank {rank}: {listed((of_kind[rank], name))}"
                raise other_run(folder.where(name), two)
            of_kind[rank] = name
    if parallel:
        raise spread(folder, f"{listed(parallel)}: parts of tensors, experts, or layers of a pipeline")
    return files


_OTHER_RUN = "Files of an earlier run lie in the directory: " + COPY_ALL[0].lower() + COPY_ALL[1:]


def spread(folder: Listing, found: str) -> CheckpointError:
    """Return the error for a model that is spread over processes not by ZeRO alone."""
    return CheckpointError(
        "model-parallel",
        folder.path,
        expected="a checkpoint of data-parallel training: DeepSpeed's ZeRO 0 to 3",
        found=f"one of tensor or pipeline parallelism or of experts, which is not read: {found}",
        remedy="Let the training write the whole model (`save_16bit_model`, or the adapter's `save_pretrained`), and"
        " give that.",
    )


def other_run(path: str, found: str) -> CheckpointError:
    """Return the error for a file that is not of the same save as the others, or for their directory."""
    return CheckpointError("other-run", path, expected=EXPECTED, found=found, remedy=_OTHER_RUN)


def _names(folder: Listing) -> list[str]:
    try:
        return folder.names
    except OSError:
        return []


def _step(name: str) -> tuple[int, str]:
    found = _STEP.fullmatch(name)
    return (int(found[1]) if found and len(found[1]) < _DIGITS else -1, name)


_DIGITS = 20
