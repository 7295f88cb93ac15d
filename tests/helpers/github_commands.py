"""Commands of GitHub Actions, read as its runner reads them."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """One command."""

    name: str
    properties: dict[str, str]
    message: str


_DATA = {"%0D": "\r", "%0A": "\n", "%25": "%"}
_PROPERTY = {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}


def read(line: str) -> Command | None:
    """Read a line of output: a command begins it, and ends at the next two colons."""
    if not line.lstrip().startswith("::"):
        return None
    head, _, message = line.lstrip()[2:].partition("::")
    name, _, given = head.partition(" ")
    pairs = (each.partition("=") for each in given.split(",") if each)
    return Command(name, {key: _unescape(value, _PROPERTY) for key, _, value in pairs}, _unescape(message, _DATA))


def _unescape(text: str, table: dict[str, str]) -> str:
    for escape, character in table.items():
        text = text.replace(escape, character)
    return text
