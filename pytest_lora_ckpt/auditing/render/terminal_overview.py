"""Many results in a table: a line for each, so that those of which there is nothing more to say need no section."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.render.lines import Line, lines, paragraph
from pytest_lora_ckpt.auditing.render.terminal import not_checked
from pytest_lora_ckpt.wording import SafeText, count, listed, printable, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.auditing.render.lines import View
    from pytest_lora_ckpt.auditing.result import AuditResult

FEW = 2
"""So many results need no table."""

_CAUSES = 3
_REASONS = 3
_HEALTHY = {"loads", "loads-after-remap", "not-compared"}


def heading(results: Sequence[AuditResult]) -> SafeText:
    """Return the heading of the table."""
    failed = sum(not each.passed for each in results)
    return SafeText(f"LoRA checkpoints: {failed or 'none'} of {len(results)} failed")


def needs_section(result: AuditResult) -> bool:
    """Whether there is more to say of a result than one line."""
    is_warned = any(each.severity == "warning" for each in result.findings)
    return bool(not result.passed or is_warned or result.faults or result.verdict not in _HEALTHY)


def overview(named: Sequence[tuple[str, AuditResult]], view: View) -> Iterator[Line]:
    """Give a line for each result: its verdict, its name, and how its checks ended; then what was not checked."""
    rows = table([_cells(name, result, view) for name, result in named], indent="", numbers=False)
    for row, (_, result) in zip(rows, named, strict=True):
        yield Line(row, result.standing, len(result.verdict))
    unchecked = Counter(
        " ".join(each.text.strip() for each in not_checked(result, view))
        for _, result in named
        if not needs_section(result)
    )
    unchecked.pop("", None)
    for told, number in unchecked.most_common(_REASONS):
        where = f" [in {number} of {len(named)}]" if len(named) > number else ""
        yield from paragraph(f"{told}{where}", view)
    if left := len(unchecked) - _REASONS if len(unchecked) > _REASONS else 0:
        yield from lines([f"… and {count(left, 'more selection')} of checks that were not made: see -v"])


def _cells(name: str, result: AuditResult, view: View) -> tuple[str, str, str]:
    passed, skipped = len(result.named("passed")), len(result.named("skipped"))
    told = f"{passed} passed" + (f", {skipped} not checked" if skipped else "")
    warnings = dict.fromkeys(each.cause for each in result.findings if each.severity == "warning" and not each.follows)
    if not result.passed:
        told = f"failed: {listed(result.failed_by or result.named('failed'), _CAUSES)}"
    elif warnings:
        told = f"warnings: {listed(warnings, _CAUSES)}"
    return result.verdict, printable(name, max(view.columns // 2, 20)), told
