"""What a loader does besides returning a model: warnings, log records, lines of output, files that it writes."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROGRESS = re.compile(r"\d+%\|")
# What differs from run to run, whatever the checkpoint.
_VOLATILE = (
    (re.compile(r"0x[0-9a-fA-F]+"), "0x"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?"), "DATE"),
    (re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)? ?(?:seconds|second|sec|ms|us|µs|s)\b"), "TIME"),
)
_LONGEST = 2_000


@contextlib.contextmanager
def listening(heard: list[str]) -> Iterator[None]:
    """Add the output of the body to `heard`, and print none of it.

    Python warnings (all of them, whatever the filters say), log records of WARNING and above that a logger lets
    through, and lines written to `sys.stdout` and `sys.stderr`; not what goes to the file descriptors directly. Log
    records are taken from `Logger.callHandlers`: many libraries' loggers do not propagate, so that no handler on the
    root logger receives their records, and their own handlers would print them.
    """
    output = io.StringIO()
    records: list[logging.LogRecord] = []
    hand_on = logging.Logger.callHandlers
    _forget_warnings_given_once()
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
    """Print nothing of what the body prints, warns or logs."""
    with listening([]):
        yield


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # The arguments do not fit the message: logging prints an error and goes on.
        return str(record.msg)


def _forget_warnings_given_once() -> None:
    """Let transformers repeat what it logs only once in a process (`logger.warning_once`)."""
    module: Any = sys.modules.get("transformers.utils.logging")
    forget = getattr(getattr(module, "warning_once", None), "cache_clear", None)
    if callable(forget):
        forget()


def comparable(heard: Iterable[str], places: Iterable[Path | str]) -> list[str]:
    """Remove from the output what does not depend on the contents of the checkpoint.

    Args:
        heard: What `listening` gave.
        places: Paths of the checkpoint and its directory, which differ from fault to fault.

    Example:
        >>> comparable(["printed: read /tmp/x/last.ckpt in 0.31 s", "printed: 12%|# |"], ["/tmp/x"])
        ['printed: read <checkpoint>/last.ckpt in TIME']
    """
    named = sorted({str(place) for place in places}, key=len, reverse=True)
    lines: dict[str, None] = {}
    for text in heard:
        line = _ANSI.sub("", text)[:_LONGEST]
        for place in named:
            line = line.replace(place, "<checkpoint>")
        for pattern, word in _VOLATILE:
            line = pattern.sub(word, line)
        line = printable(" ".join(line.split()))
        if not _PROGRESS.search(line) and line != "printed:":
            lines[line] = None
    return list(lines)


class BaselineOutput:
    """The output of a loader for the healthy checkpoint, recorded twice.

    Args:
        first: Its output the first time.
        second: Its output the second time.
    """

    def __init__(self, first: Iterable[str], second: Iterable[str]) -> None:
        one, other = set(first), set(second)
        self._lines = frozenset(one | other)
        # A line whose numbers differ between the two may have other numbers the third time as well.
        self._skeletons = frozenset(_skeleton(text) for text in one ^ other)

    def new_lines(self, heard: Iterable[str]) -> tuple[str, ...]:
        """Return the lines that the healthy checkpoint does not cause.

        Example:
            >>> BaselineOutput(["step 1"], ["step 2"]).new_lines(["step 3", "4 keys missing"])
            ('4 keys missing',)
        """
        return tuple(text for text in heard if text not in self._lines and _skeleton(text) not in self._skeletons)


def _skeleton(text: str) -> str:
    return re.sub(r"\d+(?:\.\d+)?", "#", text)


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    """Map each file below a directory to its size and modification time."""
    files = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if not path.is_dir():
                about = path.lstat()
                files[path.relative_to(folder).as_posix()] = (about.st_size, about.st_mtime_ns)
    return files


def changed_files(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    """Name the files that are new, changed or gone."""
    return tuple(sorted(name for name in {*before, *after} if before.get(name) != after.get(name)))
