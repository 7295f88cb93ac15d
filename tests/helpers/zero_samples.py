"""Checkpoints in the very form in which DeepSpeed's ZeRO writes them, without DeepSpeed.

`tests/foreign/test_deepspeed.py` holds that form against the real library's.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import math
import pickle
import sys
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

Tensors = dict[str, torch.Tensor]
VERSION = "0.19.8"


class ZeroStageEnum(int, enum.Enum):
    disabled, optimizer_states, gradients, weights = range(4)


class LossScaler:
    def __init__(self) -> None:
        self.cur_scale, self.dynamic = 1.0, False


@dataclass
class fragment_address:  # noqa: N801 - DeepSpeed's name.
    numel: int
    start: int


_SPELLED = {
    ZeroStageEnum: ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    LossScaler: ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    fragment_address: ("deepspeed.utils.tensor_fragment", "fragment_address"),
}
"""Stand-ins -> how a pickle spells DeepSpeed's own."""


class _Pickler(pickle._Pickler):
    def save_global(self, obj: Any, name: str | None = None) -> None:
        if obj not in _SPELLED:
            super().save_global(obj, name)  # type: ignore[misc]
            return
        self.write("c{}\n{}\n".format(*_SPELLED[obj]).encode())  # type: ignore[attr-defined]
        self.memoize(obj)  # type: ignore[attr-defined]


CASES = (
    *("zero0-fp32", "zero0-bf16", "zero0-fp16", "zero0-bf16-only"),
    *("zero1-fp32-alone", "zero1-bf16-tied", "zero1-fp16", "zero1-bf16-only"),
    *("zero2-fp32-alone", "zero2-bf16-tied", "zero2-fp16", "zero2-bf16-only"),
    *("zero3-fp32-alone", "zero3-bf16-tied", "zero3-fp16", "zero3-bf16-only"),
    *("zero1-bf16-accumulated", "zero1-bf16-elastic", "zero2-bf16-round-robin", "zero2-bf16-aligned"),
    *("zero3-bf16-sub-groups", "zero3-bf16-threshold"),
    *("zero2-bf16-offload", "zero3-bf16-offload", "zero2-bf16-tag"),
)
"""What `deepspeed_writer` writes by the real library."""


