"""Whether there is a file of every rank, and whether all of them are of one save."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.checkpoint.zero.files import COPY_ALL, EXPECTED, other_run, spread
from pytest_lora_ckpt.wording import count, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.storage import Listing
    from pytest_lora_ckpt.checkpoint.zero.states import ModelState, OptimizerState

_SHOWN = 8


def check_ranks(
    folder: Listing,
    models: Mapping[int, ModelState],
    optimizers: Mapping[int, OptimizerState],
    *,
    is_split: bool,
    is_universal: bool,
) -> None:
    """Check that the files make up one checkpoint.

    Args:
        folder: Their directory.
        models: Those with the model's states, by rank.
        optimizers: Those with the optimizer's.
        is_split: Whether each rank has a part of each weight.
        is_universal: Whether the masters lie elsewhere.

    Raises:
        CheckpointError: A rank is missing (`missing-rank`), a file is of another save (`other-run`), or the model is
            spread by more than ZeRO (`model-parallel`).
    """
    first = next(iter(models.values()))
    size = first.envelope.get("mp_world_size")
    if type(size) is int and size > 1:
        raise spread(folder, f"`mp_world_size` is {describe(size)}")
    if is_split and not optimizers and not is_universal:
        raise missing_rank(folder, "the files with the model's states, and none with the optimizer's")
    ranks = max((each.ranks or len(optimizers) for each in optimizers.values()), default=first.ranks or len(models))
    if optimizers:
        _check_all(folder, "`*_optim_states.pt`", optimizers, ranks)
    if is_split:
        _check_all(folder, "`*_model_states.pt`", models, ranks)
    _check_models(folder, list(models.values()))
    _check_optimizers(folder, list(optimizers.values()), is_split=is_split)


def missing_rank(folder: Listing, found: str) -> CheckpointError:
    """Return the error for files that are not there."""
    return CheckpointError("missing-rank", folder.path, expected=EXPECTED, found=found, remedy=COPY_ALL)


def _check_all(folder: Listing, what: str, there: Collection[int], ranks: int) -> None:
    if more := sorted(rank for rank in there if rank >= ranks):
        found = f"{what} of rank {listed(more, _SHOWN)} too, where a save of {count(ranks, 'rank')} writes none"
        raise other_run(folder.path, found)
    if len(there) < ranks:  # The file says how many there are: they are not all put on a list.
        missing = list(islice((rank for rank in range(ranks) if rank not in there), _SHOWN))
        others = f" and {ranks - len(there) - len(missing)} more" if ranks - len(there) > _SHOWN else ""
        raise missing_rank(folder, f"no {what} of rank {listed(missing, _SHOWN)}{others}, of {count(ranks, 'rank')}")


def _check_models(folder: Listing, models: Sequence[ModelState]) -> None:
    first, *others = models
    for each in others:
        if each.steps != first.steps:
            found = f"it is of step {describe(each.steps)}, {first.name} of step {describe(first.steps)}"
            raise other_run(folder.where(each.name), found)
        if (each.trained, each.frozen) != (first.trained, first.frozen):
            raise other_run(folder.where(each.name), f"it describes other weights than {first.name}")


def _check_optimizers(folder: Listing, optimizers: Sequence[OptimizerState], *, is_split: bool) -> None:
    for each in optimizers:
        first = optimizers[0]
        if each.is_split != is_split:
            raise other_run(folder.where(each.name), "it is of another ZeRO stage than the model's files")
        if each.progress != first.progress:
            raise other_run(folder.where(each.name), f"{each.progress}, where {first.name} has {first.progress}")
        if each.version != first.version:
            found = f"it is of DeepSpeed {describe(each.version)}, {first.name} of {describe(first.version)}"
            raise other_run(folder.where(each.name), found)
