"""`RecordedLoader`: what a loader does besides returning a model: it raises, warns, logs, prints, writes files."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import operator
import random
import re
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.scoring.score import ScoringError
from pytest_lora_ckpt.wording import printable, said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
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

# No seed that people choose: a model that was never loaded would equal the one from which they trained.
_SEED = 0x10AD_5EED


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """What is tried, and what it is compared with: the arguments of `score_loader`."""

    loader: Callable[[Any], Any] | str
    checkpoint: Path
    inputs: Any = None
    generate_inputs: Any = None
    base_model: Any = None
    manifest: Path | None = None
    companions: tuple[Path, ...] = ()
    trust: tuple[str, ...] = ()

    def equals(self, other: Setup) -> bool:
        """Whether both try the same: an equal loader (bound methods are made anew), the same inputs and base model."""
        mine, theirs = ((each.loader, each.checkpoint, each.manifest, each.companions) for each in (self, other))
        objects = ((each.inputs, each.generate_inputs, each.base_model) for each in (self, other))
        return mine == theirs and all(map(operator.is_, *objects))


class RecordedLoader:
    """A project's loader, and what a call of it did; what it says and raises is comparable between copies."""

    def __init__(self, loader: Callable[[Any], Any], folder: Path) -> None:
        self._loader, self._folder = loader, folder
        self.error: BaseException | None = None
        self.returned: Any = None
        self.heard: list[str] = []  # Warnings, log records, lines of output.
        self.raised: tuple[str, ...] = ()
        self.wrote: tuple[str, ...] = ()  # Files in the checkpoint's folder that it wrote, changed or removed.

    def __call__(self, path: Path) -> Any:
        """Call the loader, and record."""
        # What a loader does not load, it draws at random: the same each time, so that models can be compared.
        torch.manual_seed(_SEED)
        random.seed(_SEED)
        before = files_below(self._folder)
        places = (path, self._folder, path.resolve(), self._folder.resolve())
        heard: list[str] = []
        try:
            with listening(heard):
                self.returned = self._loader(path)
        except BaseException as error:
            self.error = error
            self.raised = tuple(comparable([error_text(error)], places))
            if isinstance(error, (Exception, SystemExit, KeyboardInterrupt)):
                raise
            # A test framework's own, such as pytest's skip, which ends no test here.
            raise RuntimeError(error_text(error)) from error
        finally:
            self.heard = comparable(heard, places)
            self.wrote = changed_files(before, files_below(self._folder))
        return self.returned

    @property
    def why_no_model(self) -> str:
        """The reason why there is no model."""
        if self.error is not None:
            return error_text(self.error)
        return f"it returned {type(self.returned).__name__}, and should return the loaded nn.Module"


def resolve_loader(loader: Callable[[Any], Any] | str) -> Callable[[Any], Any]:
    """Import a loader that is named as `module:function`; return a callable as it is.

    Raises:
        ScoringError: There is no such module or function, or it is not callable.
    """
    found: Any = loader
    if isinstance(loader, str):
        module, _, path = loader.partition(":")
        try:
            found = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except Exception as error:
            raise ScoringError(
                f"The loader {loader!r} cannot be imported ({error_text(error)}): name it as module:function."
            ) from error
    if not callable(found):
        raise ScoringError(f"The loader {loader!r} is {type(found).__name__}, and should be callable: path -> model.")
    return found  # type: ignore[no-any-return]  # Any callable is taken.


def error_text(error: BaseException) -> str:
    """Write an exception in one line."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else repr(error.code)})"
    text = printable(" ".join(said(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
    """Remove from the output what does not depend on the contents of the checkpoint, such as its `places`.

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
    """The output of a loader for the healthy checkpoint, recorded twice."""

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
