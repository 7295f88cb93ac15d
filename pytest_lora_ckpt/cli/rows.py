"""Lines with a label before each text, as `inspect`, `diff` and `manifest` show facts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.cli.output import columns
from pytest_lora_ckpt.wording import WIDTH, SafeText, line, printable, wrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import TypeAlias

    Part: TypeAlias = "SafeText | tuple[SafeText, Mapping[str, Any]]"
    Line: TypeAlias = "tuple[Part, ...]"

FAINT: Mapping[str, Any] = {"dim": True}
HEAD: Mapping[str, Any] = {"bold": True}
GOOD: Mapping[str, Any] = {"fg": "green", "bold": True}
BAD: Mapping[str, Any] = {"fg": "red", "bold": True}
DOUBTFUL: Mapping[str, Any] = {"fg": "yellow"}

_LABEL = 11  # Columns.
_INDENT = " " * (_LABEL + 2)


def row(label: str, text: str, style: Mapping[str, Any] | None = None) -> Iterator[Line]:
    """Give a labelled text in as many lines as it takes."""
    first = _labelled(label)
    for each in wrap(text, _INDENT, first=first, width=min(columns(), WIDTH)):
        yield (SafeText(each[: len(first)]), FAINT), (SafeText(each[len(first) :]), style or {})


def whole_row(label: str, text: SafeText) -> Line:
    """Give a labelled text in one line: a command is of use in one piece alone."""
    return ((SafeText(_labelled(label)), FAINT), text)


def listed_below(texts: Iterable[object]) -> Iterator[Line]:
    """Give each text a line of its own, below the one before."""
    return ((line(f"{_INDENT}{each}"),) for each in texts)


def shown(path: str) -> SafeText:
    """Write a path as people give it: from the working directory, where it lies below that."""
    return printable(path.removeprefix(f"{Path.cwd()}{os.sep}"), 2 * WIDTH)


def _labelled(label: str) -> str:
    return f"  {label.ljust(_LABEL)}"
