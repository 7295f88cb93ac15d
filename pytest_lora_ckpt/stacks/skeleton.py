"""A base model by the index of its weights alone: a tree of plain modules with its names and shapes, without values."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.checkpoint.open import open_within
from pytest_lora_ckpt.stacks.errors import StackError
from pytest_lora_ckpt.stacks.meta import Wanted, counted
from pytest_lora_ckpt.vocabulary.models import EMBEDDINGS, LM_HEADS
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint

_GIVE_MODEL = "Give --lora-model=module:factory or --lora-loader=module:function."
_KERNEL = {3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}


def skeleton(checkpoint: Checkpoint, directory: Path) -> torch.nn.Module:
    """Build the modules that the weights in a directory show, with the heads that only the adapter has.

    Args:
        checkpoint: The adapter.
        directory: Where the base model's weights lie; only their index is read.

    Raises:
        StackError: There are none, or they show too many modules.
    """
    import torch

    try:
        shapes = {key: info.shape for key, info in open_within(directory, checkpoint.budget).keys.items()}
    except CheckpointError as error:
        raise StackError(f"{printable(error.path)} cannot be read: {error.found}.", _GIVE_MODEL) from error
    wanted = Wanted.of(checkpoint)
    modules: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for key, shape in shapes.items():
        path, _, parameter = key.rpartition(".")
        modules[path][parameter] = shape
    modules = _as_adapted(modules, wanted)
    tables = [
        held["weight"] for path, held in modules.items() if path.rpartition(".")[2] in EMBEDDINGS and "weight" in held
    ]
    for path in wanted.modules.difference(modules):
        if path.rpartition(".")[2] in LM_HEADS and tables:  # Tied to the embedding, so that it is not saved.
            modules[path] = {"weight": tables[0]}
    for name, shape in wanted.tensors.items():  # A head that the base model does not have.
        path, _, parameter = name.rpartition(".")
        modules.setdefault(path, {}).setdefault(parameter, shape)
    transposed = (checkpoint.adapter_config or {}).get("fan_in_fan_out") is True
    root = torch.nn.Module()
    with counted(), torch.device("meta"):
        for path, held in modules.items():
            _place(root, path, _module(path, held, transposed=transposed))
    return root


def _as_adapted(modules: Mapping[str, Any], wanted: Wanted) -> dict[str, dict[str, tuple[int, ...]]]:
    """Name the modules as the adapter does: a model may be saved without its first name, or with it (`bert.`)."""
    heads = {f"{path.partition('.')[0]}." for path in (*wanted.modules, *modules)}
    namings = [{path: path for path in modules}]
    namings += [{path: f"{head}{path}" for path in modules} for head in heads]
    namings += [{path: path.removeprefix(head) for path in modules} for head in heads]
    best = max(namings, key=lambda names: len(wanted.modules.intersection(names.values())))
    return {best[path]: dict(held) for path, held in modules.items()}


def _module(path: str, held: Mapping[str, tuple[int, ...]], *, transposed: bool) -> torch.nn.Module:
    from torch import nn

    weight, bias = held.get("weight", ()), "bias" in held
    if len(weight) == 2 and path.rpartition(".")[2] in EMBEDDINGS:  # noqa: PLR2004 - A table.
        return nn.Embedding(*weight)
    if len(weight) == 2:  # noqa: PLR2004 - A matrix.
        rows, width = reversed(weight) if transposed else weight
        return nn.Linear(width, rows, bias=bias)
    if len(weight) in _KERNEL:
        rows, width, *kernel = weight
        made: nn.Module = getattr(nn, _KERNEL[len(weight)])(width, rows, tuple(kernel), bias=bias)
        return made
    module = nn.Module()
    for name, shape in held.items():
        import torch

        if name.isidentifier() and not hasattr(module, name):
            module.register_parameter(name, nn.Parameter(torch.empty(shape), requires_grad=False))
    return module


def _place(root: torch.nn.Module, path: str, module: torch.nn.Module) -> None:
    """Put a module into the tree; a parent that is there already keeps its children."""
    from torch import nn

    *parents, name = path.split(".")
    for each in parents:
        if each not in root._modules:  # noqa: SLF001 - torch has no public way to ask for a child by name.
            root.add_module(each, nn.Module())
        root = root.get_submodule(each)
    if name and name not in root._modules:  # noqa: SLF001
        root.add_module(name, module)
