"""What the terminal shows of a result, as plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.render.lines import View
from pytest_lora_ckpt.auditing.render.terminal import section

if TYPE_CHECKING:
    from pytest_lora_ckpt import AuditResult


def shown(result: AuditResult, width: int = 100, *, verbose: bool = False) -> list[str]:
    """Return the lines of a section."""
    return [each.text for each in section(result, View(width, verbose=verbose))]


def flat(lines: list[str]) -> str:
    """Join lines wherever they were broken."""
    return " ".join(" ".join(lines).split())
