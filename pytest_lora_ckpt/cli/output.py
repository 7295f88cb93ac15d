"""What `lora-ckpt` prints: safe lines in colours where the terminal allows them, or one JSON object."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click

from pytest_lora_ckpt.auditing.progress import Progress
from pytest_lora_ckpt.cli.words import as_here
from pytest_lora_ckpt.wording import WIDTH, SafeText, tame

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_lora_ckpt.auditing.render.lines import Line

SCHEMA = 1
"""Version of the JSON objects; raised when a field changes its meaning."""


def is_coloured(stream: TextIO) -> bool:
    """Whether colours are wanted: on a terminal, unless NO_COLOR is set; elsewhere where FORCE_COLOR is."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def columns() -> int:
    """Return how many columns the terminal has; a page's width where there is none."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def say_line(line: Line) -> None:
    """Print a line of the renderer's, in the words of this command."""
    say(*((as_here(text), _style(markup)) for text, markup in line.spans))


def _style(markup: Mapping[str, bool]) -> dict[str, Any]:
    """Write a markup in click's words: there colours are values."""
    given = {name for name, is_given in markup.items() if is_given}
    styles: dict[str, Any] = {"bold": True} if "bold" in given else {}
    colour = next(iter(given - {"bold"}), None)
    return styles if colour is None else {**styles, "fg": colour}


def say(*parts: tuple[SafeText, Mapping[str, Any]] | SafeText) -> None:
    """Print one line.

    Args:
        parts: Its texts in order, each by itself or with its style as `click.style` takes it.
    """
    coloured = is_coloured(sys.stdout)
    pairs = [(each, {}) if isinstance(each, str) else each for each in parts]
    click.echo("".join(click.style(text, **style) if coloured else text for text, style in pairs), color=coloured)


def tell(data: Mapping[str, Any]) -> None:
    """Print one JSON object, with the version of its schema."""
    from pytest_lora_ckpt.auditing.render.json import as_json

    click.echo(as_json({"schema": SCHEMA, **data}), nl=False)


class Watched(Progress):
    """Tells on the standard error, where that is a terminal, how far a proof has come."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = sys.stderr

    def _write(self, text: str) -> None:
        if self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            self._stream.write(f"\r{text}\x1b[K")
            self._stream.flush()


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Send what the project's code prints to the standard error, made safe: the standard output is the answer's."""
    stream: Any = _SafeStream(sys.stderr)
    sys.stdout.flush()
    with _descriptor(1, 2), contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            yield
        finally:
            stream.flush()


@contextlib.contextmanager
def _descriptor(number: int, to: int) -> Iterator[None]:
    """Let a file descriptor be another one, for what processes and libraries in C write."""
    try:
        kept = os.dup(number)
    except OSError:  # There is none.
        yield
        return
    os.dup2(to, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


class _SafeStream:
    """A text stream that writes whole lines, each made safe; of a line that is written over again, the last state."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._rest = stream, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for each in lines:
            self._write(each)
        return len(text)

    def flush(self) -> None:
        if self._rest:
            self._write(self._rest)
            self._rest = ""
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def _write(self, text: str) -> None:
        shown = text.rstrip("\r").rpartition("\r")[2].expandtabs(4)
        self._stream.write(f"{tame(shown)}\n")
