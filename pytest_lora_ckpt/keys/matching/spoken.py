"""Which names of published libraries a key has: `self_attn.q_proj` is what transformers calls queries."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.keys.conventions import NUMBER, Form, Path
from pytest_lora_ckpt.vocabulary.conventions import LIBRARIES, NUMBERED, OUTSIDE_LAYERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_lora_ckpt.keys.templates import Template

_PARAMETERS = frozenset({"weight", "bias"})


class Name(NamedTuple):
    """What one library calls a role.

    Attributes:
        library: The library.
        role: The role.
        tail: The end of the path, with `NUMBER` for numbers.
        digits: The numbers that must stand there, None for any.
        spelled: The tail with the numbers written out that are part of a name, as `Template.spelled` does.
    """

    library: str
    role: str
    tail: Path
    digits: tuple[str | None, ...]
    spelled: Path


def _names() -> Iterator[Name]:
    for library, row in LIBRARIES.items():
        for role, text in row.names.items():
            segments = text.split(".")
            digits = tuple(None if one == "#" else one for one in segments if one == "#" or one.isdigit())
            tail = tuple(NUMBER if s == "#" or s.isdigit() else s for s in segments)
            spelled = tuple(
                now if now in NUMBERED.get(before, ()) else name
                for before, now, name in zip(("", *segments), segments, tail, strict=False)
            )
            yield Name(library, role, tail, digits, spelled)


NAMES = tuple(_names())
"""The names of all libraries."""


def _by_last() -> Mapping[str, list[Name]]:
    found: defaultdict[str, list[Name]] = defaultdict(list)
    for name in sorted(NAMES, key=lambda name: -len(name.tail)):
        found[name.tail[-1]].append(name)
    return dict(found)


_BY_LAST = _by_last()


def spoken(template: Template, form: Form) -> Iterator[Name]:
    """Give the names that a template has, read in this way, as libraries call them."""
    for path in dict.fromkeys((form.path, whole_path(form))):
        longest: dict[str, int] = {}  # `attention.output.dense` is not called `output.dense`.
        for name in _BY_LAST.get(path[-1], ()) if path else ():
            at = len(path) - len(name.tail)
            if at < 0 or path[at:] != name.tail or (NUMBER in path[:at]) == (name.role in OUTSIDE_LAYERS):
                continue
            first = path[:at].count(NUMBER)
            if longest.setdefault(name.library, at) == at and all(
                d is None or _constant(template, first + n) == d for n, d in enumerate(name.digits)
            ):
                yield name


def _constant(template: Template, at: int) -> str | None:
    """The number there, if it is one for all keys; a reading may have added the first of a pair that the key lacks."""
    return template.constant(at) if at < len(template.names) - 1 else "0"


def whole_path(form: Form) -> Path:
    """Return the path with the parameter at its end."""
    return (*form.path, form.family) if form.family in _PARAMETERS else form.path
