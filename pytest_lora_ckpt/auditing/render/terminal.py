"""A result as lines for the terminal: the verdict, the root causes and what to do, then what they are known by."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.auditing.render.lines import Line, View, beginning_of, cap, lines, paragraph
from pytest_lora_ckpt.auditing.render.terminal_details import classes, details, who
from pytest_lora_ckpt.wording import WIDTH, count, key_groups, listed, printable, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.auditing.render.lines import Role
    from pytest_lora_ckpt.auditing.result import AuditResult, CheckpointFacts, CompanionFacts
    from pytest_lora_ckpt.results import Finding

HEALTHY = 12
"""Lines of a healthy checkpoint's section, its heading among them, at 80 columns or more."""

# A section is a page, whatever is in the file: lines and bytes of each of its parts, at most.
_LINES = {"judged": 60, "about": 22, "compared": 40, "told": 24}
_BYTES = 8 << 10

_ELSEWHERE = "All of it is in the JSON report: --lora-report=FILE.json"
_TELLING = [name for name, check in CHECKS.items() if check.show_when_passed]
_MOST_TELLING = [name for name in _TELLING if name in {"loaded", "adapter-active"}]  # The two questions.
_DIFFERENT = 6
_MOST_OF_A_MESSAGE = 6
_ERRORS, _WARNINGS, _RULES, _NAMED = 5, 3, 3, 2
_KEY_LINES = 2
_NOT_LOST = ("excused", "alias")
_SAID_BY_THE_KEYS = {"loader-renames"}


class TerminalRenderer:
    """The sections of the terminal.

    Args:
        view: How they are shown.
    """

    ending: str | None = None
    needs: tuple[str, ...] = ()

    def __init__(self, view: View | None = None) -> None:
        """Show them like this."""
        self.view = view or View()

    def render(self, results: Sequence[AuditResult]) -> str:
        """Return one section per checkpoint."""
        return "\n".join("".join(f"{each.text}\n" for each in section(result, self.view)) for result in results)


def section(result: AuditResult, view: View | None = None) -> Iterator[Line]:
    """Give the lines of one checkpoint's section: a dozen where all is well, a hundred at most.

    Args:
        result: The result.
        view: How it is shown.

    Example:
        >>> from pytest_lora_ckpt.auditing.result import AuditResult, CheckpointFacts
        >>> [each.text for each in section(AuditResult("a.ckpt", CheckpointFacts("a.ckpt")))]
        ['verdict: not-compared (there was no model or loader to compare with)', 'a.ckpt']
    """
    view = view or View()
    judged, about = list(_judged(result, view)), list(_about(result.checkpoint, view))
    if result.checkpoint.layout is None and any(result.checkpoint.path in each.summary for each in result.checks):
        about = []  # Of what cannot be read only the path is known, and the error has it.
    if view.verbose:
        parts = {"judged": judged, "about": about, "compared": details(result, view), "told": _told(result, view)}
    else:
        room = HEALTHY - 1 - len(judged) - len(about) if result.standing == "good" else None
        parts = {"judged": judged, "about": about, "told": _told_in_brief(result, view, room)}
    is_cut = False
    for name, part in parts.items():
        kept, left = cap(part, _LINES[name], _BYTES)
        yield from kept
        if left:
            yield from lines([f"  … and {count(left, 'more line')}"])
            is_cut = True
    if is_cut:
        yield from lines([_ELSEWHERE])


def verdict(result: AuditResult, view: View, before: str = "") -> list[Line]:
    """Return the verdict with its meaning."""
    told = f"{before}verdict: {result.verdict}"
    return paragraph(f"{told} ({result.meaning})", view, role=result.standing, marked=len(told))


# What is wrong, and what to do


