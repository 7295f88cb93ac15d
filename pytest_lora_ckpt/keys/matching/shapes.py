"""What a difference between two shapes means: the same tensor, one of another rank, or an unrelated one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from pytest_lora_ckpt.keys.templates import Shape

Closeness: TypeAlias = Literal["same", "near", "other"]


class Fit(NamedTuple):
    """How the members of a template fit a place: by how many they have the same shape, a near one, another one."""

    same: int
    near: int
    other: int
    total: int

    @property
    def share(self) -> float:
        """The share of members that fit, near ones counting half."""
        return (self.same + self.near / 2) / self.total if self.total else 0.0

    @property
    def met(self) -> int:
        """How many members meet a key of the model, whatever its shape."""
        return self.same + self.near + self.other

    def add(self, closeness: Closeness, members: int) -> Fit:
        """Count some more members."""
        return self._replace(**{closeness: getattr(self, closeness) + members})


NO_FIT = Fit(0, 0, 0, 0)


def compare_shapes(shape: Shape, other: Shape, family: str) -> Closeness:
    """Say whether two tensors of one name can be the same one.

    Near are: an empty tensor, a low-rank factor of another rank, a transposed one.

    Example:
        >>> compare_shapes((8, 32), (4, 32), "A"), compare_shapes((96, 8), (96, 4), "B"), compare_shapes((8,), (4,), "")
        ('near', 'near', 'other')
    """
    if shape == other:
        return "same"
    if 0 in shape:
        return "near"
    is_near = len(shape) == len(other) and (
        (family == "B" and shape[:1] == other[:1])
        or (family == "A" and shape[1:] == other[1:])
        or (family in {"A", "B"} and shape == other[::-1])
    )
    return "near" if is_near else "other"
