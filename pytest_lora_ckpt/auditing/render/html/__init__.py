"""The HTML report: one file for people, that needs no network. What a page is made with is imported where one is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lora_ckpt.auditing.result import AuditResult


class HtmlRenderer:
    """A page with the verdict first, the picture of each model, and what to do."""

    ending: str | None = ".html"
    needs: tuple[str, ...] = ("jinja2", "pygal")

    def render(self, results: Sequence[AuditResult]) -> str:
        """Return the page.

        Raises:
            ImportError: What the extra `report` brings is not installed.
        """
        from pytest_lora_ckpt.auditing.render.html.page import page  # Jinja2, only for a page.

        return page(results)
