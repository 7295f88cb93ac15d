"""What the names mean that pickles ask for: known data, classes that nobody here knows, and what runs code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from pytest_lora_ckpt.checkpoint.pickle.watched import is_class_name
from pytest_lora_ckpt.findings.finding import finding
from pytest_lora_ckpt.vocabulary.calls import LIBRARIES, PYTHON, RUNNERS, RUNNING_CLASSES, RUNS
from pytest_lora_ckpt.vocabulary.inert import CLASSES_OF, INERT, NAMED, NAMED_FUNCTIONS_OF
from pytest_lora_ckpt.wording import count, listed, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.pickle.globals import Global
    from pytest_lora_ckpt.results import Finding

Kind = Literal["inert", "trusted", "unknown", "code"]

_SHOWN = 6


def kind_of(asked: Global, trust: Collection[str] = ()) -> Kind:
    """Judge one name that a pickle asks for.

    Nothing is imported to look at it. What is known to describe data is inert. The rest of Python, and of packages made
    to run code, is `"code"`; of libraries, what is called; of modules that are not known, a function that is called. A
    class of such a module is `"unknown"`: making an object of it runs what that module says.

    Args:
        asked: The name, and what loading does with it.
        trust: Names that the user accepts, `"module.name"`.

    Example:
        >>> from pytest_lora_ckpt.checkpoint.pickle.globals import Global
        >>> def kind(module, name, use): return kind_of(Global(module, name, "a.pt", None, use))
        >>> kind("collections", "OrderedDict", "called"), kind("posix", "system", "named")
        ('inert', 'code')
        >>> kind("my_project.train", "Config", "made"), kind("my_project.train", "run", "called")
        ('unknown', 'code')
    """
    if asked.qualname in trust:
        return "trusted"
    name = (asked.module, asked.name)
    if asked.use == "changed":
        return "code"
    if name in INERT or (name in NAMED and asked.use == "named"):
        return "inert"
    root = asked.module.partition(".")[0]
    owner = asked.name.rpartition(".")[0]
    if not root or root in sys.stdlib_module_names or root in PYTHON or root in RUNNERS:
        return "code"
    # A module or a function of another module cannot stand between a module and its class: pickles spell it otherwise.
    if asked.name.endswith("()") or (owner and not is_class_name(owner)):
        return "code"
    return _of_library(asked) if root in LIBRARIES else _of_project(asked)


def _of_library(asked: Global) -> Kind:
    """Judge a name of a library that is not among those that are known to be harmless."""
    owner, _, own = asked.name.rpartition(".")
    if not RUNS.isdisjoint((*asked.module.split("."), *asked.name.split("."))):
        return "code"
    is_class = is_class_name(own)
    known = (is_class or owner) and any(f"{asked.module}.".startswith(f"{package}.") for package in CLASSES_OF)
    if asked.use == "named":
        if (asked.module, owner) in INERT | NAMED or known or asked.module in NAMED_FUNCTIONS_OF:
            return "inert"  # A member of an enum, a layer, an activation.
        return "unknown"
    if not is_class or asked.use == "called":
        return "code"
    return "inert" if known and asked.use == "made" else "unknown"


def _of_project(asked: Global) -> Kind:
    """Judge a name of a module that nobody here knows."""
    own = asked.name.rpartition(".")[2]
    if asked.use in {"called", "valued"} and (not is_class_name(own) or own in RUNNING_CLASSES):
        return "code"
    return "unknown"


def global_findings(
    asked: Sequence[Global], trust: Collection[str] = (), unread: Mapping[str, str] | None = None
) -> list[Finding]:
    """List what is wrong with the names that the pickles of a checkpoint ask for.

    Args:
        asked: The names.
        trust: Names that the user accepts.
        unread: Pickles that were not read to their end -> why.
    """
    kinds: dict[Kind, list[Global]] = {"code": [], "unknown": []}
    for each in asked:
        kinds.setdefault(kind_of(each, trust), []).append(each)
    found: list[Finding] = []
    if code := kinds["code"]:
        names = _names(code)
        message = (
            f"Loading it would run code: its pickles ask for {count(len(names), 'name')} that "
            f"{'is' if len(names) == 1 else 'are'} not data: {_where(code)}. Nothing of it was run."
        )
        # For a command line: the file chose the names.
        plain = [name for name in names if all(map(str.isidentifier, name.split(".")))]
        known = f" If you know what it is: {' '.join(f'--lora-trust={name}' for name in plain[:3])}." if plain else ""
        remedy = f"{_DO_NOT_LOAD}{known}"
        found.append(finding("runs-code", message, names, remedy=remedy))
    if unknown := kinds["unknown"]:
        names = _names(unknown)
        message = (
            f"Its pickles ask for {count(len(names), 'name')} of modules that are not known here: {_where(unknown)}. "
            "Loading runs what these modules make of it, which a name does not show; nothing of it was run."
        )
        found.append(finding("unknown-class", message, names))
    if unread:
        entries = listed((f"{entry} ({why})" for entry, why in unread.items()), _SHOWN)
        message = f"{count(len(unread), 'pickle')} could not be read to the end: {entries}."
        found.append(finding("pickle-not-read", message))
    return found


_DO_NOT_LOAD = "Do not load this file: take the weights from their source again, as safetensors."


def _names(asked: Iterable[Global]) -> list[str]:
    return sorted({each.qualname for each in asked})


def _where(asked: Sequence[Global]) -> str:
    """Say what is done with each name, how often, and where it lies."""
    shown = []
    for each in asked[:_SHOWN]:
        place = f"at {printable(each.path, 80)}" if each.path else f"at byte {each.byte}"
        often = f" {count(each.count, 'time')}" if each.count > 1 else ""
        shown.append(
            f"{printable(each.qualname, 80)} ({'called' if each.use == 'valued' else each.use}{often}, "
            f"{place} in {printable(each.entry, 80)})"
        )
    more = len(asked) - _SHOWN
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
