"""Commands for GitHub Actions: the only lines that a CI server is meant to obey. What is quoted in them is data."""

from __future__ import annotations

from typing import Literal

from pytest_lora_ckpt.wording.safe import SafeText, printable
from pytest_lora_ckpt.wording.text import block

_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_DATA, ":": "%3A", ",": "%2C"}


def annotation(level: Literal["error", "warning", "notice"], text: str, *, file: str = "", title: str = "") -> SafeText:
    r"""Write the command that shows a text at a file.

    Example:
        >>> print(annotation("error", "100% lost.\nLook.", file="a,b.ckpt", title="keys: 2"))
        ::error file=a%2Cb.ckpt,title=keys%3A 2::100%25 lost.%0ALook.
        >>> print(annotation("notice", "It is so.", title="::error::\nx"))
        ::notice title=\x3a%3Aerror%3A%3A\nx::It is so.
    """
    given = {"file": printable(file), "title": printable(title)}
    properties = ",".join(f"{name}={_escape(value, _PROPERTY)}" for name, value in given.items() if value)
    return SafeText(f"::{level}{' ' * bool(properties)}{properties}::{_escape(block(text, wrapped=False), _DATA)}")


def _escape(text: str, table: dict[str, str]) -> str:
    return "".join(table.get(each, each) for each in text)
