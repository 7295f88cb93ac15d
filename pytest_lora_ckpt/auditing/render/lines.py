"""Lines for people: text in so many columns, each line with what it means, which a terminal shows as a colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_lora_ckpt.wording import WIDTH, capped, line, wrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_lora_ckpt.wording import SafeText

Role = Literal["plain", "good", "doubtful", "bad", "error", "warning", "remedy"]
"""What a line means: the verdict by its standing, a cause by its severity, what to do."""

MARKUP: Mapping[Role, Mapping[str, bool]] = {
    "plain": {},
    "good": {"green": True, "bold": True},
    "doubtful": {"yellow": True, "bold": True},
    "bad": {"red": True, "bold": True},
    "error": {"red": True, "bold": True},
    "warning": {"yellow": True},
    "remedy": {"cyan": True},
}
"""Role -> markup as pytest's terminal writer takes it."""

MOST_COLUMNS = 120
"""Columns of a paragraph: eyes lose longer lines."""


@dataclass(frozen=True, slots=True)
class View:
    """How a result is shown.

    Attributes:
        width: Columns of the terminal.
        verbose: Whether everything is shown, or what one needs to know.
    """

    width: int = WIDTH
    verbose: bool = False

    @property
    def columns(self) -> int:
        """Columns of a line of text."""
        return min(self.width, MOST_COLUMNS)


@dataclass(frozen=True, slots=True)
class Line:
    """A line, and what it means.

    Attributes:
        text: The line.
        role: What it means.
        marked: How many of its first characters say so; None for all.
    """

    text: SafeText
    role: Role = "plain"
    marked: int | None = None

    @property
    def spans(self) -> tuple[tuple[str, Mapping[str, bool]], ...]:
        """The parts of the line with the markup of each."""
        at = len(self.text) if self.marked is None else self.marked
        spans = (self.text[:at], MARKUP[self.role]), (self.text[at:], MARKUP["plain"])
        return tuple(each for each in spans if each[0])


def lines(texts: Iterable[object], role: Role = "plain") -> Iterator[Line]:
    """Make each text a line of its own."""
    return (Line(line(each), role) for each in texts)


def paragraph(  # noqa: PLR0913  # The parts of a paragraph; all but two by keyword.
    text: str, view: View, *, role: Role = "plain", marked: int | None = None, first: str = "", indent: str = "  "
) -> list[Line]:
    """Break a text into lines of the view's columns; keys and paths that are longer stay whole."""
    made = wrap(text, indent, first=first, width=view.columns)
    return [Line(each, role, marked if number == 0 or marked is None else 0) for number, each in enumerate(made)]


def beginning_of(text: str, view: View, end: str = "") -> Line:
    """Return as much of a text as one line takes, in whole words, with what ends it in any case."""
    made = wrap(text, width=max(view.columns - len(end) - 2, 1))
    return Line(line(f"{made[0]}{' …' if len(made) > 1 else ''}{end}"))


def cap(given: Iterable[Line], most: int, nbytes: int) -> tuple[list[Line], int]:
    """Return the first lines, at most so many and in so many bytes; and the number of those that are left out."""
    given = list(given)
    kept, left = capped([each.text for each in given], most, nbytes)
    return given[: len(kept)], left
