"""The last guard: where this package itself fails on a file, that is a failure with a name, and loud.

A file must not end a run: not with a traceback from inside, and not by taking a worker of pytest-xdist along.
"""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.judges.judgement import failure_text
from pytest_lora_ckpt.auditing.result import CheckReport
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.wording import WIDTH, printable, said, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lora_ckpt.auditing.evidence import AuditContext

_CAUSE = "internal-error"
_ROOT = Path(__file__).parents[1]


class InternalError(Exception):
    """This package itself failed; what it failed with is the `__cause__`.

    Attributes:
        what: The exception and its place, in a sentence.
        finding: The same as a finding, with the file and with what to do.
        text: The same as the text of a failure.
    """

    def __init__(self, doing: str, path: object, error: BaseException) -> None:
        self.what = f"{type(error).__name__}: {printable(sentence(said(error)), 2 * WIDTH)} ({_place(error)})"
        message = f"pytest-lora-ckpt itself failed in {doing} on {printable(path, WIDTH)}: {self.what}."
        self.finding = finding(_CAUSE, message)
        self.text = failure_text(self.finding.message, [self.finding])
        super().__init__(self.finding.message)


@contextlib.contextmanager
def guard(doing: str, path: object, passing: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Turn every exception that nobody expects into an `InternalError`.

    Args:
        doing: What is done in the body, in a few words.
        path: The file on whose account it is done.
        passing: Exceptions that pass, besides those that end the process: they are known, or a test framework's.

    Raises:
        InternalError: The body raised something else.
    """
    known: tuple[type[BaseException], ...] = (InternalError, KeyboardInterrupt, SystemExit, GeneratorExit, *passing)
    try:
        yield
    except known:
        raise
    except BaseException as error:  # Libraries in Rust panic with one that is no Exception.
        raise InternalError(doing, path, error) from error


def failed_itself(name: str, context: AuditContext, error: InternalError) -> CheckReport:
    """Return the report of a check in which this package failed: the first check to meet it fails, others say which."""
    first = context.failures.setdefault((_CAUSE, error.what), name)
    if first != name:
        return CheckReport(name, "skipped", f"pytest-lora-ckpt itself failed: see {first}")
    return CheckReport(name, "failed", error.finding.message, (error.finding,), error=error)


def _place(error: BaseException) -> str:
    """Name the line that raised, and the last one of this package before it."""
    frames = [(Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    places = [(path, line) for path, line in frames if _ROOT in path.parents and path != Path(__file__)][-1:]
    places += [frame for frame in frames[-1:] if frame not in places]
    return ", from ".join(
        f"{path.relative_to(_ROOT.parent) if _ROOT in path.parents else path.name}:{line}"
        for path, line in reversed(places)
    )
