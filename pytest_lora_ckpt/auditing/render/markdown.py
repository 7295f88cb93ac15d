"""The report as Markdown, for the summary of a CI job or an issue: what to do first, the rest folded away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.problems import Problem, problems
from pytest_lora_ckpt.auditing.render.places import relative
from pytest_lora_ckpt.keys.rules.export import python_source
from pytest_lora_ckpt.wording import count, group_keys, listed, size
from pytest_lora_ckpt.wording.markdown import code, prose

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_lora_ckpt.auditing.result import AuditResult, RuleFacts, StateFacts

# A checkpoint is a page here as well, and a summary on GitHub has at most 1 MiB.
_PROBLEMS, _PATTERNS, _ROWS, _RULES, _NOTES = 8, 4, 20, 8, 10
_SOURCE = 8 << 10
_ALL = 400 << 10
_MARKS = {"passed": "✅", "failed": "❌", "skipped": "⚪"}


class MarkdownRenderer:
    """A table of the verdicts, and a section for each checkpoint."""

    ending: str | None = ".md"
    needs: tuple[str, ...] = ()

    def render(self, results: Sequence[AuditResult]) -> str:
        """Return the text, in GitHub's Markdown: at most about 400 KiB, with what was left out counted."""
        found = [(result, problems(result)) for result in results]
        told = [_table(_overview(found)), ""]
        left = _ALL
        for number, (result, own) in enumerate(found):
            section = "\n".join(_section(result, own))
            left -= len(section.encode("utf-8", "backslashreplace"))
            if left < 0:
                told.append(f"… and {count(len(found) - number, 'more checkpoint')}, of which nothing is shown here.")
                break
            told += [section, ""]
        return "\n".join(told)


def _overview(found: Sequence[tuple[AuditResult, Sequence[Problem]]]) -> Iterator[Sequence[str]]:
    yield ("", "LoRA checkpoint", "verdict", "failed checks", "root cause")
    for result, own in found[:_ROWS]:
        failed, causes = result.named("failed"), [each.rule for each in own if each.check is None]
        name = code(relative(result.spec))
        yield (_mark(result, own), name, result.verdict, ", ".join(failed) or "none", code(causes[0]) if causes else "")
    if len(found) > _ROWS:
        yield ("", f"… and {len(found) - _ROWS} more", "", "", "")


def _mark(result: AuditResult, own: Sequence[Problem]) -> str:
    return "❌" if not result.passed else "🟡" if own or result.verdict not in {"loads", "loads-after-remap"} else "✅"


def _section(result: AuditResult, own: Sequence[Problem]) -> Iterator[str]:
    yield f"### {_mark(result, own)} {code(relative(result.spec))}"
    yield ""
    yield f"**{result.verdict}**: {prose(result.meaning)}."
    for problem in own[:_PROBLEMS]:
        yield from ("", *_problem(problem))
    if len(own) > _PROBLEMS:
        yield from ("", f"… and {count(len(own) - _PROBLEMS, 'more problem')}.")
    if rules := [each for each in result.rules if each.by == "you" and not each.applied]:
        yield from ("", *_code(rules))
    yield from ("", "<details>", "<summary>Details</summary>", "")
    yield from _details(result)
    yield from ("", "</details>")


def _problem(problem: Problem) -> Iterator[str]:
    yield f"**{problem.severity}** {code(problem.rule)}: {prose(problem.message)}"
    patterns = group_keys(problem.keys, limit=_PATTERNS)
    yield from ([""] if patterns else [])
    yield from (f"- {code(pattern, 200)} ({count(number, 'key')})" for pattern, number in patterns)
    if problem.remedy:
        yield from ("", f"→ {prose(problem.remedy)}")
    if problem.consequences:
        yield from ("", prose(problem.consequences))


def _code(rules: Sequence[RuleFacts]) -> Iterator[str]:
    source = python_source(((each.pattern, each.replacement, each.rule) for each in rules), "rename_keys")
    if len(source) > _SOURCE:
        yield f"{count(len(rules), 'rule')} rename the keys: take `lora_report.remapping.as_python()`."
    else:
        yield from ("Before `load_state_dict`:", "", "```python", source.rstrip("\n"), "```")


def _details(result: AuditResult) -> Iterator[str]:
    checkpoint = result.checkpoint
    if checkpoint.layout is not None:
        facts = [checkpoint.layout, checkpoint.format, f"{checkpoint.keys} keys", size(checkpoint.bytes or 0)]
        yield f"It is {', '.join(prose(str(each)) for each in facts)}."
        adapters = [
            f"{name} (rank {each.rank}, {count(each.modules, 'module')})" for name, each in checkpoint.adapters.items()
        ]
        if adapters:
            yield f"{count(len(adapters), 'adapter')}: {prose(listed(adapters))}."
    for when, state in (("As is", result.as_is), ("After the remapping", result.remapped)):
        if state is not None:
            yield from ("", f"{when}: {_state(state)}.")
    if rows := result.components[:_ROWS]:
        cells = (
            (
                code(f"{row.name or '(top)'}{' LoRA' if row.lora else ''}", 100),
                *map(_number, (row.in_file, row.in_model, row.as_is, row.remapped)),
            )
            for row in rows
        )
        yield from ("", _table([("component", "in file", "in model", "as is", "remapped"), *cells]))
        yield from (["", f"… and {len(result.components) - _ROWS} more."] if len(result.components) > _ROWS else [])
    yield from [""] * bool(result.rules)
    yield from (f"- rule: {code(each.rule, 200)} ({count(each.keys, 'key')})" for each in result.rules[:_RULES])
    if len(result.rules) > _RULES:
        yield f"- … and {count(len(result.rules) - _RULES, 'more rule')}"
    checks = [(_MARKS[each.outcome], each.name, prose(each.summary)) for each in result.checks]
    yield from ("", _table([("", "check", ""), *checks]))
    notes = [each.message for each in result.findings if each.severity == "note"]
    notes += checkpoint.notes
    yield from [""] * bool(notes)
    yield from (f"- note: {prose(each)}" for each in notes[:_NOTES])


def _state(state: StateFacts) -> str:
    misfits = f", other shape {state.shape_mismatches}" if state.shape_mismatches else ""
    return f"loaded {state.loaded}, missing {_classes(state.missing)}, unexpected {_classes(state.unexpected)}{misfits}"


def _classes(counts: Mapping[str, int]) -> str:
    shares = ", ".join(f"{code(name)} {number}" for name, number in counts.items() if number)
    return f"{sum(counts.values())} ({shares})" if shares else "0"


def _number(number: int | None) -> str:
    return "" if number is None else str(number)


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Write rows of cells, the first as the head."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"|{' --- |' * (head.count(' | ') + 1)}", *others])