@dataclass(frozen=True, kw_only=True)
class Zero:
    """A model under ZeRO, and how it is saved.

    Attributes:
        stage: 0 to 3.
        groups: The masters of what is trained, a mapping for each group of the optimizer.
        frozen: Weights that are not trained, as training computes with them.
        buffers: Buffers.
        shared: The name of a weight that another name holds -> that name.
        ranks: How many processes.
        dtype: What training computes in.
        only: Whether the frozen weights are left out, `exclude_frozen_parameters`.
        align: Elements to which each tensor of a group is aligned, ZeRO 1 and 2.
        steps: How many were done.
        client: The client's own state.
    """

    stage: int
    groups: Sequence[Tensors]
    frozen: Tensors = field(default_factory=dict)
    buffers: Tensors = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 2
    dtype: torch.dtype = torch.bfloat16
    only: bool = False
    align: int = 1
    steps: int = 2
    client: Mapping[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> Tensors:
        """What must be read: the masters, and what is not trained as it is."""
        trained = {key: tensor for group in self.groups for key, tensor in group.items()}
        if not self.stage:
            trained = {key: tensor.to(self.dtype) for key, tensor in trained.items()}
        held = {**self.buffers, **trained, **({} if self.only else self.frozen)}
        return held | {name: held[holder] for name, holder in self.shared.items() if holder in held}


def write_zero(zero: Zero, folder: Path, *, tag: str | None = None) -> Path:
    """Write a checkpoint as `save_checkpoint(folder, tag)` does, and return the folder."""
    tag = tag or f"global_step{zero.steps}"
    (folder / tag).mkdir(parents=True)
    write = _stage_3 if zero.stage == 3 else _stages_1_and_2 if zero.stage else _stage_0
    for name, contents in write(zero).items():
        save(contents, folder / tag / name)
    (folder / "latest").write_text(tag)
    if zero.stage:
        (folder / "zero_to_fp32.py").write_text("raise SystemExit\n")
    return folder


def write_universal(zero: Zero, folder: Path) -> Path:
    """Write what `ds_to_universal` makes of such a checkpoint."""
    tag = f"global_step{zero.steps}_universal"
    write_zero(zero, folder, tag=tag)
    for file in (folder / tag).glob("*_optim_states.pt"):
        file.unlink()
    (folder / "latest").rename(folder / "latest_universal")
    for name, master in ((name, master) for group in zero.groups for name, master in group.items()):
        inside = folder / tag / "zero" / name
        inside.mkdir(parents=True)
        for kind in ("fp32", "exp_avg", "exp_avg_sq"):
            torch.save(master.flatten() if zero.stage == 3 else {"cat_dim": 0, "param": master}, inside / f"{kind}.pt")
    torch.save({"ds_version": VERSION}, folder / tag / "zero" / "optimizer_state.pt")
    return folder


def save(contents: object, path: Path) -> None:
    """Write a file as DeepSpeed does."""
    torch.save(contents, path, pickle_module=SimpleNamespace(Pickler=_Pickler, __name__="pickle"))


def _stage_0(zero: Zero) -> dict[str, object]:
    module = OrderedDict(zero.whole)
    state = _model_state(zero, module) | {"optimizer": _adam(zero, list(zero.groups)), "shared_params": None}
    return {"mp_rank_00_model_states.pt": state | dict(zero.client)}


def _stages_1_and_2(zero: Zero) -> dict[str, object]:
    module: OrderedDict[str, torch.Tensor] = OrderedDict(zero.buffers)
    paddings, flats, partitions = [], [], []
    for group in zero.groups:
        flat, padding = _row(group, zero)
        copy, place = flat.to(zero.dtype), 0
        for (key, tensor), more in zip(group.items(), padding, strict=True):
            module[key] = copy[place : place + tensor.numel()].view(tensor.shape)
            place += tensor.numel() + more
        paddings.append(padding)
        flats.append((flat, place))
        partitions.append(list(flat.clone().chunk(zero.ranks)))
    module |= {} if zero.only else zero.frozen
    module |= {name: module[holder] for name, holder in zero.shared.items()}
    has_fragments = zero.stage == 2 and not zero.only
    state = _model_state(zero, module) | {
        "param_shapes": [_shapes(group) for group in zero.groups],
        "frozen_param_shapes": _shapes(zero.frozen) if has_fragments else None,
        "frozen_param_fragments": OrderedDict(zero.frozen) if has_fragments else None,
    }
    files: dict[str, object] = {"mp_rank_00_model_states.pt": state | dict(zero.client)}
    for rank in range(zero.ranks):
        own, left = [parts[rank] for parts in partitions], []
        for (_, used), part in zip(flats, own, strict=True):
            left.append(min(max((rank + 1) * part.numel() - used, 0), part.numel()))
        files[f"{_prefix(zero)}{rank}_mp_rank_00_optim_states.pt"] = _optimizer_file(
            zero,
            {
                "loss_scaler": LossScaler(),
                "dynamic_loss_scale": False,
                "overflow": False,
                "clip_grad": 1.0,
                "base_optimizer_state": _adam(zero, [{"0": part} for part in own]),
                "single_partition_of_fp32_groups": [
                    part[: part.numel() - padding].requires_grad_() for part, padding in zip(own, left, strict=True)
                ],
                "zero_stage": ZeroStageEnum(zero.stage),
                "group_paddings": left,
                "param_alignment_paddings": paddings,
                "partition_count": [zero.ranks] * len(zero.groups),
                "ds_version": VERSION,
                "param_slice_mappings": [OrderedDict({"own.weight": fragment_address(1, 0)}) for _ in zero.groups],
            },
        )
    return files


def _stage_3(zero: Zero) -> dict[str, object]:
    files: dict[str, object] = {}
    names = [key for group in zero.groups for key in group] + ([] if zero.only else list(zero.frozen))
    for rank in range(zero.ranks):
        module = OrderedDict(zero.buffers) | {key: torch.empty(0, dtype=zero.dtype) for key in [*names, *zero.shared]}
        flats = [torch.cat([_share(each, rank, zero.ranks) for each in group.values()]) for group in zero.groups]
        files[f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"] = (
            _model_state(zero, module)
            | {
                "param_shapes": [_shapes(group) for group in zero.groups],
                "frozen_param_shapes": None if zero.only else _shapes(zero.frozen),
                "shared_params": {} if rank else dict(zero.shared),
                "frozen_param_fragments": None
                if zero.only
                else OrderedDict((key, _share(each, rank, zero.ranks)) for key, each in zero.frozen.items()),
            }
            | dict(zero.client)
        )
        files[f"{_prefix(zero)}{rank}_mp_rank_00_optim_states.pt"] = _optimizer_file(
            zero,
            {
                "zero_stage": ZeroStageEnum.weights,
                "loss_scaler": LossScaler(),
                "dynamic_loss_scale": False,
                "overflow": False,
                "partition_count": zero.ranks,
                "optimizer_state_dict": _adam(zero, [{"0": flat} for flat in flats]),
                "fp32_flat_groups": [flat.requires_grad_() for flat in flats],
            },
        )
    return files


def _row(group: Tensors, zero: Zero) -> tuple[torch.Tensor, list[int]]:
    """Return all tensors of a group in one row, filled up for the ranks, and what stands behind each of them."""
    parts, padding, place = [], [], 0
    for number, tensor in enumerate(group.values()):
        place += tensor.numel()
        padding.append(0 if number == len(group) - 1 else -place % zero.align)
        place += padding[-1]
        parts += [tensor.flatten(), torch.zeros(padding[-1])]
    return torch.cat([*parts, torch.zeros(-place % (2 * zero.ranks))]), padding


def _share(tensor: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    """Return what a rank has of a tensor; what stands behind its end is whatever the memory held."""
    share = math.ceil(tensor.numel() / ranks)
    own = tensor.flatten()[rank * share : (rank + 1) * share]
    return torch.cat([own, torch.full((share - own.numel(),), 1e6, dtype=tensor.dtype)])


def _shapes(tensors: Tensors) -> OrderedDict[str, torch.Size]:
    return OrderedDict((key, tensor.shape) for key, tensor in tensors.items())


def _prefix(zero: Zero) -> str:
    return f"{'bf16_' if zero.dtype is torch.bfloat16 else ''}zero_pp_rank_"


def _adam(zero: Zero, groups: Sequence[Tensors]) -> dict[str, Any]:
    """Return the state of torch's AdamW."""
    parameters = [torch.nn.Parameter(each.detach().float()) for group in groups for each in group.values()]
    sizes, optimizers = [len(group) for group in groups], iter(parameters)
    optimizer = torch.optim.AdamW([{"params": [next(optimizers) for _ in range(size)]} for size in sizes], lr=0.05)
    for each in parameters:
        moments = {"exp_avg": torch.zeros_like(each.data), "exp_avg_sq": torch.zeros_like(each.data)}
        optimizer.state[each] = {"step": torch.tensor(float(zero.steps)), **moments}
    state: dict[str, Any] = optimizer.state_dict()
    return state


def _config(zero: Zero) -> dict[str, Any]:
    return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": zero.stage}}


def _model_state(zero: Zero, module: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "module": module,
        "buffer_names": list(zero.buffers),
        "optimizer": None,
        "param_shapes": None,
        "frozen_param_shapes": None,
        "shared_params": dict(zero.shared),
        "frozen_param_fragments": None,
        "lr_scheduler": None,
        "data_sampler": None,
        "random_ltd": None,
        "skipped_steps": 0,
        "global_steps": zero.steps,
        "global_samples": zero.steps * zero.ranks,
        "dp_world_size": zero.ranks,
        "mp_world_size": 1,
        "checkpoint_parallel_dimensions": {"pp_degree": 1, "tp_degree": 1},
        "ds_config": _config(zero),
        "ds_version": VERSION,
    }


def _optimizer_file(zero: Zero, state: dict[str, Any]) -> dict[str, Any]:
    return {"optimizer_state_dict": state, "ds_config": _config(zero), "ds_version": VERSION}


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Let `torch.load` find the stand-ins under DeepSpeed's names."""
    modules = {}
    for kind, (name, own) in _SPELLED.items():
        for parent in itertools.accumulate(name.split("."), "{}.{}".format):
            modules.setdefault(parent, ModuleType(parent))
        setattr(modules[name], own, kind)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


MODEL = {1: "mp_rank_00_model_states.pt", 2: "mp_rank_00_model_states.pt"}
MODEL |= {3: "zero_pp_rank_1_mp_rank_00_model_states.pt"}
OPTIMIZER = "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
"""The files of a rank that are changed in tests; with the model's states, by stage."""


def tensors(prefix: str, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return tensors whose every element is another, and is changed by a cast to bfloat16."""
    generator = torch.Generator().manual_seed(len(prefix) + len(shapes))
    return {f"{prefix}.{n}.weight": torch.randn(shape, generator=generator).to(dtype) for n, shape in enumerate(shapes)}


def zero(stage: int, **changes: Any) -> Zero:
    """Return a model with two groups, LoRA, a tied embedding and an odd number of elements in each."""
    trained = tensors("own", (3, 5), (7,))
    down, up = tensors("lora", (3, 5), (5, 3)).values()
    factors = {"q_proj.lora_A.weight": down, "q_proj.lora_B.weight": up}
    made = Zero(
        stage=stage,
        groups=[factors | trained, tensors("bias", (3,))],
        frozen=tensors("frozen", (5, 5), (1,), (), dtype=torch.bfloat16),
        buffers={"scale": torch.linspace(0, 1, 5), "count": torch.tensor(3), "none": torch.zeros(0)},
        shared={"head.weight": "own.0.weight"},
        client={"epoch": 3},
    )
    return replace(made, **changes)


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change what a file holds, and write it as DeepSpeed does."""
    with stand_ins():
        state = torch.load(path, weights_only=False)
    edit(state)
    save(state, path)
