"""Hear what a loader says, whichever way: warnings, log records, lines of output; and see what it writes beside."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROGRESS = re.compile(r"\d+%\|")
# What differs from run to run, and says nothing of the checkpoint.
_VOLATILE = (
    (re.compile(r"0x[0-9a-fA-F]+"), "0x"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?"), "DATE"),
    (re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)? ?(?:seconds|second|sec|ms|us|µs|s)\b"), "TIME"),
)
_LONGEST = 2_000


@contextlib.contextmanager
def listening(heard: list[str]) -> Iterator[None]:
    """Add to `heard` what the body says; nothing of it is printed.

    Python warnings (all of them, whatever the filters say), log records of WARNING and above that a logger lets
    through, and lines written to `sys.stdout` and `sys.stderr`. What goes past Python to the file descriptors is not
    heard. Log records are taken where every logger hands them on, since many libraries' loggers do not propagate.
    """
    output = io.StringIO()
    records: list[logging.LogRecord] = []
    hand_on = logging.Logger.callHandlers
    _forget_what_was_said_once()
    with (
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        warnings.simplefilter("always")
        setattr(logging.Logger, "callHandlers", lambda _, record: records.append(record))  # noqa: B010  # See mypy.
        try:
            yield
        finally:
            setattr(logging.Logger, "callHandlers", hand_on)  # noqa: B010  # See mypy.
            heard += [f"{each.category.__name__}: {each.message}" for each in warned]
            heard += [f"log {each.levelname}: {_message(each)}" for each in records if each.levelno >= logging.WARNING]
            heard += [f"printed: {line.strip()}" for line in output.getvalue().replace("\r", "\n").splitlines()]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let the body run without a word."""
    with listening([]):
        yield


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # A message whose arguments do not fit: logging itself prints and goes on.
        return str(record.msg)


def _forget_what_was_said_once() -> None:
    """Let transformers say again what it says once in a process (`logger.warning_once`)."""
    module: Any = sys.modules.get("transformers.utils.logging")
    forget = getattr(getattr(module, "warning_once", None), "cache_clear", None)
    if callable(forget):
        forget()


def comparable(heard: Iterable[str], places: Iterable[Path | str]) -> list[str]:
    """Leave out of what was heard all that does not depend on what is in the checkpoint.

    Args:
        heard: What `listening` gave.
        places: Paths of the checkpoint and its directory, which differ from fault to fault.

    Example:
        >>> comparable(["printed: read /tmp/x/last.ckpt in 0.31 s", "printed: 12%|# |"], ["/tmp/x"])
        ['printed: read <checkpoint>/last.ckpt in TIME']
    """
    named = sorted({str(place) for place in places}, key=len, reverse=True)
    found = []
    for text in heard:
        told = _ANSI.sub("", text)[:_LONGEST]
        for place in named:
            told = told.replace(place, "<checkpoint>")
        for pattern, word in _VOLATILE:
            told = pattern.sub(word, told)
        told = " ".join(told.split())
        if not _PROGRESS.search(told) and told != "printed:" and told not in found:
            found.append(told)
    return found


class Usual:
    """What a loader says of the healthy checkpoint, heard twice.

    Args:
        first: What it said the first time.
        second: What it said the second time.
    """

    def __init__(self, first: Iterable[str], second: Iterable[str]) -> None:
        """See the class."""
        one, other = set(first), set(second)
        self.said = frozenset(one | other)
        # Numbers in it that were not the same twice are no news the third time either.
        self._skeletons = frozenset(_skeleton(text) for text in one ^ other)

    def news(self, heard: Iterable[str]) -> tuple[str, ...]:
        """Give what was not said of the healthy checkpoint.

        Example:
            >>> Usual(["step 1"], ["step 2"]).news(["step 3", "4 keys missing"])
            ('4 keys missing',)
        """
        return tuple(text for text in heard if text not in self.said and _skeleton(text) not in self._skeletons)


def _skeleton(text: str) -> str:
    return re.sub(r"\d+(?:\.\d+)?", "#", text)


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    """List the files below a directory with what a change of them would change: size and time."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if not path.is_dir():
                about = path.lstat()
                found[path.relative_to(folder).as_posix()] = (about.st_size, about.st_mtime_ns)
    return found


def written(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    """Name the files that are new, changed or gone."""
    return tuple(sorted(name for name in {*before, *after} if before.get(name) != after.get(name)))
