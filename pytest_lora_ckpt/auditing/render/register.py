"""The forms of a report, and how one is written to a file."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from pytest_lora_ckpt.auditing.render.html import HtmlRenderer
from pytest_lora_ckpt.auditing.render.json import JsonRenderer
from pytest_lora_ckpt.auditing.render.markdown import MarkdownRenderer
from pytest_lora_ckpt.auditing.render.sarif import SarifRenderer
from pytest_lora_ckpt.auditing.render.terminal import TerminalRenderer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_lora_ckpt.auditing.result import AuditResult


class Renderer(Protocol):
    """One form of a report.

    Attributes:
        ending: Ending of the files in this form, with the dot; None for a form that is not written to files.
        needs: Modules that it imports, of which some may lack: the extra `report` brings them.
    """

    ending: str | None
    needs: tuple[str, ...]

    def render(self, results: Sequence[AuditResult]) -> str:
        """Return the text of a file that reports these results, in their order."""


RENDERERS: tuple[Renderer, ...] = (
    TerminalRenderer(),
    JsonRenderer(),
    HtmlRenderer(),
    SarifRenderer(),
    MarkdownRenderer(),
)
"""All forms of a report."""

ENDINGS = {renderer.ending: renderer for renderer in RENDERERS if renderer.ending}
"""Those that `--lora-report` chooses from, by the file's ending."""


def check_ending(path: Path) -> None:
    """Say why no report can be written to this path, by its ending.

    Raises:
        ValueError: There is no such form, or what it needs is not installed.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(f"the file's ending is one of {', '.join(ENDINGS)}.")
    if lacking := [name for name in ENDINGS[path.suffix].needs if find_spec(name) is None]:
        raise ValueError(f"it needs {', '.join(lacking)}: pip install pytest-lora-ckpt[report]")


def write_report(path: Path, results: Sequence[AuditResult]) -> None:
    """Write a report in the form that the file's ending names; an older file stays unless the new one is whole.

    Raises:
        ValueError: There is no renderer for the ending, or what it needs is not installed.
        OSError: The file cannot be written.
    """
    check_ending(path)
    # Names may hold lone surrogates: in JSON `\udc80` is their escape, elsewhere it is as readable as any.
    content = ENDINGS[path.suffix].render(results).encode("utf-8", "backslashreplace")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
