"""The picture as data: stacks of layers, their modules, and runs of layers that are alike; short if most is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping  # noqa: TC003  # `from_plain` reads the annotations.
from dataclasses import dataclass
from typing import NamedTuple

STATUSES: Mapping[str, str] = {
    "broken": "holds NaN or Inf",
    "differs": "the loaded model holds other values",
    "mismatched": "the model has another shape",
    "missing": "the model has it, the checkpoint does not",
    "homeless": "no place in the model",
    "nowhere": "comes from nowhere: neither the checkpoint nor the base model has it",
    "changed": "differs from the base model",
    "zero": "its update is zero",
    "unproved": "its value cannot be proved",
    "proved": "in the loaded model, proved by value",
    "renamed": "loads under another name",
    "loaded": "loads under its own name",
    "excused": "not meant to be in the checkpoint",
    "held": "in the checkpoint, compared with nothing",
}
"""What may have become of a key, the most telling first: the first one that occurs in a module is shown for it."""


@dataclass(frozen=True, slots=True)
class LayerCells:
    """Layers of a module that are alike.

    Attributes:
        at: Their positions in `Stack.layers`: `0-27`, `0-3,8`.
        keys: Status -> number of keys in each of these layers. Names, values and provenance are looked at by different
            checks, so a key may be counted under several.
    """

    at: str
    keys: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ModuleCells:
    """Modules that are alike, by their names within the layer."""

    names: tuple[str, ...]
    cells: tuple[LayerCells, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers that have the same modules.

    Attributes:
        name: Path of the layers, `#` for numbers before the last; empty for modules that stand in no layer.
        layers: Numbers of the layers, in order; `0.1.0` where the path has several. One empty name in no layer.
        modules: Their modules, those together that are alike.
    """

    name: str
    layers: tuple[str, ...]
    modules: tuple[ModuleCells, ...]


def positions(at: str) -> Iterator[int]:
    """Give the positions that a text stands for.

    Example:
        >>> list(positions("0-2,5"))
        [0, 1, 2, 5]
    """
    for run in at.split(","):
        first, _, last = run.partition("-")
        yield from range(int(first), int(last or first) + 1)


def runs(numbers: Iterable[int]) -> str:
    """Write sorted positions as a text.

    Example:
        >>> runs([0, 1, 2, 5])
        '0-2,5'
    """
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


class Place(NamedTuple):
    """A place in the picture: a stack of layers, a module of each of them, and one of its layers."""

    stack: str
    module: str
    layer: str


_Keys = tuple[tuple[str, int], ...]

Cells = dict[Place, dict[str, int]]
"""Place -> status -> number of keys."""


def cells_of(picture: Iterable[Stack]) -> Cells:
    """Return every cell of a picture by its place."""
    return {
        Place(stack.name, module, stack.layers[position]): dict(alike.keys)
        for stack in picture
        for modules in stack.modules
        for module in modules.names
        for alike in modules.cells
        for position in positions(alike.at)
    }


def of_cells(cells: Cells) -> tuple[Stack, ...]:
    """Put cells together to a picture: stacks, modules and layers in natural order."""
    stacks: defaultdict[str, defaultdict[str, dict[str, dict[str, int]]]] = defaultdict(lambda: defaultdict(dict))
    for (stack, module, layer), keys in cells.items():
        stacks[stack][module][layer] = keys
    return tuple(_stack(name, stacks[name]) for name in sorted(stacks, key=_natural))


def _stack(name: str, modules: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Stack:
    layers = sorted({layer for own in modules.values() for layer in own}, key=_natural)
    order = {layer: position for position, layer in enumerate(layers)}
    like: defaultdict[tuple[tuple[tuple[int, ...], _Keys], ...], list[str]] = defaultdict(list)
    for module in sorted(modules, key=_natural):
        alike: defaultdict[_Keys, list[int]] = defaultdict(list)
        for layer, keys in modules[module].items():
            alike[tuple(sorted(keys.items()))].append(order[layer])
        like[tuple(sorted((tuple(sorted(own)), keys) for keys, own in alike.items()))].append(module)
    rows = (
        ModuleCells(tuple(names), tuple(LayerCells(runs(own), dict(keys)) for own, keys in cells))
        for cells, names in like.items()
    )
    return Stack(name, tuple(layers), tuple(rows))


def _natural(name: str) -> list[tuple[int, str]]:
    parts = name.split(".")
    return [(int(part), "") if part.isascii() and part.isdigit() and len(part) < 10 else (-1, part) for part in parts]  # noqa: PLR2004


def union(one: tuple[Stack, ...] | None, other: tuple[Stack, ...] | None) -> tuple[Stack, ...] | None:
    """Put two pictures of one model together. Associative, commutative, idempotent.

    Example:
        >>> names = Stack("layers", ("0", "1"), (ModuleCells(("q",), (LayerCells("0-1", {"loaded": 2}),)),))
        >>> values = Stack("layers", ("1",), (ModuleCells(("q",), (LayerCells("0", {"zero": 1}),)),))
        >>> union((names,), (values,))[0].modules[0].cells
        (LayerCells(at='0', keys={'loaded': 2}), LayerCells(at='1', keys={'loaded': 2, 'zero': 1}))
    """
    if not one or not other or one == other:
        return one or other
    cells = cells_of(one)
    for place, keys in cells_of(other).items():
        own = cells.setdefault(place, {})
        own.update({status: max(number, own.get(status, 0)) for status, number in keys.items()})
    return of_cells(cells)
