"""What a run under GitHub Actions shows there: annotations, and the summary of the job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.wording import line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lora_ckpt.auditing.result import AuditResult
    from pytest_lora_ckpt.wording import SafeText

_MOST = 1 << 20
"""Bytes of the summary of one step: of a longer one GitHub shows nothing."""


def is_asked_for(when: str) -> bool:
    """Whether this runs under GitHub Actions, and the option `github` is not off."""
    return when == "auto" and os.environ.get("GITHUB_ACTIONS") == "true"


def told(results: Sequence[AuditResult]) -> list[SafeText]:
    """Add to the summary of the job where there is one, and return the lines that the run has to print."""
    from pytest_lora_ckpt.auditing.render.annotations import annotate  # Nobody else pays for these.
    from pytest_lora_ckpt.auditing.render.markdown import MarkdownRenderer

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
