"""Keys that differ only in numbers are one template: a million keys of a model are a few hundred templates.

What is worked out once per template (`Reading`, `Form`) holds for all its keys; a `KeySet` keeps its templates.
"""

from __future__ import annotations

from collections import defaultdict
from sys import intern
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_lora_ckpt.keys.conventions import NUMBER, Form, Path, read_forms
from pytest_lora_ckpt.keys.grammar import ParsedKey, Reading, component_at, plain_reading, read_segments
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.vocabulary.conventions import NUMBERED
from pytest_lora_ckpt.vocabulary.lora import LORA_SCALES
from pytest_lora_ckpt.wording.patterns import NUMBERS, segments_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
        marked: The segments, with `NUMBER` where a number stands.
        reading: What the grammar makes of these keys.
        forms: How the key may be read in terms of the base model; the first one is the literal reading.
    """

    __slots__ = ("_constants", "_format", "_shapes", "forms", "marked", "members", "names", "reading", "shape")

    def __init__(self, names: tuple[str, ...], members: Mapping[Indices, str], shapes: Sequence[Any]) -> None:
        """Read the template by the grammar and the conventions; `shapes` are in the order of the members."""
        self.names = names
        self.members = members
        self._format = ".%s".join(name.replace("%", "%%") for name in names)[1:-1]
        self.marked: Path = tuple(NUMBER if part is None else part for part in segments_of(names))
        own = [shape_of(shapes[0])] if len({*map(id, shapes)}) == 1 else [shape_of(shape) for shape in shapes]
        self.shape: Shape | None = own[0] if len(set(own)) == 1 else None
        self._shapes = None if self.shape is not None else dict(zip(members, own, strict=True))
        # A digit is as good for the grammar as any number.
        self.reading: Reading = read_segments(["0" if part == NUMBER else part for part in self.marked])
        self.forms: tuple[Form, ...] = read_forms(self.marked, self.reading)
        self._constants: list[str | None] | None = None

    @property
    def module(self) -> Path:
        """The segments of the module's plain path, with `NUMBER` where a number stands."""
        return tuple(part for part, role in zip(self.marked, self.reading.roles, strict=True) if role == "module")

    def module_numbers(self) -> set[Indices]:
        """Return the numbers in the modules' plain paths, of all members."""
        roles = [role for part, role in zip(self.marked, self.reading.roles, strict=True) if part == NUMBER]
        picks = [at for at, role in enumerate(roles) if role == "module"]
        return {tuple(indices[at] for at in picks) for indices in self.members}

    def shape_at(self, indices: Indices) -> Shape:
        """Return the shape of the member with these numbers."""
        if self._shapes is not None:
            return self._shapes[indices]
        return self.shape or ()

    @property
    def shapes(self) -> set[Shape]:
        """All shapes that occur."""
        return set(self._shapes.values()) if self._shapes is not None else {self.shape or ()}

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

    def named(self, at: int) -> str | None:
        """Return the number at position `at` if it is part of a name, such as the 2 of `ffn.2`, else None."""
        numbers = NUMBERED.get(self.names[at].rpartition(".")[2])
        return self.constant(at) if numbers is not None and self.constant(at) in numbers else None

    def spelled(self, path: Path) -> Path:
        """Write out the numbers that are part of a name, in a path that has all numbers up to its last."""
        if NUMBERED.keys().isdisjoint(path):
            return path
        count = iter(range(len(self.names) - 1))
        return tuple((self.named(next(count)) or NUMBER) if name == NUMBER else name for name in path)


def shape_of(value: Any) -> Shape:
    """Return the shape of a `TensorInfo`, a tensor or a plain sequence of sizes."""
    return tuple(getattr(value, "shape", value))


def templates(keys: Mapping[str, Any]) -> Sequence[Template]:
    """Group keys into templates, in an order that does not depend on the order of the keys; a `KeySet` keeps them.

    Args:
        keys: Key -> shape, `TensorInfo` or tensor.

    Example:
        >>> [one] = templates({"h.0.w": (2,), "h.1.w": (2,)})
        >>> one.members
        {('0',): 'h.0.w', ('1',): 'h.1.w'}
    """
    return keys.derived(_build) if isinstance(keys, KeySet) else _build(keys)


