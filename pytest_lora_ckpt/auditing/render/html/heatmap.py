"""The picture of a model as tables, a cell for each module of each layer. Layout: the facts say what is in a cell.

They are tables and no graphic, so that a screen reader and a keyboard go through them, and text stays text on a phone.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.picture import STATUSES, Place, place_of_module, positions
from pytest_lora_ckpt.wording import count, group_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pytest_lora_ckpt.auditing.picture import Stack
    from pytest_lora_ckpt.auditing.result import AuditResult

    CellsOf = Callable[[Stack], Mapping[str, Mapping[int, "Cell"]]]
    """Gives the cells of a stack: module -> position of the layer -> cell."""

# Of more, the table below the picture has the rest.
_MOST_ROWS = 200
_MOST_COLUMNS = 200
_MOST_CELLS = 25_000
_MANY_COLUMNS = 30
_MOST_LINES = 400

SHADES = 8
"""How many shades the sizes of updates have."""

_FROM_NAMES = frozenset({"missing", "homeless", "mismatched", "renamed", "loaded", "excused", "held"})


@dataclass(frozen=True, slots=True)
class Cell:
    """One module of one layer: a class of the style sheet, what stands in it, and more where that is not all."""

    kind: str
    text: str
    more: str = ""


_NOTHING = Cell("", "")


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of a stack of layers, as rows.

    Attributes:
        name: Path of the layers.
        heads: What the columns have in common, and of how many.
        columns: Names of the columns, without that.
        modules: Names of the columns as a whole.
        rows: A row for each layer, by its number.
        left: What is not drawn, in words.
    """

    name: str
    heads: Sequence[tuple[str, int]]
    columns: Sequence[str]
    modules: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    left: str = ""

    @property
    def is_dense(self) -> bool:
        """Whether there is little room for each column."""
        return len(self.columns) > _MANY_COLUMNS

    @property
    def is_single(self) -> bool:
        """Whether these are modules that stand in no layer."""
        return not self.name


@dataclass(frozen=True, slots=True)
class Line:
    """The same in words: alike modules of alike layers."""

    stack: str
    modules: str
    layers: str
    keys: str


def status(keys: Mapping[str, int]) -> str:
    """Return the status to show for keys of several.

    Example:
        >>> status({"renamed": 3, "proved": 3}), status({"proved": 2, "zero": 1})
        ('proved', 'zero')
    """
    return next((each for each in STATUSES if keys.get(each)), "")


def used_statuses(runs: Iterable[AuditResult]) -> list[str]:
    """Return the statuses that are shown in some picture, in their order."""
    used = {
        status(alike.keys)
        for run in runs
        for stack in run.picture
        for module in stack.modules
        for alike in module.cells
    }
    return [each for each in STATUSES if each in used]


def status_grids(run: AuditResult) -> list[Grid]:
    """Lay out what became of the keys."""
    return list(_grids(run.picture, _status_cells))


def _status_cells(stack: Stack) -> dict[str, dict[int, Cell]]:
    return {
        name: {position: cell for cell, alike in own for position in positions(alike.at)}
        for module in stack.modules
        for own in [[(_status_cell(alike.keys), alike) for alike in module.cells]]
        for name in module.names
    }


def _status_cell(keys: Mapping[str, int]) -> Cell:
    shown = status(keys)
    of_names = sum(number for each, number in keys.items() if each in _FROM_NAMES)
    is_all = keys[shown] >= of_names and set(keys) <= {shown, "renamed", "loaded"}
    more = "" if is_all else ", ".join(f"{keys[each]} {each}" for each in STATUSES if keys.get(each))
    return Cell(shown, str(max(of_names, keys[shown])), more)


def lines(picture: Iterable[Stack]) -> list[Line]:
    """Say the picture in words."""
    said = [
        Line(
            stack.name,
            ", ".join(pattern for pattern, _ in group_keys(module.names, limit=6)),
            _layers(stack, alike.at),
            ", ".join(f"{alike.keys[each]} {each}" for each in STATUSES if alike.keys.get(each)),
        )
        for stack in picture
        for module in stack.modules
        for alike in module.cells
    ]
    if len(said) > _MOST_LINES:
        left = count(len(said) - _MOST_LINES, "more row")
        return [*said[:_MOST_LINES], Line("", f"… and {left}: all of it is in the JSON report", "", "")]
    return said


