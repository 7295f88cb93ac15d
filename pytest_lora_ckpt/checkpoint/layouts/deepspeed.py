"""A checkpoint of DeepSpeed's ZeRO: the model whole, put together from the files of all ranks.

Source: deepspeed/utils/zero_to_fp32.py. Unlike that script, this reads the frozen weights of ZeRO 1 too.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts.single_file import check_tensors
from pytest_lora_ckpt.checkpoint.layouts.torch_envelope import what_it_is
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.checkpoint.zero.files import (
    COPY_ALL,
    EXPECTED,
    directory_of,
    has_rank_files,
    is_rank_file,
    is_run,
    other_run,
    rank_files,
    spread,
    tags,
)
from pytest_lora_ckpt.checkpoint.zero.model import put_together
from pytest_lora_ckpt.checkpoint.zero.pieces import ZeroSource
from pytest_lora_ckpt.checkpoint.zero.states import UnfitStateError, model_state, optimizer_state
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.vocabulary.files import ZERO_LATEST, ZERO_SCRIPT
from pytest_lora_ckpt.wording import count, listed, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import TypeVar

    from pytest_lora_ckpt.checkpoint.index import FileIndex
    from pytest_lora_ckpt.checkpoint.layouts import IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.zero.states import ModelState, OptimizerState

    State = TypeVar("State", ModelState, OptimizerState)

NAME = "DeepSpeed checkpoint"
EXPECTS = f"a directory with `*_model_states.pt`, or with `{ZERO_LATEST}` and such a directory, or one of those files"

_SHOWN = 8
_COPY_NOTE = (
    "the optimizer's files (`*_optim_states.pt`) are not there: the values are the copy that training computed with,"
    " not its fp32 masters"
)
_STAGE_0_NOTE = (
    "DeepSpeed without ZeRO keeps its fp32 masters in the optimizer's state, without names: the values are the copy"
    " that training computed with"
)


def accepts(listing: Listing) -> bool:
    """See `Layout`."""
    if listing.name is None:
        return has_rank_files(listing) or is_run(listing)
    around = _around(listing)
    if is_rank_file(listing.name):
        return has_rank_files(around)  # A web server may not list the other files: then this is one by itself.
    return listing.name in {ZERO_LATEST, ZERO_SCRIPT} and is_run(around)


def assemble(listing: Listing, index_file: IndexFile) -> Checkpoint:
    """See `Layout`."""
    folder, notes = directory_of(_around(listing))
    files = rank_files(folder)
    if not files.models:
        raise _missing(folder, f"only the optimizer's files: {listed(files.optimizers.values())}")
    folder.expect([*files.models.values(), *files.optimizers.values()])
    models = _read(folder, files.models, index_file, model_state)
    optimizers = _read(folder, files.optimizers, index_file, optimizer_state)
    _check_ranks(folder, models, optimizers)
    first = next(iter(models.values()))
    try:
        made = put_together(list(models.values()), list(optimizers.values()))
    except UnfitStateError as error:
        raise other_run(folder.path, str(error)) from error
    keys = KeySet(made.infos)
    states: list[ModelState | OptimizerState] = [*models.values(), *optimizers.values()]
    check_tensors(keys, first.index.window, sum(each.index.window.length for each in states))
    return Checkpoint(
        path=place(listing.path),
        layout="deepspeed",
        format=first.index.format,
        keys=keys,
        source=ZeroSource(made.parts),
        files=tuple(place(folder.where(each.name)) for each in states),
        envelope=first.envelope,
        opaque_keys={key: what_it_is(value) for key, value in made.opaque.items()},
        globals=tuple(asked for each in states for asked in each.index.globals),
        notes=(*notes, *made.notes, *_notes(first, list(optimizers.values())), *first.index.notes),
        budget=first.index.window.budget,
    )


def beside(listing: Listing) -> str:
    """Say in a note which checkpoint of DeepSpeed lies in the directory of another one; empty where there is none."""
    folder = _around(listing)
    if not (there := tags(folder)):
        return ""
    masters = printable(folder.where(there[-1]))
    return f"DeepSpeed's own files lie next to it, with the fp32 masters of what was trained: --lora-ckpt={masters}"


def _around(listing: Listing) -> Listing:
    """Return the directory in which the file lies that was given."""
    return type(listing)(listing.storage, listing.folder)


def _read(
    folder: Listing,
    names: dict[int, str],
    index_file: IndexFile,
    take: Callable[[str, FileIndex], State],
) -> dict[int, State]:
    """Read the files of one kind, rank 0's first."""
    states = {}
    for rank, name in sorted(names.items()):
        index = index_file(folder, name)
        try:
            states[rank] = take(name, index)
        except UnfitStateError as error:
            raise CheckpointError(
                "no-state-dict", folder.where(name), expected=EXPECTED, found=str(error), remedy=COPY_ALL
            ) from error
    return states


