"""Markdown as GitHub reads it, by GitHub's own parser: the elements that it becomes, and the text in them."""

from __future__ import annotations

from html.parser import HTMLParser

from cmarkgfm import github_flavored_markdown_to_html
from cmarkgfm.cmark import Options


class _Reading(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.code: list[str] = []
        self.text: list[str] = []
        self._is_code = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_code = tag == "code"
        if self._is_code:
            self.code.append("")
        self.elements.append(" ".join([tag, *(name for name, _ in attrs)]))

    def handle_endtag(self, tag: str) -> None:
        self._is_code = False

    def handle_data(self, data: str) -> None:
        if self._is_code:
            self.code[-1] += data
        else:
            self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.elements.append("comment")


def elements_of(html: str) -> list[str]:
    """Return the elements of a page in their order, with the names of their attributes."""
    reading = _Reading()
    reading.feed(html)
    reading.close()
    return reading.elements


def read(markdown: str) -> tuple[list[str], list[str], str]:
    """Return the elements in order, with the names of their attributes; all code; the text that is no code."""
    reading = _Reading()
    reading.feed(github_flavored_markdown_to_html(markdown, options=Options.CMARK_OPT_UNSAFE))
    reading.close()
    return reading.elements, reading.code, " ".join("".join(reading.text).split())
