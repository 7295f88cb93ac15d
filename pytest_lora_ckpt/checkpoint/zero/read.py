"""The model whole, put together from the files of all ranks.

Source: deepspeed/utils/zero_to_fp32.py. Unlike that script, this reads the frozen weights of ZeRO 1 too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.address import place
from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts.single_file import check_tensors
from pytest_lora_ckpt.checkpoint.layouts.torch_envelope import what_it_is
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.checkpoint.zero.files import COPY_ALL, EXPECTED, directory_of, other_run, rank_files
from pytest_lora_ckpt.checkpoint.zero.model import put_together, trained
from pytest_lora_ckpt.checkpoint.zero.pieces import ZeroSource
from pytest_lora_ckpt.checkpoint.zero.ranks import check_ranks, missing_rank
from pytest_lora_ckpt.checkpoint.zero.states import UnfitStateError, model_state, optimizer_state
from pytest_lora_ckpt.checkpoint.zero.universal import masters
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.vocabulary.files import UNIVERSAL_MASTERS
from pytest_lora_ckpt.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pytest_lora_ckpt.checkpoint.index import FileIndex, IndexFile
    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.zero.states import ModelState, OptimizerState

    State = TypeVar("State", ModelState, OptimizerState)

_COPY_NOTE = (
    "the optimizer's files (`*_optim_states.pt`) are not there: the values are the copy that training computed with,"
    " not its fp32 masters"
)
_STAGE_0_NOTE = (
    "DeepSpeed without ZeRO keeps its fp32 masters in the optimizer's state, without names: the values are the copy"
    " that training computed with"
)


def read(listing: Listing, around: Listing, index_file: IndexFile) -> Checkpoint:
    """Put the checkpoint together.

    Args:
        listing: What was given.
        around: Its directory.
        index_file: Reads what one file holds.

    Raises:
        CheckpointError: A file is missing or broken, or of another save.
    """
    folder, notes = directory_of(around)
    files = rank_files(folder)
    if not files.models:
        raise missing_rank(folder, f"only the optimizer's files: {listed(files.optimizers.values())}")
    folder.expect([*files.models.values(), *files.optimizers.values()])
    models = _read(folder, files.models, index_file, model_state)
    optimizers = _read(folder, files.optimizers, index_file, optimizer_state)
    first = next(iter(models.values()))
    universal = None if optimizers else folder.directory(UNIVERSAL_MASTERS)
    check_ranks(folder, models, optimizers, is_split=files.is_split, is_universal=universal is not None)
    states: list[ModelState | OptimizerState] = [*models.values(), *optimizers.values()]
    indexes = {folder.where(each.name): each.index for each in states}
    try:
        if universal is not None:
            spread, others = masters(universal, first.trained, index_file)
            indexes |= others
        else:
            spread = trained(first.trained, list(optimizers.values()))
        made = put_together(list(models.values()), spread, is_split=files.is_split)
    except UnfitStateError as error:
        raise other_run(folder.path, str(error)) from error
    keys = KeySet(made.infos)
    check_tensors(keys, first.index.window, sum(index.window.length for index in indexes.values()))
    return Checkpoint(
        path=place(listing.path),
        layout="deepspeed",
        format=first.index.format,
        keys=keys,
        source=ZeroSource(made.parts),
        files=tuple(map(place, indexes)),
        envelope=first.envelope,
        opaque_keys={key: what_it_is(value) for key, value in made.opaque.items()},
        globals=tuple(asked for index in indexes.values() for asked in index.globals),
        notes=(
            *notes,
            *made.notes,
            *_notes(first, list(optimizers.values()), has_masters=bool(spread)),
            *first.index.notes,
        ),
        budget=first.index.window.budget,
    )


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


def _notes(first: ModelState, optimizers: list[OptimizerState], *, has_masters: bool) -> list[str]:
    """Say which values are not the masters, and which file may be of another step."""
    if not optimizers:
        if first.trained:
            return [] if has_masters else [_COPY_NOTE]
        optimizer = first.envelope.get("optimizer")
        has_some = isinstance(optimizer, dict) and not {"fp32_groups", "fp32_groups_flat"}.isdisjoint(optimizer)
        return [_STAGE_0_NOTE] if has_some else []
    skipped, step = first.envelope.get("skipped_steps"), optimizers[0].progress.step
    done = first.steps - skipped if type(first.steps) is int and type(skipped) is int else None
    if done is not None and step is not None and step != done:
        return [f"the optimizer's files are of its step {step:g}, {first.name} of step {describe(done)}"]
    return []
