"""Where a key stands in the picture: in which stack of layers, in which of its layers, in which module of that."""

from __future__ import annotations

import re
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.picture.facts import Place
from pytest_lora_ckpt.keys import parse_key, templates
from pytest_lora_ckpt.keys.conventions import NUMBER
from pytest_lora_ckpt.keys.grammar import FLATTENED
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.vocabulary.models import EXPERTS, LAYER_LISTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pytest_lora_ckpt.keys.templates import Indices, Template

_IN_A_NAME = re.compile(r"_([0-9]+)(?:_|$)")


def count_places(keys: Iterable[str]) -> Counter[Place]:
    """Count the keys at each place.

    Example:
        >>> keys = [f"base_model.model.model.layers.{n}.mlp.up.lora_{ab}.default.weight" for n in (0, 3) for ab in "AB"]
        >>> for place, number in count_places(keys).items():
        ...     print(place.stack, place.layer, place.module, number)
        model.layers 0 mlp.up 2
        model.layers 3 mlp.up 2
    """
    counted: Counter[Place] = Counter()
    for template in templates(keys if isinstance(keys, KeySet) else dict.fromkeys(keys, ())):
        spots = _Spots(template)
        for told, number in Counter(map(spots.telling, template.members)).items():
            counted[spots.place(told)] += number
    return counted


def place_of_each(keys: Iterable[str]) -> Mapping[str, Place]:
    """Return the place of each key."""
    placed: dict[str, Place] = {}
    for template in templates(dict.fromkeys(keys, ())):
        spots = _Spots(template)
        placed.update((key, spots.place(spots.telling(numbers))) for numbers, key in template.members.items())
    return placed


class _Spots:
    """The places of keys that differ in numbers alone. Those of experts tell nothing, so that few have to be made."""

    def __init__(self, template: Template) -> None:
        path: list[str] = []
        numbers: list[int] = []  # Of the path's numbers, which of the key's they are.
        seen = 0
        for part, role in zip(template.marked, template.reading.roles, strict=True):
            if role == "module":
                path.append(part)
                numbers += [seen] if part == NUMBER else []
            seen += part == NUMBER
        self._path = path
        self._rows = _rows(path)
        told = [at for at, part in enumerate(path) if part == NUMBER]
        kept = [number for at, number in zip(told, numbers, strict=True) if not at or path[at - 1] != EXPERTS]
        self._kept = [at for at in told if not at or path[at - 1] != EXPERTS]
        self.telling: Callable[[Indices], Indices] = _picking(kept)

    def place(self, told: Indices) -> Place:
        """Make the place of keys with these telling numbers."""
        path = list(self._path)
        for at, number in zip(self._kept, told, strict=True):
            path[at] = number
        if self._kept:
            return _split(path, self._rows)
        return _place(["*" if part == NUMBER else part for part in path])


def _picking(numbers: Sequence[int]) -> Callable[[Indices], Indices]:
    """Return a function that picks some of a key's numbers."""
    if len(numbers) > 1:
        return itemgetter(*numbers)
    return (lambda given: (given[numbers[0]],)) if numbers else (lambda _: ())


def place_of_module(path: str) -> Place:
    """Return the place of a module by its path in a live model.

    Example:
        >>> place_of_module("base_model.model.vision.blocks.3.mlp.experts.7.w1")
        Place(stack='vision.blocks', module='mlp.experts.*.w1', layer='3')
    """
    return _place(parse_key(f"{path}.lora_A.weight").modules)


def _place(path: Sequence[str]) -> Place:
    """Place a path that has its numbers, also within its one segment (kohya, LyCORIS)."""
    if len(path) == 1 and FLATTENED.fullmatch(path[0]):
        path = _IN_A_NAME.sub(r".\1.", path[0]).rstrip(".").split(".")
    return _split(path, _rows([NUMBER if part.isdigit() else part for part in path]))


def _rows(path: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of the numbers that count layers, in a path that has `NUMBER` for numbers."""
    end = path.index(EXPERTS) if EXPERTS in path else len(path) - 1
    numbers = [at for at, part in enumerate(path[:end]) if part == NUMBER and at]
    named = tuple(at for at in numbers if path[at - 1].rpartition("_")[2] in LAYER_LISTS)
    return named or tuple(numbers[:1])


def _split(path: Sequence[str], rows: Sequence[int]) -> Place:
    if not rows:
        return Place("", ".".join(_folded(path)), "")
    stack = [("#" if at in rows else part) for at, part in enumerate(path[: rows[-1]])]
    return Place(".".join(stack), ".".join(_folded(path[rows[-1] + 1 :])), ".".join(path[at] for at in rows))


def _folded(path: Sequence[str]) -> Iterator[str]:
    """Give a path with one name for all experts of a layer."""
    for at, part in enumerate(path):
        yield "*" if at and path[at - 1] == EXPERTS and (part.isdigit() or part == NUMBER) else part
