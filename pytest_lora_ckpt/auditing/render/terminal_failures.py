"""What a failed check shows of itself, where the checkpoint's section tells the causes and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.render.lines import paragraph

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.render.lines import Line, View
    from pytest_lora_ckpt.auditing.result import AuditResult

_MOST = 4


def failure(result: AuditResult, name: str, view: View) -> list[Line]:
    """Return the lines of a failed check: what it saw and the slug of the cause, where the section does not say so.

    Args:
        result: The result.
        name: The check's name.
        view: How it is shown.
    """
    summary = result.check(name).summary
    causes = [cause for cause, names in result.failed_by.items() if name in names]
    told = {each.message for each in result.findings if each.severity == "error"}
    slugs = "".join(f" [{each}]" for each in causes)
    if not causes or any(message in summary for message in told):
        return paragraph(f"see the section of the checkpoint below{slugs}", view)
    return paragraph(f"{summary}{slugs}", view)[:_MOST]