def readings(keys: KeySet) -> Mapping[str, Reading]:
    """Read every key of a set by the grammar; keys of one template share one reading.

    Its neighbours distinguish a scale of LoRA from a model's own `alpha`, which is a plain parameter.
    """
    return keys.derived(_read)


def parse_keys(keys: Iterable[str]) -> Mapping[str, ParsedKey]:
    """Parse the keys of one state dict, in their order; a `KeySet` keeps the result.

    Its neighbours distinguish a scale of LoRA from a model's own `alpha`.

    Example:
        >>> parsed = parse_keys(["fc.lora_down.weight", "fc.alpha", "snake.alpha"])
        >>> parsed["fc.alpha"].is_lora, parsed["snake.alpha"].is_lora
        (True, False)
    """
    if isinstance(keys, KeySet):
        return keys.derived(_parse)
    return {key: ParsedKey(key, reading) for key, reading in _read(dict.fromkeys(keys, ())).items()}


def _parse(keys: KeySet) -> dict[str, ParsedKey]:
    return {key: ParsedKey(key, reading) for key, reading in readings(keys).items()}


def _read(keys: Mapping[str, Any]) -> dict[str, Reading]:
    own = templates(keys)
    found = dict.fromkeys(keys, plain_reading(("",)))
    for template in own:
        at = component_at(template.marked, template.reading.roles)
        if at is None or template.marked[at] != NUMBER:
            found.update(dict.fromkeys(template.members.values(), template.reading))
        else:
            found.update((key, read_segments(key.split("."))) for key in template.members.values())
    scales = [template for template in own if template.reading.lora in LORA_SCALES]
    if scales:
        lora = [template for template in own if template.reading.is_lora]
        factors = [template for template in lora if template.reading.lora not in LORA_SCALES]
        adapted = {path for template in factors for path in _module_paths(template)}
        for template in scales:
            members = zip(template.members.values(), _module_paths(template), strict=True)
            found.update((key, plain_reading(key.split("."))) for key, path in members if path not in adapted)
    return found


def _module_paths(template: Template) -> list[str]:
    return [ParsedKey(key, template.reading).module_path for key in template.members.values()]


def _build(keys: Mapping[str, Any]) -> list[Template]:
    groups: defaultdict[tuple[str, ...], _Group] = defaultdict(lambda: ({}, []))
    for key, value in keys.items():
        parts = NUMBERS.split(f".{key}.")
        members, shapes = groups[tuple(parts[::2])]
        # There are few numbers and many keys.
        members[tuple(map(intern, parts[1::2]))] = key
        shapes.append(value)
    return [
        Template(own_names, *alike)
        for names, group in sorted(groups.items(), key=lambda item: item[0])
        for own_names, own in _separate_adapters(names, group)
        for alike in _separate_numbered(own_names, own)
    ]


def _separate_numbered(names: tuple[str, ...], group: _Group) -> list[_Group]:
    """Where a number is part of a name that some library has (`ffn.0` and `ffn.2`), each is a template of its own."""
    for at, before in enumerate(names[:-1]):
        numbers = NUMBERED.get(before.rpartition(".")[2])
        if numbers is not None and len(values := {indices[at] for indices in group[0]}) > 1 and values <= numbers:
            split: dict[str, _Group] = {value: ({}, []) for value in sorted(values)}
            for (indices, key), shape in zip(group[0].items(), group[1], strict=True):
                split[indices[at]][0][indices] = key
                split[indices[at]][1].append(shape)
            return list(split.values())
    return [group]


def _separate_adapters(names: tuple[str, ...], group: _Group) -> list[tuple[tuple[str, ...], _Group]]:
    """An adapter may be called `0`: such a number is a name, and each one a template of its own."""
    if not any("lora" in name or "modules_to_save" in name or "trainable_tokens" in name for name in names):
        return [(names, group)]
    segments = segments_of(names)
    roles = read_segments(["0" if part is None else part for part in segments]).roles
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


def are_turned(first: Shape, second: Shape) -> bool:
    """Return whether a pair lies as MLX and some projects have it: in x rank, rank x out. A rank is below the widths.

    Example:
        >>> are_turned((32, 4), (4, 16)), are_turned((32, 4), (4, 32)), are_turned((4, 32), (32, 4))
        (True, True, False)
    """
    if len(first) != 2 or len(second) != 2 or first[1] != second[0]:  # noqa: PLR2004 - Matrices.
        return False
    return first[0] != second[1] or first[1] < first[0]
