"""The report as annotations of GitHub Actions: what asks for an action, each once, at its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_lora_ckpt.auditing.problems import problems
from pytest_lora_ckpt.auditing.render.places import relative
from pytest_lora_ckpt.wording import WIDTH, count, printable
from pytest_lora_ckpt.wording.addresses import has_scheme
from pytest_lora_ckpt.wording.commands import annotation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lora_ckpt.auditing.result import AuditResult
    from pytest_lora_ckpt.wording import SafeText

MOST = 10
"""Errors, and warnings, that GitHub shows of one step."""


def annotate(results: Sequence[AuditResult], top: Path) -> list[SafeText]:
    """Return the commands, errors first.

    Args:
        results: The results.
        top: The top of the repository, which paths are relative to.
    """
    found = [(result, problem) for result in results for problem in problems(result)]
    commands: list[SafeText] = []
    levels: tuple[Literal["error", "warning"], ...] = ("error", "warning")
    for level in levels:
        own = [(result, problem) for result, problem in found if problem.severity == level]
        shown = own if len(own) <= MOST else own[: MOST - 1]
        for result, problem in shown:
            path = relative(result.checkpoint.path, top)
            what = f"the check {problem.check} failed" if problem.check else problem.rule
            title = f"{what}: {printable(_name(relative(result.spec, top)), WIDTH)}"
            text = "\n".join(filter(None, (problem.message, problem.remedy, problem.consequences)))
            commands.append(annotation(level, text, file="" if has_scheme(path) else path, title=title))
        if left := own[len(shown) :]:
            commands.append(annotation(level, f"… and {count(len(left), f'more {level}')}."))
    return commands


def _name(place: str) -> str:
    """Return a place where it is short, and otherwise its end."""
    return place.rstrip("/").rpartition("/")[2] if Path(place).is_absolute() or has_scheme(place) else place
