"""The model of a checkpoint: what is known of every tensor, and where in the files of the ranks it lies."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.checkpoint.zero.pieces import Consecutive, Held, Part, Split, Whole, share_of
from pytest_lora_ckpt.checkpoint.zero.states import Shapes, UnfitStateError
from pytest_lora_ckpt.tensors import KeySet, TensorInfo
from pytest_lora_ckpt.wording import count, grouped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.zero.states import ModelState, OptimizerState

_ALIGNED_TO = 2  # Elements for each rank, to which ZeRO 1 and 2 fill a group up (`nccl_start_alignment_factor`).

Spread = dict[str, tuple[TensorInfo, Part]]
"""What is known of tensors that do not lie in the module's state dict, and where they lie instead."""


@dataclass(slots=True)
class ZeroModel:
    """Where a model's tensors lie.

    Attributes:
        infos: What is known of each tensor.
        parts: Where it lies.
        opaque: Other entries of the module's state dict.
        notes: Short remarks worth showing.
    """

    infos: dict[str, TensorInfo] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    opaque: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def put_together(models: Sequence[ModelState], masters: Spread, *, is_split: bool) -> ZeroModel:
    """Find every tensor of the model, in the order of the module's state dict.

    What was trained is taken from the optimizer's masters, never from the copy that training computed with.

    Args:
        models: Rank 0's first.
        masters: What was trained; nothing where the masters were not kept.
        is_split: Whether every rank has a part of each weight, as under ZeRO 3.

    Raises:
        UnfitStateError: What the files say does not fit together.
    """
    first = models[0]
    spread = masters | (_frozen(models) if is_split else {})
    holder_of = _holders(first, spread)
    made, empty = ZeroModel(), []
    for key, value in first.module.items():
        name = key if isinstance(key, str) else describe(key)
        if (holder := holder_of.get(name)) is not None:
            made.infos[name], made.parts[name] = spread[holder]
        elif not isinstance(value, TensorInfo) or not isinstance(key, str):
            made.opaque[name] = value
        elif is_split and not value.numel and name not in first.buffers:
            empty.append(name)
        else:
            made.infos[name] = _apart(first.name, value)
            made.parts[name] = Whole(Held(first.index.source, value))
    for name, (info, part) in spread.items():
        if name not in made.infos:  # The module's own `state_dict` may leave out what its optimizer trains.
            made.infos[name], made.parts[name] = info, part
    if empty:
        what = count(len(empty), "empty tensor")
        made.notes.append(f"ZeRO 3 saved no values of {what} in place of frozen weights: {grouped(empty)}")
    return made


def _apart(file: str, info: TensorInfo) -> TensorInfo:
    """Return the tensor with a storage that no other file has: each counts its storages from 0."""
    return info if info.storage is None else dataclasses.replace(info, storage=(file, info.storage))


def _holders(first: ModelState, spread: Spread) -> dict[str, str]:
    """Return, for every name of a tensor that lies in flat ones, the name under which it is there."""
    holder_of = {name: name for name in spread}
    module = first.module.items()
    tensors = {key: value for key, value in module if isinstance(key, str) and isinstance(value, TensorInfo)}
    # Of one memory and shape in the copy: older files do not say which weights are shared.
    for names in KeySet(tensors).aliases:
        if holder := next((name for name in names if name in spread), None):
            holder_of.update((name, holder) for name in names if name not in spread)
    shared = {name: holder for name, holder in first.shared.items() if name not in spread and holder in spread}
    return holder_of | shared


def trained(groups: Sequence[Shapes], optimizers: Sequence[OptimizerState]) -> Spread:
    """Find the trained tensors in the flat groups of the ranks.

    Raises:
        UnfitStateError: They do not fit in.
    """
    found: Spread = {}
    for each in optimizers:
        if len(each.flats) != len(groups):
            many = count(len(each.flats), "flat group")
            raise UnfitStateError(f"{each.name} has {many}, the model's file describes {len(groups)}")
    for number, shapes in enumerate(groups if optimizers else ()):
        flats = tuple(each.flats[number] for each in optimizers)
        if len(dtypes := {flat.info.dtype for flat in flats}) > 1:
            raise UnfitStateError(f"flat group {number} is {' and '.join(sorted(dtypes))}, by rank")
        is_split = optimizers[0].is_split
        places = (_split_places if is_split else _row_places)(number, shapes, flats, optimizers)
        for (key, shape), place in zip(shapes.items(), places, strict=True):
            if key in found:
                raise UnfitStateError(f"two flat groups hold {describe(key)}")
            info = TensorInfo(shape, flats[0].info.dtype, storage=("flat group", number), storage_offset=place)
            found[key] = (info, Split(flats, place) if is_split else Consecutive(flats, place))
    return found


def _row_places(
    number: int, shapes: Shapes, flats: Sequence[Held], optimizers: Sequence[OptimizerState]
) -> Iterator[int]:
    """List where each tensor begins in the row of the ranks' flat tensors."""
    rows = optimizers[0].paddings
    paddings = rows[number] if rows is not None and number < len(rows) else (0,) * len(shapes)
    if len(paddings) != len(shapes):
        raise UnfitStateError(
            f"flat group {number}: {count(len(paddings), 'padding')} for {count(len(shapes), 'tensor')}"
        )
    needed = sum(map(math.prod, shapes.values())) + sum(paddings)
    held, step = sum(flat.info.numel for flat in flats), _ALIGNED_TO * len(flats)
    if not needed <= held <= -(-needed // step) * step:
        what = f"flat group {number} has {held} elements in all ranks"
        raise UnfitStateError(f"{what}, the tensors that it should hold have {needed}")
    place = 0
    for shape, padding in zip(shapes.values(), paddings, strict=True):
        yield place
        place += math.prod(shape) + padding


def _split_places(
    number: int, shapes: Shapes, flats: Sequence[Held], optimizers: Sequence[OptimizerState]
) -> Iterator[int]:
    """List where each tensor's share begins in every rank's flat tensor."""
    needed = sum(share_of(math.prod(shape), len(flats)) for shape in shapes.values())
    for flat, each in zip(flats, optimizers, strict=True):
        if flat.info.numel != needed:
            what = f"flat group {number} of {each.name} has {flat.info.numel} elements"
            raise UnfitStateError(f"{what}, a rank's share of the tensors that it should hold has {needed}")
    place = 0
    for shape in shapes.values():
        yield place
        place += share_of(math.prod(shape), len(flats))


def _frozen(models: Sequence[ModelState]) -> Spread:
    """Find the frozen tensors in the fragments of the ranks."""
    found: Spread = {}
    for key, shape in models[0].frozen.items():
        fragments = [_fragment(each.fragments, key, each.name) for each in models]
        numel = math.prod(shape)
        if fragments[0].info.numel == numel:
            fragments = fragments[:1]  # Each rank has the whole of it.
        share = share_of(numel, len(fragments))
        dtype, sizes = fragments[0].info.dtype, [each.info.numel for each in fragments]
        if any(each.info.dtype != dtype for each in fragments) or any(size != share for size in sizes):
            what = f"the fragments of the frozen weight {describe(key)} have {min(sizes)} to {max(sizes)} elements"
            raise UnfitStateError(f"{what}; of its shape {shape} each rank has {share}")
        found[key] = (TensorInfo(shape, dtype, storage=("frozen", key)), Split(tuple(fragments)))
    return found


def _fragment(fragments: Mapping[str, Held], key: str, name: str) -> Held:
    if (found := fragments.get(key)) is None:
        raise UnfitStateError(f"{name} has no fragment of the frozen weight {describe(key)}")
    return found
