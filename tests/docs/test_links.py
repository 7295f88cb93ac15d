"""Relative links of all pages lead to a file, and to a heading in it, as GitHub names them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from tests.helpers.pages import EXAMPLES, PAGES, ROOT, anchors, links

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for link in links(path):
        target = urlsplit(link)
        if target.scheme:
            continue
        there = path.parent / unquote(target.path) if target.path else path
        if not there.exists() or (target.fragment and target.fragment not in anchors(there)):
            broken.append(link)
    assert not broken


def test_an_anchor_is_what_github_makes_of_a_heading(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `audit()`, without pytest\n\n## A B\n\n## A B\n\n### base-untouched: where\n", "utf-8")
    assert anchors(page) == {"audit-without-pytest", "a-b", "a-b-1", "base-untouched-where"}
