"""A `KeySet` that shows its keys when Hypothesis prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.tensors import KeySet, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


class DrawnKeySet(KeySet):
    """A `KeySet` made of shapes, which prints as the call that makes it: a failing example can be pasted into a test.

    Args:
        shapes: key -> shape, in the order of the state dict.
        aliases: Groups of keys that name one tensor.

    Example:
        >>> tied = DrawnKeySet({"embed.weight": (4, 2), "head.weight": (4, 2)}, [("embed.weight", "head.weight")])
        >>> tied
        DrawnKeySet({'embed.weight': (4, 2), 'head.weight': (4, 2)}, [('embed.weight', 'head.weight')])
        >>> tied.shapes["head.weight"], tied.nbytes
        ((4, 2), 32)
    """

    __slots__ = ()

    def __init__(self, shapes: Mapping[str, Shape], aliases: Iterable[Iterable[str]] = ()) -> None:
        groups = [tuple(group) for group in aliases]
        storage = {key: group[0] for group in groups for key in group}
        super().__init__({key: TensorInfo(shape, storage=storage.get(key)) for key, shape in shapes.items()}, groups)

    def __repr__(self) -> str:
        aliases = f", {list(self.aliases)!r}" if self.aliases else ""
        return f"{type(self).__name__}({self.shapes!r}{aliases})"

    def renamed(self, rename: Callable[[str], str]) -> DrawnKeySet:
        """Return the same tensors under other names."""
        aliases = [[rename(key) for key in group] for group in self.aliases]
        return DrawnKeySet({rename(key): shape for key, shape in self.shapes.items()}, aliases)

    def with_more(self, shapes: Mapping[str, Shape]) -> DrawnKeySet:
        """Return these tensors and further ones."""
        return DrawnKeySet({**self.shapes, **shapes}, self.aliases)
