"""A run as lines for pytest's terminal summary: what it is, what loads, the verdict, and what to do."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.wording import group_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_WIDTH = 100
_KEY_GROUPS = 4
_COMPONENTS = 20
_MEANING = {
    "loads": "everything loads under its own name",
    "loads-after-remap": "everything loads once the keys are renamed",
    "partial": "even after renaming, something has no home or no source",
    "noop": "the adapter changes nothing",
    "incompatible": "names meet, shapes do not",
    "not-compared": "there was no model or loader to compare with",
}

# Checks on the loaded model: what they found is worth reading when they pass as well.
_TOLD = ("loaded", "base-untouched", "adapter-active", "generate", "manifest")

_WHO = {"torch": "nothing to do", "peft": "PEFT's loader does it", "you": "your loader must"}


def render_run(run: Mapping[str, Any]) -> Iterator[str]:
    """Give the section's lines of one run (a run of the JSON report).

    Example:
        >>> run = {"checkpoint": {"path": "a.ckpt", "layout": None}, "verdict": "not-compared", "checks": []}
        >>> list(render_run(run))
        ['a.ckpt', 'verdict: not-compared (there was no model or loader to compare with)']
    """
    checkpoint = run["checkpoint"]
    yield str(checkpoint["path"])
    if checkpoint["layout"] is not None:
        yield from _about(checkpoint)
    yield from _components(run.get("components", ()), compared=run.get("remapped") is not None)
    if run.get("remapped") is not None:
        yield _state("as is", run["as_is"])
        yield from _rules(run.get("rules", ()))
        yield _state("after remapping", run["remapped"])
    yield f"verdict: {run['verdict']} ({_MEANING[run['verdict']]})"
    for check in run.get("checks", ()):
        if check["name"] in _TOLD and check["outcome"] == "passed":
            yield from _wrapped(f"{check['name']}: {check['summary']}", "  ")
    told: set[str] = set()
    for finding in run.get("findings", ()):
        yield from _finding(finding, with_remedy=finding["remedy"] not in told)
        told.add(finding["remedy"])
    for check in run.get("checks", ()):
        if check["outcome"] == "skipped":
            yield from _wrapped(f"not checked: {check['name']} ({check['summary']})", "  ")


def _about(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    parts = [checkpoint["layout"], checkpoint["format"], f"{checkpoint['keys']} keys", size(checkpoint["bytes"])]
    if checkpoint["stage"]:
        parts.append(f"stage {checkpoint['stage']}")
    yield " · ".join(parts)
    for name, adapter in checkpoint["adapters"].items():
        rank, alpha = adapter["rank"], adapter["alpha"]
        told = f"rank {rank}" if alpha is None else f"rank {rank}, alpha {alpha:g}"
        yield f"adapter {name}: {told}, {adapter['modules']} modules"
    if checkpoint["envelope"]:
        yield from _wrapped(f"beside the state dict: {', '.join(checkpoint['envelope'])}", "  ")
    for note in checkpoint["notes"]:
        yield from _wrapped(f"note: {note}", "  ")


def _components(rows: Sequence[Mapping[str, Any]], *, compared: bool) -> Iterator[str]:
    if not rows:
        return
    table = [["component", "in file", *(["in model", "as is", "remapped"] if compared else [])]]
    for row in rows[:_COMPONENTS]:
        cells = [_component(row), str(row["in_file"])]
        if compared:
            excused = f" ({row['excused']} excused)" if row["excused"] else ""
            cells += [str(row["in_model"]), str(row["as_is"]), f"{row['remapped']}{excused}"]
        table.append(cells)
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        numbers = "  ".join(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        yield f"  {line[0].ljust(widths[0])}  {numbers}".rstrip()
    if left := rows[_COMPONENTS:]:
        yield f"  … and {len(left)} more, with {sum(row['in_file'] for row in left)} keys in the file"


def _component(row: Mapping[str, Any]) -> str:
    name = _clip(row["name"] or "(top)", _WIDTH // 2)
    return f"{name} LoRA" if row["lora"] else name


def _rules(rules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for number, rule in enumerate(rules, 1):
        yield _clip(f"  {number}. {rule['rule']} ({_keys(rule['keys'])}, {_WHO[rule['by']]})", 2 * _WIDTH)
        if rule["by"] != "torch":
            yield _clip(f"     {rule['example'][0]} -> {rule['example'][1]}", 2 * _WIDTH)
    if any(rule["by"] == "you" for rule in rules):
        yield "  before load_state_dict:"
        yield "    import re"
        yield "    def rename(key):"
        for rule in rules:
            yield f"        key = re.sub({_literal(rule['pattern'])}, {_literal(rule['replacement'])}, key)"
        yield "        return key"
        yield "    state_dict = {rename(key): tensor for key, tensor in state_dict.items()}"


def _literal(text: str) -> str:
    """Write a pattern as people do: a raw string where that says the same."""
    plain = text.isprintable() and '"' not in text and not text.endswith("\\")
    return f'r"{text}"' if plain and "\\" in text else f'"{text}"' if plain else repr(text)


def _keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count} keys"


def _state(when: str, state: Mapping[str, Any]) -> str:
    misfits = f" · other shape {state['shape_mismatches']}" if state["shape_mismatches"] else ""
    return (
        f"{when}: loaded {state['loaded']} · missing {_classes(state['missing'])} · "
        f"unexpected {_classes(state['unexpected'])}{misfits}"
    )


def _classes(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    told = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return f"{total} ({told})" if total else "0"


def _finding(finding: Mapping[str, Any], *, with_remedy: bool) -> Iterator[str]:
    yield from _wrapped(f"{finding['severity']}: {finding['message']} [{finding['cause']}]", "    ")
    if finding["severity"] != "note":
        for pattern, count in group_keys(finding["keys"], limit=_KEY_GROUPS):
            yield f"    {count:>5} {_clip(pattern)}"
    if with_remedy:
        yield from _wrapped(f"-> {finding['remedy']}", "     ", first="  ")


def _wrapped(text: str, indent: str, *, first: str = "") -> Sequence[str]:
    shown = " ".join(_clip(word) for word in text.split())
    return textwrap.wrap(
        shown, _WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _clip(pattern: str, width: int = _WIDTH) -> str:
    """Keep a line a line: keys may hold control characters, and be thousands of characters long."""
    shown = pattern if pattern.isprintable() else pattern.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"


def size(nbytes: int) -> str:
    """Write a number of bytes for people.

    Example:
        >>> size(512), size(4_294_967_296)
        ('512 B', '4.0 GiB')
    """
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":  # noqa: PLR2004  # The step from one unit to the next.
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
