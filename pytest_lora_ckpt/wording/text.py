"""Text that people read: counts, lists, tables, key groups, and the one way in which a file's own text is printed."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from pytest_lora_ckpt.wording.patterns import group_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH = 100
"""Columns of a line in a report."""

# Lines in which a CI server takes a command: `::error::` at the beginning (GitHub), `##[error]` (GitHub, Azure),
# `##vso[…]` (Azure) and `##teamcity[…]` anywhere.
_COMMAND = re.compile(r"^:(?=:)|#(?=#\w*\[)")

_WORDS = 400
"""Words of a text that are printed at most."""


def printable(text: object, limit: int | None = None) -> str:
    r"""Make text that comes from a file safe to print: one line, no control characters, at most `limit` characters.

    Everything that a checkpoint, a config or a manifest says passes through here before it is printed. No CI server
    takes it for a command. Printable text stays as it is, so that it may pass through here twice.

    Example:
        >>> printable("layers.0\n\x1b[31mFAILED"), printable("layers.0.weight", 8)
        ('layers.0\\n\\x1b[31mFAILED', 'layers.…')
    """
    shown = str(text)
    if limit is not None:
        shown = shown[: limit + 1]  # What is cut off needs no escaping.
    if not shown.isprintable():  # Controls, surrogates, and what changes how its neighbours show (bidi overrides).
        shown = "".join(each if each.isprintable() else _escaped(each) for each in shown)
    if "::" in shown or "##" in shown:
        shown = _COMMAND.sub(lambda found: rf"\x{ord(found[0]):02x}", shown)
    return shown if limit is None or len(shown) <= limit else f"{shown[: limit - 1]}…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Write a number with its noun.

    Example:
        >>> count(1, "key"), count(3, "key"), count(2, "entry", "entries")
        ('1 key', '3 keys', '2 entries')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Iterable[object], most: int = 3) -> str:
    """List names in the order given, the first few by name and the others by number.

    Example:
        >>> listed(["q", "k", "v", "o"]), listed(["q"])
        ('q, k, v and 1 more', 'q')
    """
    shown = [printable(name) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def key_groups(keys: Iterable[str], most: int = 4, width: int = WIDTH) -> list[str]:
    """Write keys as lines `count pattern`, the patterns in braces, with the rest counted in the last line.

    Example:
        >>> key_groups(["layers.0.q.weight", "layers.1.q.weight", "head.bias"])
        ['    1 head.bias', '    2 layers.{0,1}.q.weight']
    """
    return [f"{number:>5} {printable(pattern, width)}" for pattern, number in group_keys(keys, limit=most)]


def grouped(keys: Iterable[str], most: int = 3) -> str:
    """Write keys in a sentence, as patterns in braces with their numbers.

    Example:
        >>> grouped(["layers.0.q.weight", "layers.1.q.weight", "head.bias"])
        'head.bias (1), layers.{0,1}.q.weight (2)'
    """
    return ", ".join(f"{printable(pattern)} ({number})" for pattern, number in group_keys(keys, limit=most))


def table(rows: Sequence[Sequence[str]], *, indent: str = "  ", numbers: bool = True) -> list[str]:
    """Align rows of cells: the first column to the left, the others to the right where they are numbers.

    Example:
        >>> table([["component", "in file"], ["resampler", "34"]])
        ['  component  in file', '  resampler       34']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    align = str.rjust if numbers else str.ljust
    return ["  ".join([indent + row[0].ljust(widths[0]), *map(align, row[1:], widths[1:])]).rstrip() for row in rows]


def sentence(text: str, width: int = 2 * WIDTH) -> str:
    r"""Make a text safe to print in one line: of hundreds of words at most, none of which is longer than `width`.

    Example:
        >>> sentence("1 key: layers.0\n::error::", 10)
        '1 key: layers.0 \\x3a:erro…'
    """
    words = [printable(word, width) for word in text.split(maxsplit=_WORDS)[:_WORDS]]
    return " ".join(words) if len(words) < _WORDS else " ".join([*words, "…"])


def beginning(text: str, most: int = 8) -> str:
    r"""Keep the first lines of a text, and say how many are left out: a library's error may have hundreds.

    Example:
        >>> beginning("size mismatch\nfor q_proj\nfor k_proj", 1)
        'size mismatch\n… and 2 more lines'
    """
    lines = text.split("\n")
    left = len(lines) - most
    return text if left <= 0 else "\n".join([*lines[:most], f"… and {count(left, 'more line')}"])


def wrap(text: str, indent: str = "  ", *, first: str = "", width: int = WIDTH) -> list[str]:
    """Break text into lines, with whole words; a word that is longer than a line is shortened.

    Example:
        >>> wrap("two words", width=7)
        ['two', '  words']
    """
    shown = sentence(text, width - max(len(indent), len(first)))
    return textwrap.wrap(
        shown, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def block(text: str, *, most: int = 60) -> str:
    r"""Make a text of several lines safe to print: long lines are wrapped, and lines beyond `most` are counted.

    Example:
        >>> print(block("a fact\n  -> what to do", most=1))
        a fact
        … and 1 more line
    """
    lines = []
    for line in text.expandtabs(4).split("\n"):
        shown, indent = printable(line, WIDTH + 1), " " * min(len(line) - len(line.lstrip(" ")), WIDTH // 4)
        lines += [shown] if len(shown) <= WIDTH else wrap(line, f"{indent}  ", first=indent)
    left = len(lines) - most
    return "\n".join(lines if left <= 0 else [*lines[:most], f"… and {count(left, 'more line')}"])


def size(nbytes: int) -> str:
    """Write a number of bytes in the unit that suits it.

    Example:
        >>> size(512), size(3 << 20)
        ('512 B', '3.0 MiB')
    """
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def dtype_name(dtype: object) -> str:
    """Return torch's name of a dtype without `torch.`: `float32`.

    Example:
        >>> dtype_name("torch.bfloat16")
        'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def type_name(value: object) -> str:
    """Name a value's type for a message, with its size where it has one.

    Example:
        >>> type_name(None), type_name((1, 2))
        ('None', 'a tuple of 2')
    """
    if value is None:
        return "None"
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    article = "an" if name[0].lower() in "aeiou" else "a"
    length = f" of {len(value)}" if isinstance(value, (tuple, list, dict, set)) else ""
    return f"{article} {name}{length}"
