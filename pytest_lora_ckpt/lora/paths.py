"""Paths of modules, and the names in a config that mean one of them; no cost grows with names times modules."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def modules_around(key: str) -> Iterator[str]:
    """Give the path of every module around a tensor.

    Example:
        >>> list(modules_around("layers.0.norm.weight"))
        ['layers', 'layers.0', 'layers.0.norm']
    """
    at = key.find(".")
    while at >= 0:
        yield key[:at]
        at = key.find(".", at + 1)


def module_ends(path: str) -> Iterator[str]:
    """Give the names by which a list means this module: its path, and each end of it that begins after a dot.

    Example:
        >>> list(module_ends("layers.0.q_proj"))
        ['layers.0.q_proj', '0.q_proj', 'q_proj']
    """
    yield path
    while (at := path.find(".")) >= 0:
        path = path[at + 1 :]
        yield path


class Endings:
    """Names of which a path may be the end, in the middle of a word too.

    To ask costs a step for each length that the names have, however many names there are.

    Example:
        >>> endings = Endings(["norm", "lm_head"])
        >>> list(endings.of("layers.0.input_layernorm")), list(endings.of("layers.0.mlp"))
        (['norm'], [])
    """

    __slots__ = ("_by_length",)

    def __init__(self, names: Iterable[str]) -> None:
        by_length: dict[int, set[str]] = defaultdict(set)
        for name in names:
            by_length[len(name)].add(name)
        self._by_length = sorted(by_length.items())

    @property
    def steps(self) -> int:
        """How many comparisons one path takes at most."""
        return len(self._by_length)

    def of(self, path: str) -> Iterator[str]:
        """Give the names that the path ends with, the shortest first."""
        size = len(path)
        for length, names in self._by_length:
            if length > size:
                return
            end = path[size - length :]
            if end in names:
                yield end
