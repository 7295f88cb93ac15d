r"""Text that a file says, safe for Markdown as GitHub shows it: without markup, link, mention or emoji of its own.

Plain words stay. A word of anything else becomes code, in which Markdown, and what a server does after it, change
nothing; what could end the code, or the cell of a table, is escaped as everywhere.
"""

from __future__ import annotations

import re

from pytest_lora_ckpt.wording.safe import LONGEST, SafeText, escaped, printable

# Numbers, and words of letters and digits, with the punctuation of a sentence around them; and a few signs.
_WORD = r"[^\W_]+(?:['%/-][^\W_]+)*%?"
_PLAIN = re.compile(rf"""[("']*(?:\d+\.\d+%?|{_WORD})[)"']*[,.;:?!]?[)"']*|[=→·…]""")
_AROUND = re.compile(r"""([("']*)(.*?)([)"',.;:?!]*)""", re.DOTALL)
_ENDS = re.compile(r"[`|]")


def code(text: object, limit: int = LONGEST) -> SafeText:
    r"""Write a text as code within a line.

    Example:
        >>> print(code("layers.0"), code("a`<b>|"), code(""))
        `layers.0` `a\x60<b>\x7c` `(empty)`
    """
    shown = _ENDS.sub(lambda found: escaped(found[0]), printable(text, limit)).strip(" ")
    return SafeText(f"`{shown or '(empty)'}`")


def prose(text: str) -> SafeText:
    r"""Write a sentence, in which names and whatever is no plain word are code.

    A text that begins a line of its own needs something before it: a digit and a point begin a list.

    Example:
        >>> print(prose("2 keys (layers.{0,1}.q_proj.weight) of **all**, @you: www.x.y <b>."))
        2 keys (`layers.{0,1}.q_proj.weight`) of `**all**`, `@you`: `www.x.y` `<b>`.
    """
    return SafeText(" ".join(_word(each) for each in printable(text, 10 * LONGEST).split(" ") if each))


def _word(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    found = _AROUND.fullmatch(word)
    before, inner, after = found.groups() if found else ("", word, "")
    while after and inner.count("(") > inner.count(")"):
        inner, after = inner + after[0], after[1:]
    return f"{before}{code(inner)}{after}" if inner else code(word)
