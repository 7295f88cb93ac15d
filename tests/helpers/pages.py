"""README and the pages of `docs/`, taken apart: their code blocks, links and anchors, as CommonMark has them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "conftest_examples").glob("*/README.md"))

_COMMENT = re.compile(r"<!-- ([\w -]+?)(?:: (.*?))? -->")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Its page, from the root of the repository.
        line: The line of its fence, from 1.
        language: The word behind the fence.
        text: What is in it.
        marks: The comments on the lines before it: `<!-- exit: 1 -->` is `{"exit": "1"}`.
    """

    page: str
    line: int
    language: str
    text: str
    marks: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> Iterator[list[str]]:
        """The commands of a block for the shell, in words, without comments."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while "&&" in words:
                place = words.index("&&")
                yield words[:place]
                words = words[place + 1 :]
            if words:
                yield words


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found, marks = [], {}
    for token in _tokens(path):
        if token.type == "fence":
            assert token.map
            name = path.relative_to(ROOT).as_posix()
            found.append(Block(name, token.map[0] + 1, token.info.strip(), token.content, marks))
        marks = {**marks, **_marks(token.content)} if token.type == "html_block" else {}
    return found


def _marks(html: str) -> dict[str, str]:
    return {name: value or "" for name, value in _COMMENT.findall(html)}


def links(path: Path) -> list[str]:
    """Return where the links and pictures of a page lead."""
    inside = [child for token in _tokens(path) for child in token.children or ()]
    html = [token.content for token in (*_tokens(path), *inside) if token.type.startswith("html_")]
    targets = [str(child.attrs.get("href") or child.attrs.get("src") or "") for child in inside]
    return [*filter(None, targets), *re.findall(r'(?:href|src)="([^"]+)"', " ".join(html))]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    tokens, found = _tokens(path), []
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            text = "".join(child.content for child in tokens[place + 1].children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


def _tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