def _layers(stack: Stack, at: str) -> str:
    """Name layers by their numbers, runs of them by the first and the last."""
    runs = (run.partition("-") for run in at.split(","))
    return ", ".join(
        stack.layers[int(first)] + (f" to {stack.layers[int(last)]}" if last else "") for first, _, last in runs
    )


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of the updates of one run.

    Attributes:
        cells: Place -> the sizes there, of several experts or adapters.
        is_relative: Whether they are shares of the weights that they change.
    """

    cells: Mapping[Place, Sequence[float]]
    is_relative: bool

    @property
    def all(self) -> list[float]:
        """All sizes."""
        return [size for own in self.cells.values() for size in own]

    def text(self, size: float) -> str:
        """Write a size: a share in percent."""
        return f"{100 * size if self.is_relative else size:#.2g}".rstrip(".") if size else "0"


def sizes(run: AuditResult) -> Sizes:
    """Return the sizes of a run's updates; shares where the weights are known."""
    relative = any(each.weight for each in run.updates)
    cells: dict[Place, list[float]] = {}
    for each in run.updates:
        if each.update is None or not each.finite or not math.isfinite(each.update) or (relative and not each.weight):
            continue
        size = each.update / each.weight if relative and each.weight else each.update
        cells.setdefault(place_of_module(each.module), []).append(size)
    return Sizes(cells, relative)


@dataclass(frozen=True, slots=True)
class SizeLine:
    """The sizes of one module in all layers: how many updates, the smallest, the median and the largest, as text."""

    stack: str
    module: str
    number: int
    sizes: tuple[str, str, str]


def size_lines(run: AuditResult) -> list[SizeLine]:
    """Say the sizes in numbers."""
    known = sizes(run)
    found: dict[tuple[str, str], list[float]] = {}
    for place, own in known.cells.items():
        found.setdefault((place.stack, place.module), []).extend(own)
    unit = " %" if known.is_relative else ""
    return [
        SizeLine(
            *place,
            len(own),
            tuple(f"{known.text(each)}{unit}" for each in (min(own), statistics.median(own), max(own))),  # type: ignore[arg-type]
        )
        for place, own in sorted(found.items())[:_MOST_LINES]
    ]


def scale(runs: Iterable[AuditResult]) -> tuple[float, float]:
    """Return the smallest and the largest size that is not zero, of all runs of a page."""
    found = [size for run in runs for size in sizes(run).all if size]
    return (min(found), max(found)) if found else (1.0, 1.0)


def size_grids(run: AuditResult, low: float, high: float) -> list[Grid]:
    """Lay out the sizes of the updates, in the modules that have one."""
    known = sizes(run)

    def cells_of(stack: Stack) -> dict[str, dict[int, Cell]]:
        order = {layer: position for position, layer in enumerate(stack.layers)}
        found: dict[str, dict[int, Cell]] = {}
        for place, own in known.cells.items():
            if place.stack == stack.name and place.layer in order:
                found.setdefault(place.module, {})[order[place.layer]] = _size_cell(known, own, low, high)
        return found

    return [grid for grid in _grids(run.picture, cells_of) if grid.columns]


def _size_cell(known: Sizes, own: Sequence[float], low: float, high: float) -> Cell:
    middle = statistics.median(own)
    unit = " %" if known.is_relative else ""
    more = f"{len(own)} updates, {known.text(min(own))} to {known.text(max(own))}{unit}" if len(own) > 1 else ""
    return Cell(f"u{_shade(middle, low, high)}", known.text(middle), more)


def _shade(size: float, low: float, high: float) -> int:
    """Return the shade of a size, from 1 to `SHADES` by its logarithm; 0 for no update."""
    if size <= 0:
        return 0
    share = math.log(size / low) / math.log(high / low) if high > low else 1.0
    return 1 + min(int(share * SHADES), SHADES - 1)


def _grids(picture: Iterable[Stack], cells_of: CellsOf) -> Iterator[Grid]:
    room = _MOST_CELLS
    for stack in sorted(picture, key=lambda each: not each.name):
        found = cells_of(stack)
        modules = [name for module in stack.modules for name in module.names if name in found]
        modules.sort(key=_in_order)
        shown = modules[:_MOST_COLUMNS]
        rows = min(len(stack.layers), _MOST_ROWS, max(room // max(len(shown), 1), 0))
        room -= rows * len(shown)
        left = [count(len(modules) - len(shown), "more module")] if len(modules) > len(shown) else []
        left += [count(len(stack.layers) - rows, "more layer")] if len(stack.layers) > rows and shown else []
        heads = [(head, sum(1 for _ in own)) for head, own in groupby(shown, key=_head)]
        yield Grid(
            stack.name,
            [(head if number > 1 else "", number) for head, number in heads],
            [name[len(head) + 1 :] if head and number > 1 else name for name, (head, number) in _with(shown, heads)],
            shown,
            [
                (stack.layers[position], [found[name].get(position, _NOTHING) for name in shown])
                for position in range(rows)
            ],
            " and ".join(left),
        )


def _with(names: Sequence[str], heads: Iterable[tuple[str, int]]) -> Iterator[tuple[str, tuple[str, int]]]:
    each = iter(names)
    for head, number in heads:
        for _ in range(number):
            yield next(each), (head, number)


def _head(name: str) -> str:
    return name.rpartition(".")[0]


def _in_order(name: str) -> tuple[str, str]:
    head, _, last = name.rpartition(".")
    return head or last, last