def _check_ranks(folder: Listing, models: dict[int, ModelState], optimizers: dict[int, OptimizerState]) -> None:
    """Check that there is a file of every rank, and that all are of one save."""
    first = next(iter(models.values()))
    size = first.envelope.get("mp_world_size")
    if type(size) is int and size > 1:
        raise spread(folder, f"`mp_world_size` is {describe(size)}")
    is_zero_3 = len(models) > 1 or any(each.is_split for each in optimizers.values())
    if not first.trained and not optimizers:
        return
    if not optimizers:
        if is_zero_3:
            raise _missing(folder, "the files with the model's states, and none with the optimizer's")
        return
    ranks = max(each.ranks or len(optimizers) for each in optimizers.values())
    _check_all(folder, "`*_optim_states.pt`", optimizers, ranks)
    if is_zero_3:
        _check_all(folder, "`*_model_states.pt`", models, ranks)
    _check_one_save(folder, list(models.values()), list(optimizers.values()))


def _check_one_save(folder: Listing, models: list[ModelState], optimizers: list[OptimizerState]) -> None:
    first, *others = models
    for each in others:
        if each.steps != first.steps:
            found = f"it is of step {describe(each.steps)}, {first.name} of step {describe(first.steps)}"
            raise other_run(folder.where(each.name), found)
        if (each.trained, each.frozen) != (first.trained, first.frozen):
            raise other_run(folder.where(each.name), f"it describes other weights than {first.name}")
    one, *rest = optimizers
    for other in rest:
        if other.progress != one.progress:
            raise other_run(folder.where(other.name), f"{other.progress}, where {one.name} has {one.progress}")
        if (other.version, other.is_split) != (one.version, one.is_split):
            found = f"it is of DeepSpeed {describe(other.version)} or of another ZeRO stage than {one.name}"
            raise other_run(folder.where(other.name), found)


def _check_all(folder: Listing, what: str, there: Collection[int], ranks: int) -> None:
    if more := sorted(rank for rank in there if rank >= ranks):
        found = f"{what} of rank {listed(more, _SHOWN)} too, where a save of {count(ranks, 'rank')} writes none"
        raise other_run(folder.path, found)
    if len(there) < ranks:  # The file says how many there are: they are not all put on a list.
        missing = list(islice((rank for rank in range(ranks) if rank not in there), _SHOWN))
        others = f" and {ranks - len(there) - len(missing)} more" if ranks - len(there) > _SHOWN else ""
        raise _missing(folder, f"no {what} of rank {listed(missing, _SHOWN)}{others}, of {count(ranks, 'rank')}")


def _missing(folder: Listing, found: str) -> CheckpointError:
    return CheckpointError("missing-rank", folder.path, expected=EXPECTED, found=found, remedy=COPY_ALL)


def _notes(first: ModelState, optimizers: list[OptimizerState]) -> list[str]:
    """Say which values are not the masters, and which file may be of another step."""
    if not optimizers:
        if first.trained:
            return [_COPY_NOTE]
        optimizer = first.envelope.get("optimizer")
        has_masters = isinstance(optimizer, dict) and not {"fp32_groups", "fp32_groups_flat"}.isdisjoint(optimizer)
        return [_STAGE_0_NOTE] if has_masters else []
    skipped, step = first.envelope.get("skipped_steps"), optimizers[0].progress.step
    done = first.steps - skipped if type(first.steps) is int and type(skipped) is int else None
    if done is not None and step is not None and step != done:
        return [f"the optimizer's files are of its step {step:g}, {first.name} of step {describe(done)}"]
    return []
