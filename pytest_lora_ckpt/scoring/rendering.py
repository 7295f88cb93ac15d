"""A score as lines for the terminal: the table, the sums, and the lines to add to the loader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.scoring.advice import LINES
from pytest_lora_ckpt.scoring.score import LoaderScore
from pytest_lora_ckpt.wording import count, table, wrap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_HEAD = ("fault", "seen by", "loader", "output", "gate")
_CAUSES = 2
# What nobody could know comes first: there is something to do.
_ORDER = ("hung", "silent", "exited", "warned", "raised")


def render_score(score: LoaderScore | Mapping[str, Any]) -> Iterator[str]:
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
    rows = sorted(data["rows"], key=_urgency)
    yield from table([_HEAD, *map(_cells, rows)], indent="", numbers=False)
    yield f"{data['loader']} notices {data['noticed']} of {data['counted']} faults{_percent(data['score'])}."
    yield f"The checks of --lora-ckpt catch {data['caught']} of {data['gated']}{_percent(data['gate_score'])}."
    counted = [row for row in rows if row["accepted"] is None]
    unnoticed = [row for row in counted if not row["noticed"] and not row["unharmed"]]
    for verdict, what in (("missed", "Not noticed by either"), ("warned", "Noticed only by a warning of the checks")):
        if named := [row["fault"] for row in unnoticed if row["gate"] == verdict]:
            yield from wrap(f"{what}: {', '.join(named)}.")
    if coped := sum(row["unharmed"] for row in counted):
        yield f"Not counted: {coped} with which it copes, since the model is the healthy one all the same."
    for row in rows:
        if row["accepted"] is not None:
            yield from wrap(f"Accepted: {row['fault']} ({row['accepted']}).")
    if unnoticed:
        verb, them = ("loads", "it") if len(unnoticed) == 1 else ("load", "them")
        yield f"{count(len(unnoticed), 'fault')} {verb} silently. What would notice {them}:"
        yield from advise(unnoticed)
    for note in data["notes"]:
        yield from wrap(f"note: {note}")


def advise(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Return the lines to add, grouped: the faults that each of them notices, and the code."""
    for slug, lines in LINES.items():
        if named := [row["fault"] for row in rows if row["lines"] == slug]:
            yield from wrap(f"{lines.what}: {', '.join(named)}", "    ", first="  ")
            yield from (f"    {line}" for line in lines.code)


def _urgency(row: Mapping[str, Any]) -> tuple[bool, bool, bool, bool, int]:
    caught = row["gate"] not in {"missed", "warned"}
    return (row["accepted"] is not None, row["unharmed"], row["noticed"], caught, _ORDER.index(row["loader"]))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    mark = " (accepted)" if row["accepted"] is not None else ""
    loader = "copes" if row["unharmed"] else row["loader"]
    return (row["fault"], row["seen"], f"{loader}{mark}", row["output"], _gate(row))


def _gate(row: Mapping[str, Any]) -> str:
    if row["gate"] == "n/a":
        return "n/a without manifest"
    if row["gate"] == "missed":
        return "-" if row["unharmed"] else "missed"
    # A file that cannot be read fails a check without a cause.
    causes = row["causes"] or row["checks"]
    more = f" +{len(causes) - _CAUSES}" if len(causes) > _CAUSES else ""
    shown = f"{', '.join(causes[:_CAUSES])}{more}"
    return f"warns: {shown}" if row["gate"] == "warned" else shown


def _percent(share: float | None) -> str:
    # Rounded down: 99.6% is not all of them.
    return "" if share is None else f" ({int(100 * share)}%)"
