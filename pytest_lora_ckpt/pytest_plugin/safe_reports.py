"""pytest's reports made safe and short: what they quote of a file, whoever raised, printed or warned.

They are plain data by then, from pytest's own classes; xdist's workers send them, and refuse lone surrogates.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.guard import InternalError, guard
from pytest_lora_ckpt.wording import WIDTH, SafeText, beginning, capped, count, line, printable, said, sentence, tame

if TYPE_CHECKING:
    import warnings
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pytest

_LONGEST = 8
_CAPTURED = 40
_CHARACTERS = 500

# Lines and bytes of all failures of one checkpoint: the first may take many, and each has some.
_FIRST, _ALL, _EACH = 24, 36, 2
_BYTES = 12 << 10


def make_safe(report: pytest.TestReport, *, is_check: bool) -> None:
    """Make what a report shows safe to print and to send: the failure, and of our checks what they printed.

    Args:
        report: The report of one phase of an item.
        is_check: Whether it is one of our checks, and not a test of the project.
    """
    try:
        with guard("a report of pytest", report.nodeid):
            _make_safe(report, is_check=is_check)
    except InternalError as error:
        report.longrepr, report.sections, report.outcome = error.text, [], "failed"


def _make_safe(report: pytest.TestReport, *, is_check: bool) -> None:
    shown: Any = report.longrepr
    if isinstance(shown, tuple):
        path, number, reason = shown
        # A check has no place in the project: pytest would name the line of this package that skips.
        place: Any = (report.nodeid.partition("::")[0], None) if is_check else (tame(path), number)
        report.longrepr = (*place, sentence(reason))
    elif shown is not None and not hasattr(shown, "reprtraceback"):  # A text, or what another plugin shows.
        report.longrepr = _lines(str(shown), tame)
    elif shown is not None:
        for trace, crash, _ in _chain(shown):
            for entry in trace.reprentries:
                _make_entry_safe(entry)
            for place in [crash] if crash is not None else []:
                place.path, place.message = tame(place.path), _lines(place.message, line)
                if is_check:  # Where CI is set, pytest's summary would repeat all of it.
                    place.message = place.message.partition("\n")[0]
            trace.extraline = None if trace.extraline is None else _lines(trace.extraline, line)
        shown.sections = [(tame(name), _lines(text, line), mark) for name, text, mark in getattr(shown, "sections", ())]
    if is_check:
        report.sections = [(tame(name), _lines(_end(text), line)) for name, text in report.sections]


def show_instead(report: pytest.TestReport, lines: Sequence[SafeText]) -> None:
    """Let the text of a failed check be these lines; tracebacks of the project's code stay."""
    for trace, *_ in _chain(report.longrepr) if hasattr(report.longrepr, "reprtraceback") else ():
        for entry in trace.reprentries:
            if entry.style == "value":
                entry.lines = [*lines]


def _chain(shown: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Give each traceback of a failure with the place of the crash, the newest last, whose place comes twice."""
    yield from getattr(shown, "chain", None) or [(shown.reprtraceback, shown.reprcrash, None)]


def _make_entry_safe(entry: Any) -> None:
    """Make one entry of a traceback safe, and cut the long messages of libraries: PEFT lists each tensor."""
    # Lines of code and of the message have pytest's marks before them, others begin with what they quote.
    marked = entry.style in {"long", "short"}
    entry.lines = [_lines(each, tame if marked else line) for each in entry.lines]
    message = [each for each in entry.lines if each.startswith("E  ")]
    if len(message) > _LONGEST:
        start = entry.lines.index(message[0])
        left = f"E       … and {len(message) - _LONGEST} more lines"
        entry.lines[start:] = [*entry.lines[start : start + _LONGEST], left]
    if (given := getattr(entry, "reprfuncargs", None)) is not None:
        given.args = [(tame(name), tame(value)) for name, value in given.args]
    if (held := getattr(entry, "reprlocals", None)) is not None:
        held.lines = [tame(each) for each in held.lines]
    if (place := getattr(entry, "reprfileloc", None)) is not None:
        place.path, place.message = tame(place.path), tame(place.message)


def _lines(text: str, make: Callable[[object, int], SafeText]) -> str:
    return "\n".join(make(each, _CHARACTERS) for each in text.expandtabs(4).split("\n"))


def _end(text: str) -> str:
    """Keep the last lines of what a check printed."""
    lines = text.rstrip("\n").split("\n")
    left = len(lines) - _CAPTURED
    return "\n".join(lines if left <= 0 else [f"… {count(left, 'line')} before", *lines[-_CAPTURED:]])


def make_warning_safe(recorded: warnings.WarningMessage) -> None:
    """Make a recorded warning safe to print and to send: libraries warn of the names in a file."""
    text = said(recorded.message)
    if (safe := _lines(beginning(text, _CAPTURED), line)) != text:
        recorded.message = UserWarning(safe)  # Its category stays.


def safe_id(name: str) -> SafeText:
    r"""Write a name for test ids: what follows it on a line is pytest's.

    Example:
        >>> safe_id("a.ckpt"), safe_id("a] PASSED")
        ('a.ckpt', 'a\\x5d PASSED')
    """
    # pytest-html puts ids into its page as they are.
    return SafeText(printable(name, WIDTH).replace("] ", r"\x5d ").replace("<", r"\x3c"))


class Pages:
    """How much of the failures of each checkpoint is printed: a page, however many checks fail."""

    def __init__(self) -> None:
        self._used: dict[str, int] = defaultdict(int)

    def shorten(self, report: pytest.TestReport) -> None:
        """Cut the text of a failed check to what is left of the page; tracebacks of the project's code stay."""
        checkpoint = report.nodeid.partition("[")[2]
        most = max(_EACH, min(_FIRST, _ALL - self._used[checkpoint]))
        for trace, *_ in _chain(report.longrepr) if hasattr(report.longrepr, "reprtraceback") else ():
            for entry in trace.reprentries:
                if entry.style == "value":
                    entry.lines = self._cut(entry.lines, most)
                self._used[checkpoint] += len(entry.lines)

    @staticmethod
    def _cut(lines: Iterable[str], most: int) -> list[str]:
        kept, left = capped(map(SafeText, lines), most, _BYTES)
        if left == 0:
            return list(kept)
        kept = kept[: most - 1]
        return [*kept, f"… and {count(left + 1, 'more line')}: the checkpoint's section and --lora-report=FILE.json"]
