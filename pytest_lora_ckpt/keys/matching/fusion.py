"""Tensors that are one on one side and several on the other: query, key and value; gate and up; all experts."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys.conventions import NUMBER, Path
from pytest_lora_ckpt.keys.templates import Shape, Template
from pytest_lora_ckpt.vocabulary.words import PROJECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_Group = dict[Path, list[Template]]
_MOST_PARTS = 4
_MOST_IN_ONE_PLACE = 16


def find_fusions(
    left: Sequence[Template], open_slots: Sequence[Template], images: Callable[[Path], list[Path]]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Find what was fused or split, among what is left over on both sides.

    Yields:
        The kind, the checkpoint keys, and the model keys.
    """
    mine, theirs = _by_parent(left), _by_parent(open_slots)
    for parent, parts in sorted(mine.items()):
        for place in images(parent):
            for kind, own, other in _compare(parts, theirs.get(place, [])):
                yield kind, _keys(own), _keys(other)
    for own, other in _fused_experts(left, open_slots, images):
        yield "fused-experts", _keys(own), _keys(other)


def _fused_experts(
    left: Sequence[Template], open_slots: Sequence[Template], images: Callable[[Path], list[Path]]
) -> Iterator[tuple[list[Template], list[Template]]]:
    """Pairs of a template with one tensor per expert, and tensors that stack them."""
    mine: defaultdict[Path, list[Template]] = defaultdict(list)
    for source in left:
        for place in images(source.forms[0].path[:-1]):
            mine[place].append(source)
    theirs = _by_parent(open_slots)
    for source in left:
        inside = _without_last_number(source.forms[0].path)
        for place in images(inside[:-1]) if inside else ():
            if fused := [target for target in theirs.get(place, []) if _stacks(source, target)]:
                yield [source], fused
    for target in open_slots:
        inside = _without_last_number(target.forms[0].path)
        if inside and (fused := [source for source in mine.get(inside[:-1], []) if _stacks(target, source)]):
            yield fused, [target]


def _by_parent(templates: Iterable[Template]) -> _Group:
    groups: defaultdict[Path, list[Template]] = defaultdict(list)
    for template in templates:
        groups[template.forms[0].path[:-1]].append(template)
    return groups


def _keys(templates: Iterable[Template]) -> list[str]:
    return list(chain.from_iterable(template.members.values() for template in templates))


def _compare(
    mine: Sequence[Template], theirs: Sequence[Template]
) -> Iterator[tuple[str, list[Template], list[Template]]]:
    """Compare what is left below one module on both sides."""
    if len(mine) > _MOST_IN_ONE_PLACE or len(theirs) > _MOST_IN_ONE_PLACE:
        return
    for few, many, turned in ((theirs, mine, False), (mine, theirs, True)):
        for whole in few:
            parts = [part for part in many if part.forms[0].family == whole.forms[0].family]
            chosen = _adding_up(whole, parts)
            if chosen:
                leaves = {part.forms[0].leaf for part in chosen}
                # The other tensors of the same modules (biases, the other factor) are part of the matter.
                some = [part for part in many if part.forms[0].leaf in leaves]
                one = [other for other in few if other.forms[0].leaf == whole.forms[0].leaf]
                yield (_name(leaves), one, some) if turned else (_name(leaves), some, one)


def _adding_up(whole: Template, parts: Sequence[Template]) -> list[Template]:
    """Parts whose sizes along one axis add up to the whole's."""
    if len(parts) <= 1 or whole.shape is None or any(part.shape is None for part in parts):
        return []
    groups = [list(parts)]
    if len(parts) > _MOST_PARTS - 1:
        groups = [[part for part in parts if _role(part.forms[0].leaf) in roles] for roles in ("qkv", "gu")]
    for group in groups:
        shapes = [part.shape or () for part in group]
        if len(group) > 1 and any(_adds_up(whole.shape, shapes, axis) for axis in range(len(whole.shape))):
            return group
    return []


def _adds_up(whole: Shape, parts: Sequence[Shape], axis: int) -> bool:
    if any(len(part) != len(whole) for part in parts):
        return False
    rest = [part[:axis] + part[axis + 1 :] for part in parts]
    return all(own == whole[:axis] + whole[axis + 1 :] for own in rest) and whole[axis] == sum(p[axis] for p in parts)


def _role(leaf: str) -> str:
    """`q`, `k` or `v` for an attention's input projections, `g` or `u` for a gated MLP's; else `-`."""
    name = leaf.lower().removeprefix("to_").removeprefix("w")
    return PROJECTIONS.get(name.split("_")[0], "-")


def _name(leaves: Iterable[str]) -> str:
    roles = "".join(sorted(map(_role, leaves)))
    if all(role in "qkv" for role in roles):
        return "fused-qkv"
    return "fused-gate-up" if roles == "gu" else "fused"


def kind_of_fusion(role: str) -> str:
    """Return the kind of a module that is one for several, by its role in the libraries' rows.

    Example:
        >>> [kind_of_fusion(role) for role in ("double text q, k and v", "gate and up", "single q, k, v and in")]
        ['fused-qkv', 'fused-gate-up', 'fused']
    """
    return "fused-qkv" if role.endswith("q, k and v") else "fused-gate-up" if role == "gate and up" else "fused"


def _without_last_number(path: Path) -> Path:
    """The path of fused experts, from the path of one: the last number taken out; empty if there is none."""
    at = max((place for place, name in enumerate(path[:-1]) if name == NUMBER), default=-1)
    return path[:at] + path[at + 1 :] if at >= 0 else ()


def _stacks(one: Template, fused: Template) -> bool:
    """Whether a tensor is a stack of those of a template, one for each value of their last number."""
    if one.shape is None or fused.shape is None or len(fused.shape) != len(one.shape) + 1:
        return False
    count = len({indices[-1] for indices in one.members if indices})
    return fused.shape[0] == count