def _judged(result: AuditResult, view: View) -> Iterator[Line]:
    yield from verdict(result, view)
    errors = [each for each in result.findings if each.severity == "error"]
    warnings = [each for each in result.findings if each.severity == "warning" and not each.follows]
    remedies: set[str] = set()
    causes: set[str] = set()
    for each in errors if view.verbose else errors[:_ERRORS]:
        yield from _finding(each, view, remedies)
        if each.cause not in causes:
            yield from _consequences(each.cause, result, view)
            causes.add(each.cause)
    yield from _unexplained(result, view)
    for each in warnings if view.verbose else warnings[:_WARNINGS]:
        yield from _finding(each, view, remedies)
    left = 0 if view.verbose else max(len(errors) - _ERRORS, 0) + max(len(warnings) - _WARNINGS, 0)
    if left:
        yield from lines([f"  … and {count(left, 'more cause')}: see -v"])


def _finding(finding: Finding, view: View, remedies: set[str]) -> Iterator[Line]:
    """Give a cause, its remedy where that is not among those given before, and the keys that show it."""
    role = finding.severity if finding.severity != "note" else "plain"
    told = paragraph(f"{finding.severity}: {finding.message} [{finding.cause}]", view, role=role, indent="    ")
    yield from told[:_MOST_OF_A_MESSAGE]
    if left := told[_MOST_OF_A_MESSAGE:]:
        yield from lines([f"    … and {count(len(left), 'more line')}"])
    if finding.remedy and finding.remedy not in remedies:
        remedies.add(finding.remedy)
        yield from paragraph(f"-> {finding.remedy}", view, role="remedy", first="  ", indent="     ")
    if finding.severity != "note":
        yield from _keys(finding, view)


def _keys(finding: Finding, view: View) -> Iterator[Line]:
    most = 8 if view.verbose else 4 if finding.severity == "error" else 3
    groups = key_groups(finding.keys, most)
    is_cut = len(groups) == most and "… and " in groups[-1]
    more = "" if not is_cut else ": --lora-report=FILE.json" if view.verbose else ": see -v"
    yield from lines(f"    {each}{more if each is groups[-1] else ''}" for each in groups)


def _consequences(cause: str, result: AuditResult, view: View) -> Iterator[Line]:
    """Say in a line what follows from a root cause."""
    effects = dict.fromkeys(each.cause for each in result.findings if each.follows == cause != each.cause)
    if effects and view.verbose:
        yield from paragraph(f"From this follows: {', '.join(effects)}.", view, first="  ", indent="     ")
    if names := result.failed_by.get(cause, ()):
        yield from paragraph(f"failed checks: {', '.join(names)}", view, first="  ", indent="     ")


def _unexplained(result: AuditResult, view: View) -> Iterator[Line]:
    """Give what failed without a cause that is known: what the check says, and what to do."""
    explained = {name for names in result.failed_by.values() for name in names}
    by_summary: dict[str, list[str]] = {}
    for check in result.checks:
        if check.outcome == "failed" and check.name not in explained:
            by_summary.setdefault(check.summary, []).append(check.name)
    for summary, names in by_summary.items():
        fact, *others = summary.split("\n")
        yield from paragraph(f"error: {fact}", view, role="error", indent="    ")
        for each in others:
            told = each.strip()
            role: Role = "remedy" if told.startswith(("-> ", "what to do: ")) else "plain"
            first = " " * min(max(len(each) - len(each.lstrip(" ")), 2), 6)
            yield from paragraph(told, view, role=role, first=first, indent=f"{first}   ")
        yield from paragraph(f"failed checks: {', '.join(names)}", view, first="  ", indent="     ")


# What it is


