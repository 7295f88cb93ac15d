"""Text that people read: counts, lists, tables, key groups, paragraphs."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from pytest_lora_ckpt.wording.patterns import group_keys
from pytest_lora_ckpt.wording.safe import WIDTH, SafeText, line, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PATTERN = 2 * WIDTH - 20
"""Characters of a pattern of keys that are printed at most: a line's, without its indent and its number."""

_COUNTED = re.compile(r" *\d+ \S+")
"""A line of `key_groups`."""

_WORDS = 400
"""Words of a text that are printed at most."""

_SENTENCE = 1_500
"""Characters of a text that are printed at most."""


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Write a number with its noun.

    Example:
        >>> count(1, "key"), count(3, "key"), count(2, "entry", "entries")
        ('1 key', '3 keys', '2 entries')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Iterable[object], most: int = 3) -> SafeText:
    """List names in the order given, the first few by name and the others by number.

    Example:
        >>> listed(["q", "k", "v", "o"]), listed(["q"])
        ('q, k, v and 1 more', 'q')
    """
    given = list(names)
    more = f" and {len(given) - most} more" if len(given) > most else ""
    return SafeText(", ".join(printable(name, 2 * WIDTH) for name in given[:most]) + more)


def key_groups(keys: Iterable[str], most: int = 4) -> list[SafeText]:
    """Write keys as lines `count pattern`, the patterns in braces, with the rest counted in the last line.

    Example:
        >>> key_groups(["layers.0.q.weight", "layers.1.q.weight", "head.bias"])
        ['    1 head.bias', '    2 layers.{0,1}.q.weight']
    """
    return [SafeText(f"{number:>5} {printable(pattern, _PATTERN)}") for pattern, number in group_keys(keys, limit=most)]


def grouped(keys: Iterable[str], most: int = 3) -> SafeText:
    """Write keys in a sentence, as patterns in braces with their numbers.

    Example:
        >>> grouped(["layers.0.q.weight", "layers.1.q.weight", "head.bias"])
        'head.bias (1), layers.{0,1}.q.weight (2)'
    """
    return SafeText(", ".join(f"{printable(pattern)} ({number})" for pattern, number in group_keys(keys, limit=most)))


def table(rows: Sequence[Sequence[str]], *, indent: str = "  ", numbers: bool = True) -> list[SafeText]:
    """Align rows of cells: the first column to the left, the others to the right where they are numbers.

    Example:
        >>> table([["component", "in file"], ["resampler", "34"]])
        ['  component  in file', '  resampler       34']
    """
    rows = [[printable(cell, WIDTH) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    align = str.rjust if numbers else str.ljust
    lines = ("  ".join([indent + row[0].ljust(widths[0]), *map(align, row[1:], widths[1:])]).rstrip() for row in rows)
    return [line(each, sum(widths) + WIDTH) for each in lines]


def sentence(text: str, width: int = 2 * WIDTH) -> SafeText:
    r"""Make a text safe to print in one line, cut to hundreds of words, none of which is longer than `width`.

    Example:
        >>> sentence("1 key: layers.0\n::error::", 10)
        '1 key: layers.0 \\x3a:erro…'
    """
    words: list[str] = []
    left = _SENTENCE
    for number, word in enumerate(text.split(maxsplit=_WORDS)):
        shown = printable(word, width)
        left -= len(shown) + 1
        if left < 0 or number == _WORDS:
            words.append("…")
            break
        words.append(shown)
    return SafeText(" ".join(words))


def beginning(text: str, most: int = 8) -> str:
    r"""Keep the first lines of a text, and say how many are left out: a library's error may have hundreds.

    Example:
        >>> beginning("size mismatch\nfor q_proj\nfor k_proj", 1)
        'size mismatch\n… and 2 more lines'
    """
    lines, left = _head(text, most)
    return "\n".join([*lines, f"… and {count(left, 'more line')}"]) if left else text


def _head(text: str, most: int) -> tuple[list[str], int]:
    """Return the first lines of a text, and how many are left."""
    lines = text.split("\n", most)
    return (lines[:most], lines[most].count("\n") + 1) if len(lines) > most else (lines, 0)


def wrap(text: str, indent: str = "  ", *, first: str = "", width: int = WIDTH) -> list[SafeText]:
    """Break text into lines, with whole words; a word that is longer than `WIDTH` is shortened.

    Example:
        >>> wrap("two words", width=7)
        ['two', '  words']
    """
    longest = max(width, WIDTH)  # A key or a path stays whole in a narrow terminal, which breaks it.
    shown = sentence(text, longest - max(len(indent), len(first)))
    lines = textwrap.wrap(
        shown, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [line(each, longest) for each in lines]


def block(text: str, *, most: int = 60, wrapped: bool = True) -> SafeText:
    r"""Make a text of several lines safe to print: long lines are wrapped, or cut; lines beyond `most` are counted.

    Up to twice the width lines stay whole that nobody reads as a sentence: a pattern of keys with its number, and the
    first line, since pytest's short summary shows it alone, and it may hold a path.

    Example:
        >>> print(block("a fact\n  -> what to do", most=1))
        a fact
        … and 1 more line
    """
    lines: list[SafeText] = []
    head, left = _head(text, most)
    for number, each in enumerate(head):
        shown = line(each.expandtabs(4), _SENTENCE)
        is_whole = number == 0 or _COUNTED.fullmatch(shown) is not None
        if not wrapped or len(shown) <= (2 * WIDTH if is_whole else WIDTH):
            lines.append(shown)
        else:
            indent = " " * min(len(shown) - len(shown.lstrip(" ")), WIDTH // 4)
            lines += wrap(shown, f"{indent}  ", first=indent)
    left += max(len(lines) - most, 0)
    return SafeText("\n".join([*lines[:most], f"… and {count(left, 'more line')}"] if left else lines))


def capped(lines: Iterable[SafeText], most: int, nbytes: int) -> tuple[list[SafeText], int]:
    """Return the first lines, at most so many and in so many bytes; and the number of those that are left out.

    Example:
        >>> capped([line("a"), line("b"), line("c")], 2, 100)
        (['a', 'b'], 1)
    """
    lines = list(lines)
    kept = []
    for each in lines[:most]:
        nbytes -= len(each.encode()) + 1
        if nbytes < 0:
            break
        kept.append(each)
    return kept, len(lines) - len(kept)


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


def said(error: object) -> str:
    """Return the text of an exception or a warning; some fail in saying it.

    Example:
        >>> said(ValueError("two rows"))
        'two rows'
    """
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001  # Anybody's code.
        return f"(its text cannot be had: {type(failure).__name__})"


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
