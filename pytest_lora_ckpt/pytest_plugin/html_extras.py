"""What pytest-html shows of a run: the verdicts above its table, and with each failed check its causes and remedies.

pytest-html puts what it is given into its page as it is, so all text is escaped here.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.roots import with_roots
from pytest_lora_ckpt.wording import key_groups, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pytest

    from pytest_lora_ckpt.auditing.result import AuditResult, CheckReport


def add_extras(config: pytest.Config, test_report: pytest.TestReport, report: CheckReport) -> None:
    """Put the causes of a failed check with its report, where pytest-html writes one."""
    if not config.getoption("htmlpath", None) or not test_report.failed:
        return
    content = "".join(_findings(report))
    if content:
        extra = {"name": None, "format_type": "html", "content": content, "mime_type": None, "extension": None}
        held: Any = test_report
        held.extras = [*getattr(held, "extras", []), extra]


def _findings(report: CheckReport) -> Iterator[str]:
    for each in with_roots(report.findings):
        if each.follows or each.severity == "note":
            continue
        groups = "\n".join(key_groups(each.keys))
        yield f"<div><p><strong>{each.severity}</strong> <code>{_shown(each.cause)}</code>: {_shown(each.message)}</p>"
        yield f"<pre>{escape(groups)}</pre>" if groups else ""
        yield f"<p>→ {_shown(each.remedy)}</p></div>" if each.remedy else "</div>"


def verdicts(named: Iterable[tuple[str, AuditResult]]) -> str:
    """Return a table of the verdicts."""
    rows = [("LoRA checkpoint", "verdict", "meaning", "failed checks")]
    rows += [(name, each.verdict, each.meaning, ", ".join(each.named("failed")) or "none") for name, each in named]
    return f"<table>{''.join(map(_row, rows))}</table>"


def _row(cells: Iterable[str]) -> str:
    shown = "".join(f'<td style="padding-right: 2em">{_shown(each)}</td>' for each in cells)
    return f"<tr>{shown}</tr>"


def _shown(text: str) -> str:
    return escape(printable(text, 1_500))
