"""Keys that differ only in numbers are one template: a million keys of a model are a few hundred templates."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_lora_ckpt.keys.conventions import NUMBER, Form, read_forms
from pytest_lora_ckpt.keys.grammar import parse_key
from pytest_lora_ckpt.wording.patterns import NUMBERS, segments_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Shape: TypeAlias = tuple[int, ...]
Indices: TypeAlias = tuple[str, ...]
# Members by their numbers, and their shapes in the same order.
_Group: TypeAlias = "tuple[dict[Indices, str], list[Any]]"


class Template:
    """All keys of one side that are equal but for their numbers.

    Attributes:
        names: The text around the numbers.
        members: The numbers of each key -> the key.
        shape: The shape of all members, None where they differ.
        forms: How the key may be read in terms of the base model; the first one is the literal reading.
    """

    __slots__ = ("_constants", "_format", "_shapes", "forms", "members", "names", "shape")

    def __init__(self, names: tuple[str, ...], members: Mapping[Indices, str], shapes: Sequence[Any]) -> None:
        """Read the template by the grammar and the conventions; `shapes` are in the order of the members."""
        self.names = names
        self.members = members
        self._format = ".%s".join(name.replace("%", "%%") for name in names)[1:-1]
        own = [shape_of(shape) for shape in shapes]
        self.shape: Shape | None = own[0] if len(set(own)) == 1 else None
        self._shapes = None if self.shape is not None else dict(zip(members, own, strict=True))
        self.forms: tuple[Form, ...] = read_forms(self.marked)
        self._constants: list[str | None] | None = None

    def shape_at(self, indices: Indices) -> Shape:
        """Return the shape of the member with these numbers."""
        if self._shapes is not None:
            return self._shapes[indices]
        return self.shape or ()

    @property
    def shapes(self) -> set[Shape]:
        """All shapes that occur."""
        return set(self._shapes.values()) if self._shapes is not None else {self.shape or ()}

    @property
    def marked(self) -> tuple[str, ...]:
        """The segments, with `NUMBER` where a number stands."""
        return tuple(NUMBER if part is None else part for part in segments_of(self.names))

    def key(self, indices: Indices) -> str:
        """Return the key with any numbers, of a member or not."""
        return self._format % indices

    def constant(self, at: int) -> str | None:
        """Return the number at position `at` if it is the same in all keys, else None."""
        if self._constants is None:
            self._constants = [None] * (len(self.names) - 1)
            for place in range(len(self.names) - 1):
                values = {indices[place] for indices in self.members}
                self._constants[place] = values.pop() if len(values) == 1 else None
        return self._constants[at]


def shape_of(value: Any) -> Shape:
    """Return the shape of a `TensorInfo`, a tensor or a plain sequence of sizes."""
    return tuple(getattr(value, "shape", value))


def build_templates(keys: Mapping[str, Any]) -> list[Template]:
    """Group keys into templates, in an order that does not depend on the order of the keys.

    Example:
        >>> [one] = build_templates({"h.0.w": (2,), "h.1.w": (2,)})
        >>> one.members
        {('0',): 'h.0.w', ('1',): 'h.1.w'}
    """
    groups: defaultdict[tuple[str, ...], _Group] = defaultdict(lambda: ({}, []))
    for key, value in keys.items():
        parts = NUMBERS.split(f".{key}.")
        members, shapes = groups[tuple(parts[::2])]
        members[tuple(parts[1::2])] = key
        shapes.append(value)
    return [
        Template(own_names, *own)
        for names, group in sorted(groups.items(), key=lambda item: item[0])
        for own_names, own in _separate_adapters(names, group)
    ]


def _separate_adapters(names: tuple[str, ...], group: _Group) -> list[tuple[tuple[str, ...], _Group]]:
    """An adapter may be called `0`: such a number is a name, and each one a template of its own."""
    if not any("lora" in name or "modules_to_save" in name or "trainable_tokens" in name for name in names):
        return [(names, group)]
    segments = segments_of(names)
    roles = parse_key(".".join("0" if part is None else part for part in segments)).roles
    numbers = [role for part, role in zip(segments, roles, strict=True) if part is None]
    if "adapter" not in numbers:
        return [(names, group)]
    at = numbers.index("adapter")
    split: defaultdict[str, _Group] = defaultdict(lambda: ({}, []))
    for (indices, key), shape in zip(group[0].items(), group[1], strict=True):
        members, shapes = split[indices[at]]
        members[indices[:at] + indices[at + 1 :]] = key
        shapes.append(shape)
    return [
        ((*names[:at], f"{names[at]}.{name}{names[at + 1]}", *names[at + 2 :]), own)
        for name, own in sorted(split.items())
    ]
