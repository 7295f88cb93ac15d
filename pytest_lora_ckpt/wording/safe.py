"""Text that a file says, made safe to print: `SafeText` is what terminals, logs and readers take for nothing else.

Only this room makes it, and what prints asks for it. Escapes are Python's, so that an escaped literal stays the same.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NewType

from pytest_lora_ckpt.wording.addresses import redacted

SafeText = NewType("SafeText", str)
"""Printable text that no terminal and no CI server obeys, and whose lines nobody takes for pytest's own."""

WIDTH = 100
"""Columns of a line in a report."""

LONGEST = 500
"""Characters of a name that are printed at most."""

# Lines in which a CI server takes a command: `::error::` at the beginning, whatever white space is before it (GitHub),
# `##[error]` (GitHub, Azure), `##vso[…]` (Azure) and `##teamcity[…]` anywhere.
COMMAND = re.compile(r"(?<!\S):(?=:)|#(?=#\w*\[)")

# Beginnings of lines that are pytest's own, or that open a group in a log (Buildkite).
_RESERVED = re.compile(
    r"\s*(?=={3}|_{3}|-{3}|\+{3}|~{3}|!{3}|E {2}|(?:PASSED|FAILED|ERRORS?|SKIPPED|XFAIL|XPASS|XFAILED|XPASSED"
    r"|INTERNALERROR)\b|\d+ (?:passed|failed|skipped|errors?|warnings?)\b)(\S)"
)

# Characters that count as letters or marks, and of which nothing is to be seen.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

# Marks that sit on one letter: some scripts need three.
_MOST_MARKS = 3
_SPACES = re.compile(" {2,}")


def printable(text: object, limit: int = LONGEST) -> SafeText:
    r"""Make text that comes from a file safe to print: one line of at most `limit` characters, that says if it was cut.

    Everything that a checkpoint, a config or a manifest says passes through here before it is printed: control and
    bidirectional characters, invisible ones, lone surrogates, spaces that are no spaces, floods of marks, and commands
    of CI servers are escaped. Printable text stays as it is, so that it may pass through here twice.

    Example:
        >>> printable("layers.0\n\x1b[31mFAILED"), printable("layers.0.weight", 8), printable("x" * 10**6, 60)
        ('layers.0\\n\\x1b[31mFAILED', 'layers.…', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… (1000000 characters)')
    """
    # A gap of many blanks would let a terminal put the rest into a line of its own.
    return _printable(text, limit, _SPACES)


def tame(text: object, limit: int = LONGEST) -> SafeText:
    r"""Make a line safe to print that has its blanks on purpose, such as a line of code or of a table.

    Example:
        >>> tame("E       a\x1b[31m")
        'E       a\\x1b[31m'
    """
    return _printable(text, limit)


def line(text: object, limit: int = 2 * WIDTH) -> SafeText:
    r"""Make a line of an output safe: what is quoted in it, and its beginning, which is not to look like pytest's own.

    Example:
        >>> line("  2 keys: a\nb"), line("=== 1 passed ==="), line("  PASSED")
        ('  2 keys: a\\nb', '\\x3d== 1 passed ===', '  \\x50ASSED')
    """
    shown = _printable(text, limit)
    if found := _RESERVED.match(shown):
        shown = SafeText(_cut(f"{shown[: found.start(1)]}{escaped(found[1])}{shown[found.end(1) :]}", limit, shown))
    return shown


def literal(text: str) -> SafeText:
    r"""Write a text as a literal of Python's, a raw one where that says the same.

    Example:
        >>> print(literal("layers."), literal(r"\d+"), literal("a\n##[b]"))
        "layers." r"\d+" 'a\n\x23#[b]'
    """
    if '"' in text or text.endswith("\\") or _printable(text, len(text)) != text:
        shown = repr(text)
        return _printable(shown, 10 * len(shown))  # Escaped and not cut.
    return SafeText(f'r"{text}"' if "\\" in text else f'"{text}"')


def escaped(character: str) -> str:
    r"""Write a character as Python's escape.

    Example:
        >>> print(escaped("#"), escaped("\n"), escaped("\u202e"))
        \x23 \n \u202e
    """
    code = character.encode("unicode_escape").decode("ascii")
    return code if code != character else f"\\x{ord(character):02x}"


def is_plain(character: str) -> bool:
    """Whether a character shows as itself."""
    return character.isprintable() and not _INVISIBLE.match(character)


def _printable(text: object, limit: int, also: re.Pattern[str] | None = None) -> SafeText:
    whole = redacted(str(text))
    shown = whole[: limit + 1]  # What is cut off needs no escaping.
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(_escapes(shown))
    if also is not None and "  " in shown:
        shown = also.sub(_escape_all, shown)
    if "::" in shown or "##" in shown:
        shown = COMMAND.sub(_escape_all, shown)
    return SafeText(_cut(shown, limit, whole))


def _escapes(text: str) -> list[str]:
    marks = _MOST_MARKS  # At the beginning a mark would sit on the text before it.
    shown = []
    for each in text:
        marks = marks + 1 if unicodedata.category(each) in {"Mn", "Me"} else 0
        shown.append(each if is_plain(each) and marks <= _MOST_MARKS else escaped(each))
    return shown


def _escape_all(found: re.Match[str]) -> str:
    return "".join(map(escaped, found[0]))


def _cut(shown: str, limit: int, whole: str) -> str:
    """Cut a text to a limit, and say how long it is: once, and where there is room to say so."""
    if len(shown) <= limit:
        return shown
    mark = f"… ({len(whole)} characters)"
    if 2 * len(mark) > limit or whole.endswith("…"):
        mark = "…"
    return f"{shown[: limit - len(mark)]}{mark}"
