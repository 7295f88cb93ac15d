"""Calls whose arguments matter: those that only spell the name of a class, and those that call what they are given.

`pickle` has no spelling for a nested class before protocol 4, nor for `NoneType` and the types of annotations: it
writes them as calls of harmless functions, which could be called with anything else too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.vocabulary.calls import CALLS_ITS_ARGUMENTS, LOADS_ITS_ARGUMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_lora_ckpt.checkpoint.pickle.globals import Asked, Ledger, Use

    Spelling = Callable[[Ledger, Asked, tuple[object, ...]], Opaque | None]


def watch(ledger: Ledger, asked: Asked, arguments: tuple[object, ...], use: Use) -> Opaque | None:
    """Note a call of a name whose arguments matter; return what it makes, where that is not for the name to say."""
    if _spells_bytes(asked, arguments):
        asked.spelled = True
        return None
    spelling = _SPELLINGS.get((asked.module, asked.name))
    spelled = spelling(ledger, asked, arguments) if spelling is not None else None
    if spelled is not None:
        asked.spelled = True
        return spelled
    asked.note(use)
    name = (asked.module, asked.name)
    for place, done in CALLS_ITS_ARGUMENTS.get(name, ()):
        if place < len(arguments):
            from_type = place == 0 and asked.name.startswith("_rebuild_from_type") and len(arguments) > 2  # noqa: PLR2004
            note_call(ledger, arguments[place], arguments[2] if from_type else (), done)
    if name in LOADS_ITS_ARGUMENT:
        ledger.inner += [(bytes(each), asked.byte) for each in arguments if isinstance(each, (bytes, bytearray))]
    match name, arguments:
        case ("copyreg", "_reconstructor"), (Opaque(args=None) as kind, _, _):
            return Opaque(kind.qualname, (), asked=kind.asked)  # An object, as protocols 0 and 1 make it.
    return None


def note_call(ledger: Ledger, target: object, arguments: object = (), use: Use = "called") -> None:
    """Note that something from the pickle is called: a name, or what a call returned."""
    if not isinstance(target, Opaque) or target.asked is None:
        return
    asked = target.asked if target.args is None else ledger.ask(target.asked.module, f"{target.asked.name}()", 0)
    if asked.watched and isinstance(arguments, tuple):
        watch(ledger, asked, arguments, use)
    else:
        asked.note(use)


def is_class_name(name: str) -> bool:
    """Whether a name is written as those of classes are, each part of it.

    Example:
        >>> [is_class_name(name) for name in ("Config", "_Private", "Outer.Inner", "Outer.method", "load", "HTTP2")]
        [True, True, True, False, False, True]
    """
    return all(part.lstrip("_")[:1].isupper() for part in name.split("."))


def _spells_bytes(asked: Asked, arguments: tuple[object, ...]) -> bool:
    """`_codecs.encode("text", "latin1")`: bytes, in protocols 0 to 2."""
    return asked.qualname == "_codecs.encode" and len(arguments) == 2 and arguments[1] in _LATIN_1  # noqa: PLR2004


def _attribute(ledger: Ledger, asked: Asked, arguments: tuple[object, ...]) -> Opaque | None:
    """`getattr(Outer, "Inner")`: a nested class, a member of an enum, or a method that is named, of an object too."""
    match arguments:
        case (Opaque(asked=owner), str() as name) if owner is not None and is_class_name(owner.name):
            if name.isidentifier() and not name.startswith("__"):
                inner = ledger.ask(owner.module, f"{owner.name}.{name}", asked.byte)
                return Opaque(f"{inner.module}.{inner.name}", asked=inner)
    return None


def _type(ledger: Ledger, asked: Asked, arguments: tuple[object, ...]) -> Opaque | None:
    """`type(None)`: the only spelling of it."""
    if len(arguments) != 1 or arguments[0] is not None:
        return None
    return Opaque("builtins.NoneType", asked=ledger.ask("builtins", "NoneType", asked.byte))


def _item(_: Ledger, __: Asked, arguments: tuple[object, ...]) -> Opaque | None:
    """`operator.getitem(typing.Dict, (str, int))`: a type of an annotation."""
    match arguments:
        case (Opaque(asked=owner) as generic, _) if owner is not None and owner.module == "typing":
            return Opaque(generic.qualname, arguments[1:], asked=owner)
    return None


def _union(_: Ledger, __: Asked, arguments: tuple[object, ...]) -> Opaque | None:
    """`functools.reduce(operator.or_, (int, str))`: the type `int | str`."""
    match arguments:
        case (Opaque(args=None, qualname="operator.or_" | "_operator.or_") as function, tuple() as types):
            if all(
                isinstance(each, Opaque) and (each.args is None or each.qualname[:7] == "typing.") for each in types
            ):
                return Opaque(function.qualname, types, asked=function.asked)
    return None


_LATIN_1 = ("latin1", "latin-1")

_SPELLINGS: Mapping[tuple[str, str], Spelling] = {
    ("builtins", "getattr"): _attribute,
    ("builtins", "type"): _type,
    ("operator", "getitem"): _item,
    ("_operator", "getitem"): _item,
    ("functools", "reduce"): _union,
    ("_functools", "reduce"): _union,
}
