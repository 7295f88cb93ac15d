"""A result as lines for pytest's terminal summary: what it is, what loads, the verdict, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.wording import (
    WIDTH,
    capped,
    count,
    key_groups,
    line,
    listed,
    literal,
    printable,
    size,
    table,
    wrap,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.auditing.result import AuditResult, CheckpointFacts, CompanionFacts, RuleFacts, StateFacts
    from pytest_lora_ckpt.results import Component, Finding
    from pytest_lora_ckpt.wording import SafeText

# A section is a page, whatever is in the file: lines and bytes of each of its three parts, at most.
_LINES = (22, 40, 40)
_BYTES = 8 << 10
_COMPONENTS = 20
_RULES = 8
_APPLIED = 3
_DIFFERENT = 6
_MOST_OF_A_MESSAGE = 6
_ELSEWHERE = "All of it is in the JSON report: --lora-report=FILE.json"
_SHOWN = {name for name, check in CHECKS.items() if check.show_when_passed}
_WHO = {"torch": "nothing to do", "peft": "PEFT's loader does it", "you": "your loader must"}


class TerminalRenderer:
    """The sections of the terminal."""

    ending: str | None = None
    needs: tuple[str, ...] = ()

    def render(self, results: Sequence[AuditResult]) -> str:
        """Return one section per checkpoint."""
        return "\n".join("".join(f"{each}\n" for each in section(result)) for result in results)


def section(result: AuditResult) -> Iterator[SafeText]:
    """Give the lines of one checkpoint's section: about a hundred, and what was left out, counted.

    Example:
        >>> from pytest_lora_ckpt.auditing.result import AuditResult, CheckpointFacts
        >>> list(section(AuditResult("a.ckpt", CheckpointFacts("a.ckpt"))))
        ['a.ckpt', 'verdict: not-compared (there was no model or loader to compare with)']
    """
    is_cut = False
    for part, most in zip((_about(result.checkpoint), _compared(result), _judged(result)), _LINES, strict=True):
        lines, left = capped(map(line, part), most, _BYTES)
        yield from lines
        if left:
            yield line(f"  … and {count(left, 'more line')}")
            is_cut = True
    if is_cut:
        yield line(_ELSEWHERE)


def _compared(result: AuditResult) -> Iterator[str]:
    yield from _components(result.components, compared=result.remapped is not None)
    if result.as_is is not None and result.remapped is not None:
        yield _state("as is", result.as_is)
        yield from _rules(result.rules)
        yield _state("after remapping", result.remapped)


def _judged(result: AuditResult) -> Iterator[str]:
    yield f"verdict: {result.verdict} ({result.meaning})"
    for check in result.checks:
        if check.outcome == "passed" and check.name in _SHOWN:
            yield from wrap(f"{check.name}: {check.summary}")
    yield from _findings(result)
    skipped: dict[str, list[str]] = {}
    for check in result.checks:
        if check.outcome == "skipped":
            skipped.setdefault(check.summary, []).append(check.name)
    for reason, names in skipped.items():
        yield from wrap(f"not checked: {', '.join(names)} ({reason})")


def _about(checkpoint: CheckpointFacts) -> Iterator[str]:
    yield checkpoint.path
    if checkpoint.layout is None:
        return
    parts = [checkpoint.layout, checkpoint.format, f"{checkpoint.keys} keys", size(checkpoint.bytes or 0)]
    if checkpoint.stage:
        parts.append(f"stage {checkpoint.stage}")
    yield " · ".join(printable(part, WIDTH // 4) for part in parts)
    for name, adapter in checkpoint.adapters.items():
        alpha = "" if adapter.alpha is None else f", alpha {_numbers(adapter.alpha)}"
        modules = count(adapter.modules, "module")
        yield from wrap(f"adapter {name}: rank {_numbers(adapter.rank)}{alpha}, {modules}")
    if checkpoint.envelope:
        yield from wrap(f"beside the state dict: {', '.join(map(printable, checkpoint.envelope))}")
    for each in checkpoint.companions:
        if each.kind != "twin":  # A note says more of it.
            yield from wrap(_companion(each))
    for note in checkpoint.notes:
        yield from wrap(f"note: {note}")


def _numbers(numbers: float | tuple[float, ...] | None) -> str:
    """Write a rank or an alpha; in brackets where modules differ."""
    if isinstance(numbers, tuple):
        return f"({listed(map(_numbers, numbers), _DIFFERENT)})"
    return f"{numbers:g}" if isinstance(numbers, float) else str(numbers)


def _companion(each: CompanionFacts) -> str:
    name = each.path.replace("\\", "/").rpartition("/")[2]
    if each.error is not None:
        return f"with it: {name} (cannot be read: {each.error})"
    what = f"{count(each.keys or 0, 'key')}, {size(each.bytes or 0)}"
    return f"with it: {name}{'/' * (each.kind == 'adapter')}, {what}{f' (not judged: {each.why})' if each.why else ''}"


def _components(rows: Sequence[Component], *, compared: bool) -> Iterator[str]:
    if not rows:
        return
    cells = [["component", "in file", *(["in model", "as is", "remapped"] if compared else [])]]
    for row in rows[:_COMPONENTS]:
        name = f"{printable(row.name or '(top)', WIDTH // 2)}{' LoRA' if row.lora else ''}"
        excused = f" ({row.excused} excused)" if row.excused else ""
        numbers = [str(row.in_model), str(row.as_is), f"{row.remapped}{excused}"] if compared else []
        cells.append([name, str(row.in_file), *numbers])
    yield from table(cells)
    if left := rows[_COMPONENTS:]:
        yield f"  … and {len(left)} more, with {sum(row.in_file for row in left)} keys in the file"


def _rules(rules: Sequence[RuleFacts]) -> Iterator[str]:
    shown = rules[: _APPLIED if all(rule.applied for rule in rules) else _RULES]
    for number, rule in enumerate(shown, 1):
        who = "your loader does it" if rule.applied else _WHO[rule.by]
        yield f"  {number}. {printable(rule.rule, WIDTH)} ({count(rule.keys, 'key')}, {who})"
        if rule.by != "torch":
            yield f"     {printable(rule.example[0], WIDTH)} -> {printable(rule.example[1], WIDTH)}"
    if left := rules[len(shown) :]:
        applied = " that your loader applies" if left[0].applied else ""
        yield f"  … and {count(len(left), 'more rule')}{applied}"
    if any(rule.by == "you" and not rule.applied for rule in rules):
        yield "  before load_state_dict:"
        yield from (f"    {each}" for each in _code(rules))


def _code(rules: Sequence[RuleFacts]) -> list[str]:
    """Write the rules as the function that renames the keys."""
    calls = [f"    key = re.sub({literal(rule.pattern)}, {literal(rule.replacement)}, key)" for rule in rules[:_RULES]]
    if len(rules) > _RULES or any(len(call) > 2 * WIDTH - 4 for call in calls):
        return ["the patterns are too long to print: take lora_report.remapping.as_python()"]
    last = "state_dict = {rename(key): tensor for key, tensor in state_dict.items()}"
    return ["import re", "def rename(key):", *calls, "    return key", last]


def _state(when: str, state: StateFacts) -> str:
    misfits = f" · other shape {state.shape_mismatches}" if state.shape_mismatches else ""
    return (
        f"{when}: loaded {state.loaded} · missing {_classes(state.missing)} · "
        f"unexpected {_classes(state.unexpected)}{misfits}"
    )


def _classes(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    shares = ", ".join(f"{name} {number}" for name, number in counts.items() if number)
    return f"{total} ({shares})" if total else "0"


def _findings(result: AuditResult) -> Iterator[str]:
    """Give the root causes with their remedies, each remedy once, and the notes."""
    remedies: set[str] = set()
    causes: set[str] = set()
    for finding in result.findings:
        if finding.follows:
            continue
        yield from _finding(finding, with_remedy=finding.remedy not in remedies)
        remedies.add(finding.remedy)
        if finding.severity == "error" and finding.cause not in causes:
            yield from _consequences(finding.cause, result)
            causes.add(finding.cause)


def _consequences(cause: str, result: AuditResult) -> Iterator[str]:
    """Say in a line what follows from a root cause."""
    effects = dict.fromkeys(each.cause for each in result.findings if each.follows == cause != each.cause)
    if effects:
        yield from wrap(f"From this follows: {', '.join(effects)}.", "     ", first="  ")
    names = result.failed_by.get(cause, ())
    if len(names) > 1:
        yield from wrap(f"These checks failed for the same reason: {', '.join(names)}.", "     ", first="  ")


def _finding(finding: Finding, *, with_remedy: bool) -> Iterator[str]:
    lines = wrap(f"{finding.severity}: {finding.message} [{finding.cause}]", "    ")
    yield from lines[:_MOST_OF_A_MESSAGE]
    if left := lines[_MOST_OF_A_MESSAGE:]:
        yield f"    … and {count(len(left), 'more line')}"
    if finding.severity != "note":
        yield from (f"    {each}" for each in key_groups(finding.keys))
    if with_remedy and finding.remedy:
        yield from wrap(f"-> {finding.remedy}", "     ", first="  ")
