"""What the files of the ranks say, taken out of their pickles and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from pytest_lora_ckpt.checkpoint.index import is_addressable, read_numbers
from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque, describe
from pytest_lora_ckpt.checkpoint.zero.pieces import Held
from pytest_lora_ckpt.tensors import MOST_DIMENSIONS, TensorInfo

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.index import FileIndex

_MOST = 1e15  # Of anything that is counted; a file can hold numbers that are no float.

Shapes = Mapping[str, tuple[int, ...]]


class UnfitStateError(Exception):
    """A file does not hold what DeepSpeed writes; the message says what is there instead."""


class Progress(NamedTuple):
    """How far an optimizer was.

    Attributes:
        step: How many steps it did; None where it does not say.
        rates: The learning rate of each of its groups.
    """

    step: float | None
    rates: tuple[float | None, ...]

    def __str__(self) -> str:
        """Say it in a few words."""
        step = "no step" if self.step is None else f"step {self.step:g}"
        return f"{step}, learning rates {', '.join(map(str, self.rates[:4])) or 'none'}"


@dataclass(frozen=True, slots=True, eq=False)
class ModelState:
    """What `*_model_states.pt` says.

    Attributes:
        name: What the file is called.
        index: What it holds.
        module: The module's state dict; under ZeRO 3 with empty tensors where a weight is spread over the ranks.
        trained: The shapes of what the optimizer holds, a mapping for each of its groups, in its order.
        frozen: The shapes of what it does not hold; empty where the file does not say.
        fragments: This rank's part of each of those.
        shared: The name of a tensor that another name holds -> that name.
        buffers: The names of buffers.
        envelope: What lies around the module.
    """

    name: str
    index: FileIndex
    module: Mapping[object, object]
    trained: tuple[Shapes, ...]
    frozen: Shapes
    fragments: Mapping[str, Held]
    shared: Mapping[str, str]
    buffers: frozenset[str]
    envelope: Mapping[str, object]

    @property
    def steps(self) -> object:
        """How many steps were done."""
        return self.envelope.get("global_steps")

    @property
    def ranks(self) -> int | None:
        """How many ranks there were; None where the file does not say."""
        return _ranks(self.envelope.get("dp_world_size"))


@dataclass(frozen=True, slots=True, eq=False)
class OptimizerState:
    """What `*_optim_states.pt` says.

    Attributes:
        name: What the file is called.
        index: What it holds.
        is_split: Whether it is of ZeRO 3.
        flats: This rank's flat tensor of each group.
        paddings: Of each group, how many elements stand behind each tensor for alignment; None where none do.
        ranks: How many ranks there were; None where it does not say.
        version: Of DeepSpeed.
        progress: How far the training was: the same on all ranks of one save.
    """

    name: str
    index: FileIndex
    is_split: bool
    flats: tuple[Held, ...]
    paddings: tuple[tuple[int, ...], ...] | None
    ranks: int | None
    version: object
    progress: Progress


def model_state(name: str, index: FileIndex) -> ModelState:
    """Take a file with the model's states apart.

    Raises:
        UnfitStateError: It is none.
    """
    top = _entries(index.contents, "the file")
    module = top.get("module")
    if module is None:
        raise UnfitStateError("no `module`, the model's state dict")
    groups = top.get("param_shapes") or []
    if not isinstance(groups, list):
        groups = [groups]
    fragments = _entries(top.get("frozen_param_fragments") or {}, "`frozen_param_fragments`")
    buffers = top.get("buffer_names")
    return ModelState(
        name=name,
        index=index,
        module=_entries(module, "`module`"),
        trained=tuple(_shapes(group, "`param_shapes`") for group in groups),
        frozen=_shapes(top.get("frozen_param_shapes") or {}, "`frozen_param_shapes`"),
        fragments={
            key: Held(index.source, value)
            for key, value in fragments.items()
            if isinstance(key, str) and isinstance(value, TensorInfo) and value.stride is None
        },
        shared={
            _text(key, "a shared weight"): _text(value, "a shared weight")
            for key, value in _entries(top.get("shared_params") or {}, "`shared_params`").items()
        },
        buffers=frozenset(filter(_is_text, buffers if isinstance(buffers, list) else ())),
        envelope={
            key if isinstance(key, str) else describe(key): value
            for key, value in top.items()
            if key not in {"module", "frozen_param_fragments"}
        },
    )


def optimizer_state(name: str, index: FileIndex) -> OptimizerState:
    """Take a file with the optimizer's states apart.

    Raises:
        UnfitStateError: It is none of ZeRO's.
    """
    top = _entries(index.contents, "the file")
    state = _entries(top.get("optimizer_state_dict"), "`optimizer_state_dict`")
    is_split = "fp32_flat_groups" in state
    groups = state.get("fp32_flat_groups" if is_split else "single_partition_of_fp32_groups")
    if not isinstance(groups, list):
        raise UnfitStateError("no flat fp32 groups: neither `fp32_flat_groups` nor `single_partition_of_fp32_groups`")
    return OptimizerState(
        name=name,
        index=index,
        is_split=is_split,
        flats=tuple(_flat(index, value, f"flat group {number}") for number, value in enumerate(groups)),
        paddings=_paddings(state.get("param_alignment_paddings")),
        ranks=_ranks(state.get("partition_count")),
        version=top.get("ds_version"),
        progress=_progress(index, state),
    )


def _entries(value: object, what: str) -> Mapping[object, object]:
    entries = value.entries if isinstance(value, Opaque) else value
    if not isinstance(entries, dict):
        raise UnfitStateError(f"{what} is not a dict but {describe(value)}")
    return entries


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


def _text(value: object, what: str) -> str:
    if isinstance(value, str):
        return value
    raise UnfitStateError(f"{describe(value)} for the name of {what}")


def _shapes(value: object, what: str) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape in _entries(value, what).items():
        sizes = tuple(shape) if isinstance(shape, (tuple, list)) else None
        if sizes is None or {*map(type, sizes)} - {int} or min(sizes, default=0) < 0:
            raise UnfitStateError(f"{what} has {describe(shape)} for the shape of {describe(key)}")
        if len(sizes) > MOST_DIMENSIONS or not is_addressable(sizes):
            raise UnfitStateError(f"{what} has the shape {describe(shape)}, which no memory holds, for {describe(key)}")
        shapes[_text(key, f"a tensor in {what}")] = sizes
    return shapes


def _flat(index: FileIndex, value: object, what: str) -> Held:
    if not isinstance(value, TensorInfo) or value.stride is not None or len(value.shape) != 1:
        raise UnfitStateError(f"{what} is not a tensor of consecutive elements but {describe(value)}")
    return Held(index.source, value)


def _paddings(value: object) -> tuple[tuple[int, ...], ...] | None:
    if value is None:
        return None
    rows = tuple(tuple(row) for row in value if isinstance(row, list)) if isinstance(value, list) else ()
    if not isinstance(value, list) or len(rows) != len(value):
        raise UnfitStateError(f"`param_alignment_paddings` is {describe(value)}")
    for row in rows:
        if {*map(type, row)} - {int} or min(row, default=0) < 0 or max(row, default=0) > _MOST:
            raise UnfitStateError(f"`param_alignment_paddings` has {describe(list(row))}")
    return rows


def _ranks(value: object) -> int | None:
    """Return the number of ranks; ZeRO 2 counts them for each group, and experts have fewer."""
    counts = value if isinstance(value, list) else [value]
    return max((each for each in counts if type(each) is int and 0 < each < _MOST), default=None)


def _progress(index: FileIndex, state: Mapping[object, object]) -> Progress:
    """Return the step and the learning rates; the step is a tensor of one number, and the only data that is read."""
    inner = state.get("optimizer_state_dict", state.get("base_optimizer_state"))
    states, groups = (inner.get("state"), inner.get("param_groups")) if isinstance(inner, dict) else (None, None)
    first = next(iter(states.values()), None) if isinstance(states, dict) else None
    step = first.get("step") if isinstance(first, dict) else None
    if isinstance(step, TensorInfo) and step.numel == 1:
        (piece,) = index.source.pieces("step", step)
        step = read_numbers([("step", step.dtype, piece)]).get("step")
    rates = [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
    if step is None and rates:
        step = rates[0].get("step")  # Where the optimizer is not torch's.
    return Progress(_number(step), tuple(_number(group.get("lr")) for group in rates))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and abs(value) < _MOST else None
