"""Where the state dict lies in what was saved: the metadata has each entry's path, and the rest is envelope."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.pickle.inert import kind_and_size
from pytest_lora_ckpt.vocabulary.formats import STATE_DICT_ENTRIES, TRAINING_ENTRIES
from pytest_lora_ckpt.wording import count, listed, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_lora_ckpt.checkpoint.distributed.metadata import Path, Saved

_SHOWN = 12

Tree = dict[str | int, object]


@dataclass(frozen=True, slots=True)
class Leaf:
    """An entry of the metadata, by the name that it has there."""

    name: str


@dataclass(frozen=True, slots=True)
class State:
    """The state dict in a distributed checkpoint.

    Attributes:
        names: Its keys -> what the metadata calls them.
        nested: Entries of it that hold further entries, and so are no tensors -> what they are.
        notes: Short remarks worth showing.
    """

    names: dict[str, str]
    nested: dict[str, str]
    notes: tuple[str, ...]
    _node: Tree
    _tree: Tree

    def envelope(self, values: Mapping[str, object]) -> dict[str, object]:
        """Return what lies around it, with the value of each name."""
        filled = {} if self._node is self._tree else _filled(self._tree, values, self._node)
        return {str(step): value for step, value in filled.items()}


def state_in(saved: Saved, where: str) -> State:
    """Find the state dict.

    Args:
        saved: What the metadata says.
        where: The checkpoint, for messages.

    Raises:
        CheckpointError: There is none (`no-state-dict`), or there are several and none has a usual name
            (`several-state-dicts`).
    """
    tree = _tree(saved)
    found = dict(_state_dicts(tree, (), saved))
    if not found:
        raise _none(tree, where)
    usual = {name: rank for rank, name in enumerate(STATE_DICT_ENTRIES)}
    ranks = {path: (usual.get(str(path[-1]) if path else "", len(usual)), len(path)) for path in found}
    path, *more = [path for path, rank in ranks.items() if rank == min(ranks.values())]
    if more:
        raise _several(found, where)
    node = found[path]
    others = [
        _counted(each, held) for each, held in found.items() if each != path[: len(each)] and path != each[: len(path)]
    ]
    return State(
        names={str(key): leaf.name for key, leaf in node.items() if isinstance(leaf, Leaf)},
        nested={str(key): kind_and_size(inner) for key, inner in node.items() if not isinstance(inner, Leaf)},
        notes=(
            *([f"the state dict lies under {_dotted(path)!r}"] if path else []),
            *([f"beside it lie further state dicts, which are not looked at: {listed(others)}"] if others else []),
        ),
        _node=node,
        _tree=tree,
    )


def _tree(saved: Saved) -> Tree:
    """Put the entries back to where they lay; lists are dicts of numbers here."""
    top: Tree = {}
    for name, path in saved.paths.items():
        node = top
        for step in path[:-1]:
            inner = node.setdefault(step, {})
            node = inner if isinstance(inner, dict) else node.setdefault(name, {})  # type: ignore[assignment]
        # Where something else lies in its place, the metadata contradicts itself, and each keeps the name it has.
        node[name if path[-1] in node else path[-1]] = Leaf(name)
    return top


def _state_dicts(node: Tree, path: Path, saved: Saved) -> Iterator[tuple[Path, Tree]]:
    """List the mappings that hold tensors; the state of optimizers and of the training is none."""
    if any(isinstance(each, Leaf) and each.name not in saved.objects for each in node.values()):
        yield path, node
    for step, inner in node.items():
        if isinstance(inner, dict) and not (isinstance(step, str) and re.fullmatch(TRAINING_ENTRIES, step)):
            yield from _state_dicts(inner, (*path, step), saved)


def _filled(node: Tree, values: Mapping[str, object], left_out: Tree) -> Tree:
    """Put values in the place of names, all but the state dict's."""
    filled: Tree = {}
    for step, inner in node.items():
        if isinstance(inner, Leaf):
            filled[step] = values.get(inner.name)
        elif isinstance(inner, dict) and inner is not left_out:
            filled[step] = _filled(inner, values, left_out)
    return filled


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _counted(path: Path, node: Tree) -> str:
    return f"{_dotted(path)} ({count(len(node), 'entry', 'entries')})"


def _none(tree: Tree, where: str) -> CheckpointError:
    entries = [
        f"{printable(step)}: {kind_and_size(inner) if isinstance(inner, dict) else 'no tensor'}"
        for step, inner in list(tree.items())[:_SHOWN]
    ]
    entries += [f"… and {len(tree) - _SHOWN} more"] if len(tree) > _SHOWN else []
    return CheckpointError(
        "no-state-dict",
        where,
        expected="a state dict: tensors by name, beside the state of the optimizers",
        found="\n".join(["these entries, and no tensors but the optimizers'", *entries]) if entries else "no entries",
        remedy="Give the directory of the model's state: accelerate and the Trainer keep it in"
        " `pytorch_model_fsdp_0/`, next to `optimizer_0/`.",
    )


def _several(found: Mapping[Path, Tree], where: str) -> CheckpointError:
    return CheckpointError(
        "several-state-dicts",
        where,
        expected="one state dict, or one under a usual name",
        found=f"{len(found)}: {listed((_counted(path, node) for path, node in found.items()), _SHOWN)}",
        remedy="Save the one that was trained by itself: `dcp.save({'model': model.state_dict()}, …)`.",
    )
