"""A score as lines for the terminal: the table, the sums, and the lines to add to the loader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.render.lines import Line, View, lines, paragraph
from pytest_lora_ckpt.scoring.advice import LINES
from pytest_lora_ckpt.scoring.score import LoaderScore
from pytest_lora_ckpt.wording import count, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.auditing.render.lines import Role
    from pytest_lora_ckpt.wording import SafeText

_HEAD = ("fault", "seen by", "loader", "output", "gate")
_CAUSES = 2
# What nobody could know comes first: there is something to do.
_ORDER = ("hung", "silent", "exited", "warned", "raised")


def render_score(score: LoaderScore | Mapping[str, Any]) -> Iterator[SafeText]:
    r"""Return the lines of a score: a table with the silent loads first, the two scores, and the lines to add.

    Args:
        score: What `score_loader` returns, or its `to_dict()`.

    Example:
        >>> from pytest_lora_ckpt.faults import FAULTS
        >>> from pytest_lora_ckpt.scoring import CheckVerdict, Load, LoaderScore, Row, Trial
        >>> gate = CheckVerdict("caught", checks=("values",), causes=("nan-or-inf",))
        >>> trial = Trial(Load("silent"), "changed", same_model=False, gate=gate, lines="complete")
        >>> print(*render_score(LoaderScore("load", "last.ckpt", (Row(FAULTS["nan"], trial),))), sep="\n")
        fault  seen by  loader  output   gate
        nan    file     silent  changed  nan-or-inf
        load notices 0 of 1 faults (0%).
        The checks of --lora-ckpt catch 1 of 1 (100%).
        1 fault loads silently. What would notice it:
          the file before it is loaded: nan
            assert_lora_complete(open_checkpoint(path))
    """
    data = score.to_dict() if isinstance(score, LoaderScore) else score
    return (each.text for each in score_lines(data, View()))


def score_lines(data: Mapping[str, Any], view: View) -> Iterator[Line]:
    """Return the same as lines of a view.

    Args:
        data: What `LoaderScore.to_dict()` gave.
        view: How it is shown.
    """
    rows = sorted(data["rows"], key=_urgency)
    head, *shown = table(_cells(rows, view), indent="", numbers=False)
    yield Line(head)
    yield from (Line(text, _role(row)) for text, row in zip(shown, rows, strict=True))
    yield from paragraph(
        f"{data['loader']} notices {data['noticed']} of {data['counted']} faults{_percent(data['score'])}.", view
    )
    yield from paragraph(
        f"The checks of --lora-ckpt catch {data['caught']} of {data['gated']}{_percent(data['gate_score'])}.", view
    )
    counted = [row for row in rows if row["accepted"] is None]
    unnoticed = [row for row in counted if not row["noticed"] and not row["unharmed"]]
    for verdict, what in (("missed", "Not noticed by either"), ("warned", "Noticed only by a warning of the checks")):
        if named := [row["fault"] for row in unnoticed if row["gate"] == verdict]:
            yield from paragraph(f"{what}: {', '.join(named)}.", view)
    if coped := sum(row["unharmed"] for row in counted):
        told = f"Not counted: {coped} with which it copes, since the model is the healthy one all the same."
        yield from paragraph(told, view)
    for row in rows:
        if row["accepted"] is not None:
            yield from paragraph(f"Accepted: {row['fault']} ({row['accepted']}).", view)
    if unnoticed:
        verb, them = ("loads", "it") if len(unnoticed) == 1 else ("load", "them")
        yield from paragraph(f"{count(len(unnoticed), 'fault')} {verb} silently. What would notice {them}:", view)
        yield from _advice(unnoticed, view)
    for note in data["notes"]:
        yield from paragraph(f"note: {note}", view)


def advise(rows: Sequence[Mapping[str, Any]]) -> Iterator[SafeText]:
    """Return the lines to add, grouped: the faults that each of them notices, and the code."""
    return (each.text for each in _advice(rows, View()))


def _advice(rows: Sequence[Mapping[str, Any]], view: View) -> Iterator[Line]:
    for slug, given in LINES.items():
        if named := [row["fault"] for row in rows if row["lines"] == slug]:
            yield from paragraph(f"{given.what}: {', '.join(named)}", view, first="  ", indent="    ")
            yield from lines((f"    {each}" for each in given.code), "remedy")


def _urgency(row: Mapping[str, Any]) -> tuple[bool, bool, bool, bool, int]:
    caught = row["gate"] not in {"missed", "warned"}
    return (row["accepted"] is not None, row["unharmed"], row["noticed"], caught, _ORDER.index(row["loader"]))


def _role(row: Mapping[str, Any]) -> Role:
    """Say how grave a fault is: one that neither notices, one that the loader does not, one that comes to light."""
    if row["noticed"] or row["unharmed"] or row["accepted"] is not None:
        return "plain"
    return "error" if row["gate"] == "missed" else "warning"


def _cells(rows: Sequence[Mapping[str, Any]], view: View) -> list[tuple[str, ...]]:
    cells = [_HEAD[:-1]]
    for row in rows:
        mark = " (accepted)" if row["accepted"] is not None else ""
        loader = "copes" if row["unharmed"] else row["loader"]
        cells.append((row["fault"], row["seen"], f"{loader}{mark}", row["output"]))
    room = view.width - sum(max(map(len, column)) + 2 for column in zip(*cells, strict=True))
    gates = [_HEAD[-1], *(_fitting_gate(row, room) for row in rows)]
    return [(*each, gate) for each, gate in zip(cells, gates, strict=True)]


def _fitting_gate(row: Mapping[str, Any], room: int) -> str:
    whole = _gate(row, _CAUSES)
    return whole if len(whole) <= room else _gate(row, 1)


def _gate(row: Mapping[str, Any], most: int) -> str:
    if row["gate"] == "n/a":
        return "n/a without manifest"
    if row["gate"] == "missed":
        return "-" if row["unharmed"] else "missed"
    # A file that cannot be read fails a check without a cause.
    causes = row["causes"] or row["checks"]
    more = f" +{len(causes) - most}" if len(causes) > most else ""
    shown = f"{', '.join(causes[:most])}{more}"
    return f"warns: {shown}" if row["gate"] == "warned" else shown


def _percent(share: float | None) -> str:
    # Rounded down: 99.6% is not all of them.
    return "" if share is None else f" ({int(100 * share)}%)"
