"""What a run under GitHub Actions shows there: annotations, and the summary of the job."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.render.annotations import annotate
from pytest_lora_ckpt.auditing.render.markdown import MarkdownRenderer
from pytest_lora_ckpt.wording import SafeText, line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pytest

    from pytest_lora_ckpt.auditing.result import AuditResult
    from pytest_lora_ckpt.options import Settings

_MOST = 1 << 20
"""Bytes of the summary of one step: of a longer one GitHub shows nothing."""


def is_asked_for(settings: Settings) -> bool:
    """Whether this runs under GitHub Actions, and nobody switched this off."""
    return settings.github == "auto" and os.environ.get("GITHUB_ACTIONS") == "true"


def told(results: Sequence[AuditResult]) -> list[SafeText]:
    """Add to the summary of the job where there is one, and return the lines that the run has to print."""
    lines = annotate(results, Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and results:
        try:
            _append(Path(summary), MarkdownRenderer().render(results))
        except OSError as error:
            lines.append(line(f"The summary of the job cannot be written: {error}"))
    return lines


def _append(path: Path, text: str) -> None:
    content = f"{text}\n".encode("utf-8", "backslashreplace")
    with path.open("ab") as file:
        if file.tell() + len(content) <= _MOST:
            file.write(content)


def say(lines: Iterable[SafeText], reporter: pytest.TerminalReporter | None) -> None:
    """Print the lines, each at the beginning of one: where there is no reporter, the server reads them all the same."""
    for each in lines:
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(each)
        else:
            sys.stdout.write(f"{each}\n")