def _about(checkpoint: CheckpointFacts, view: View) -> Iterator[Line]:
    yield from lines([checkpoint.path])
    if checkpoint.layout is None:
        return
    parts = [checkpoint.layout, checkpoint.format, f"{checkpoint.keys} keys", size(checkpoint.bytes or 0)]
    if checkpoint.stage:
        parts.append(f"stage {checkpoint.stage}")
    yield from paragraph(" · ".join(printable(part, WIDTH // 4) for part in parts), view)
    yield from _adapters(checkpoint, view)
    companions = [each for each in checkpoint.companions if each.kind != "twin"]  # A note says more of a twin.
    if view.verbose:
        if checkpoint.envelope:
            yield from paragraph(f"beside the state dict: {', '.join(map(printable, checkpoint.envelope))}", view)
        for each in companions:
            yield from paragraph(f"with it: {_companion(each)}", view)
        for note in checkpoint.notes:
            yield from paragraph(f"note: {note}", view)
    elif companions:
        yield from paragraph(f"with it: {listed(map(_companion, companions), _NAMED)}", view)


def _adapters(checkpoint: CheckpointFacts, view: View) -> Iterator[Line]:
    told = []
    for name, adapter in checkpoint.adapters.items():
        alpha = "" if adapter.alpha is None else f", alpha {_numbers(adapter.alpha)}"
        told.append((name, f"rank {_numbers(adapter.rank)}{alpha}", count(adapter.modules, "module")))
    if len(told) > 1 and not view.verbose:
        names = [f"{printable(name, WIDTH // 4)} ({numbers})" for name, numbers, _ in told]
        yield from paragraph(f"adapters: {listed(names, _NAMED)}", view)
    else:
        for name, numbers, modules in told:
            yield from paragraph(f"adapter {name}: {numbers}, {modules}", view)


def _numbers(numbers: float | tuple[float, ...] | None) -> str:
    """Write a rank or an alpha; in brackets where modules differ."""
    if isinstance(numbers, tuple):
        return f"({listed(map(_numbers, numbers), _DIFFERENT)})"
    return f"{numbers:g}" if isinstance(numbers, float) else str(numbers)


def _companion(each: CompanionFacts) -> str:
    name = each.path.replace("\\", "/").rpartition("/")[2]
    if each.error is not None:
        return f"{name} (cannot be read: {each.error})"
    what = f"{count(each.keys or 0, 'key')}, {size(each.bytes or 0)}"
    why = f" ({'not judged: ' * (each.kind == 'other')}{each.why})" if each.why else ""
    return f"{name}{'/' * (each.kind == 'adapter')}, {what}{why}"


# What was seen, what else is worth knowing, what was not checked


def _told(result: AuditResult, view: View) -> Iterator[Line]:
    for check in result.checks:
        if check.outcome == "passed" and check.name in _TELLING:
            yield from paragraph(f"{check.name}: {check.summary}", view)
    remedies: set[str] = set()
    for each in result.findings:
        if each.severity == "note":
            yield from _finding(each, view, remedies)
    skipped: dict[str, list[str]] = {}
    for check in result.checks:
        if check.outcome == "skipped":
            skipped.setdefault(check.summary, []).append(check.name)
    for reason, names in skipped.items():
        yield from paragraph(f"not checked: {', '.join(names)} ({reason})", view)
    if result.next_step is not None and len(skipped) > 1:
        step = result.next_step
        yield from paragraph(f"what would check the most: {step.give} ({', '.join(step.checks)})", view)


def _told_in_brief(result: AuditResult, view: View, room: int | None) -> Iterator[Line]:
    """Give the same in brief.

    Args:
        result: The result.
        view: How it is shown.
        room: How many lines there may be; None where something is wrong.
    """
    keys, unchecked = _keys_in_brief(result, view), [*_accepted(result, view), *not_checked(result, view)]
    passed = [each for each in result.checks if each.outcome == "passed" and each.name in _MOST_TELLING]
    told = [f"{each.name}: {each.summary.partition('. ')[0].removesuffix('.')}" for each in passed]
    notes = list(_notes_in_brief(result)) if result.standing != "bad" else []  # `_more` counts them.
    left = None if room is None else room - len(keys) - len(unchecked) - bool(notes)
    seen = _fitting(told, view, left, least=len(told))
    yield from (*keys, *seen)
    yield from _fitting(notes, view, 2 if left is None else left - len(seen) + 1)
    yield from unchecked
    if result.standing == "bad" and (more := _more(result)):
        yield from lines([f"with -v: {more}"])


def _accepted(result: AuditResult, view: View) -> list[Line]:
    """Say what the project accepts, which is shown however little room there is."""
    reasons = {each.cause: f"{each.cause} ({each.accepted})" for each in result.findings if each.accepted}
    return paragraph(f"accepted: {listed(reasons.values(), _RULES)}", view) if reasons else []


def _keys_in_brief(result: AuditResult, view: View) -> list[Line]:
    """Say what loads, and under which rules."""
    as_is, state = result.as_is, result.remapped
    if as_is is None or state is None:
        return []
    before = "as is" if as_is.loaded == state.loaded else f"{as_is.loaded} as is"
    told = f"keys: loaded {state.loaded} ({before})"
    lacking, besides = {"missing": state.missing, "unexpected": state.unexpected}, Counter[str]()
    for word, counts in lacking.items():
        told += f" · {word} {classes({name: number for name, number in counts.items() if name not in _NOT_LOST})}"
        besides.update({name: counts.get(name, 0) for name in _NOT_LOST})
    told += "".join(f" · {name} {number}" for name, number in besides.items() if number)
    told += f" · other shape {state.shape_mismatches}" if state.shape_mismatches else ""
    by: dict[str, list[str]] = {}
    for rule in result.rules:
        if rule.by != "torch":
            by.setdefault(who(rule), []).append(rule.rule)
    renamed = ""
    for doer, rules in by.items():
        names = listed((printable(each, WIDTH) for each in rules), _RULES)
        renamed += f" · renamed: {names} ({doer}{'; the code: -v' if doer == 'your loader must' else ''})"
    whole = paragraph(f"{told}{renamed}", view)
    if result.standing != "good" or len(whole) <= _KEY_LINES:
        return whole
    return paragraph(f"{told} · renamed by {count(sum(map(len, by.values())), 'rule')}: -v", view)


def _notes_in_brief(result: AuditResult) -> Iterator[str]:
    own = (each for each in result.findings if each.severity == "note" and not each.accepted)
    found = (each for each in own if each.cause not in _SAID_BY_THE_KEYS)
    notes = (*result.checkpoint.notes, *(f"{each.message} [{each.cause}]" for each in found))
    yield from (f"note: {each}" for each in notes)


def _fitting(texts: Sequence[str], view: View, room: int | None, *, least: int = 1) -> list[Line]:
    """Return texts in full where there is room for it, else the beginning of each, and how many are left."""
    full = [each for text in texts for each in paragraph(text, view)]
    if room is None or len(full) <= room:
        return full
    kept = texts[: max(room, least)]
    left = len(texts) - len(kept)
    ends = ["" for _ in kept[1:]] + [f" (and {left} more: -v)" if left else ""]
    return [beginning_of(text, view, end) for text, end in zip(kept, ends, strict=True)]


def not_checked(result: AuditResult, view: View) -> list[Line]:
    """Say which checks were not made, and the one thing to give so that most of them can be."""
    skipped = [each for each in result.checks if each.outcome == "skipped"]
    # What was asked for besides the checks is told with its reason.
    asked = [each for each in skipped if each.name not in CHECKS]
    told = [line for each in asked for line in paragraph(f"{each.name}: {each.summary}", view)]
    skipped = [each for each in skipped if each.name in CHECKS]
    if not skipped:
        return told
    names = ", ".join(each.name for each in skipped)
    reasons = {each.summary for each in skipped}
    if (step := result.next_step) is not None:
        some = "" if len(step.checks) == len(skipped) else f" (for {', '.join(step.checks)})"
        return [*paragraph(f"not checked: {names}: give {step.give}{some}", view), *told]
    why = reasons.pop() if len(reasons) == 1 else "why: -v"
    return [*paragraph(f"not checked: {names} ({why})", view), *told]


def _more(result: AuditResult) -> str:
    """Say what else there is."""
    notes = len(result.checkpoint.notes) + sum(each.severity == "note" for each in result.findings)
    parts = ((len(result.components), "component"), (len(result.rules), "rule"), (notes, "note"))
    return ", ".join(count(number, noun) for number, noun in parts if number)
