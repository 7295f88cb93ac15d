"""What a section shows with `-v`: the components, what loads as is and after the rules, the rules with their code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.render.lines import Line, lines, paragraph
from pytest_lora_ckpt.wording import WIDTH, count, literal, printable, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.auditing.render.lines import View
    from pytest_lora_ckpt.auditing.result import AuditResult, RuleFacts, StateFacts
    from pytest_lora_ckpt.results import Component

_COMPONENTS = 20
_RULES = 8
_APPLIED = 3
_NUMBERS = 44  # Columns of the numbers beside a component's name.
_WHO = {"torch": "nothing to do", "peft": "PEFT's loader does it", "you": "your loader must"}


def details(result: AuditResult, view: View) -> Iterator[Line]:
    """Give the component table and the remapping."""
    yield from lines(_components(result.components, view, compared=result.remapped is not None))
    if result.as_is is not None and result.remapped is not None:
        yield from _state("as is", result.as_is, view)
        yield from _rules(result.rules, view)
        yield from _state("after remapping", result.remapped, view)


def who(rule: RuleFacts) -> str:
    """Say who applies a rule."""
    return "your loader does it" if rule.applied else _WHO[rule.by]


def classes(counts: Mapping[str, int]) -> str:
    """Write the number of keys, and how many are of which class."""
    total = sum(counts.values())
    shares = ", ".join(f"{name} {number}" for name, number in counts.items() if number)
    return f"{total} ({shares})" if total else "0"


def _components(rows: Sequence[Component], view: View, *, compared: bool) -> Iterator[str]:
    if not rows:
        return
    cells = [["component", "in file", *(["in model", "as is", "remapped"] if compared else [])]]
    most = min(WIDTH // 2, max(view.columns - _NUMBERS, WIDTH // 8))
    for row in rows[:_COMPONENTS]:
        name = f"{printable(row.name or '(top)', most)}{' LoRA' if row.lora else ''}"
        excused = f" ({row.excused} excused)" if row.excused else ""
        numbers = [str(row.in_model), str(row.as_is), f"{row.remapped}{excused}"] if compared else []
        cells.append([name, str(row.in_file), *numbers])
    yield from table(cells)
    if left := rows[_COMPONENTS:]:
        yield f"  … and {len(left)} more, with {sum(row.in_file for row in left)} keys in the file"


def _rules(rules: Sequence[RuleFacts], view: View) -> Iterator[Line]:
    shown = rules[: _APPLIED if all(rule.applied for rule in rules) else _RULES]
    for number, rule in enumerate(shown, 1):
        told = f"{number}. {printable(rule.rule, WIDTH)} ({count(rule.keys, 'key')}, {who(rule)})"
        yield from paragraph(told, view, first="  ", indent="     ")
        if rule.by != "torch":
            before, after = (printable(each, WIDTH) for each in rule.example[:2])
            is_long = len(before) + len(after) + 9 > view.width  # With what stands around them.
            yield from lines([f"     {before}", f"     -> {after}"] if is_long else [f"     {before} -> {after}"])
    if left := rules[len(shown) :]:
        applied = " that your loader applies" if left[0].applied else ""
        yield from lines([f"  … and {count(len(left), 'more rule')}{applied}"])
    if any(rule.by == "you" and not rule.applied for rule in rules):
        yield from lines(["  before load_state_dict:", *(f"    {each}" for each in _code(rules))])


def _code(rules: Sequence[RuleFacts]) -> list[str]:
    """Write the rules as the function that renames the keys."""
    calls = [f"    key = re.sub({literal(rule.pattern)}, {literal(rule.replacement)}, key)" for rule in rules[:_RULES]]
    if len(rules) > _RULES or any(len(call) > 2 * WIDTH - 4 for call in calls):
        return ["the patterns are too long to print: take lora_report.remapping.as_python()"]
    last = "state_dict = {rename(key): tensor for key, tensor in state_dict.items()}"
    return ["import re", "def rename(key):", *calls, "    return key", last]


def _state(when: str, state: StateFacts, view: View) -> list[Line]:
    misfits = f" · other shape {state.shape_mismatches}" if state.shape_mismatches else ""
    told = f"{when}: loaded {state.loaded} · missing {classes(state.missing)} · unexpected {classes(state.unexpected)}"
    return paragraph(f"{told}{misfits}", view)
