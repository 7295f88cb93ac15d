"""A score as lines for the terminal: the table, what it comes to, and the lines to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.scoring.advice import LINES
from pytest_lora_ckpt.scoring.score import LoaderScore
from pytest_lora_ckpt.wording import wrap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_HEAD = ("fault", "seen by", "loader", "output", "gate")
_CAUSES = 2
# What nobody was told of comes first: it is what there is to do.
_ORDER = ("hung", "silent", "exited", "warned", "raised")


def render_score(score: LoaderScore | Mapping[str, Any]) -> Iterator[str]:
    r"""Give the lines of a score: a table with the silent loads first, the two scores, and the lines to write.

    Args:
        score: What `score_loader` gives, or its `to_dict()`.

    Example:
        >>> from pytest_lora_ckpt.faults import FAULTS
        >>> from pytest_lora_ckpt.scoring import Gate, Load, LoaderScore, Row, Trial
        >>> gate = Gate("caught", checks=("values",), causes=("nan-or-inf",))
        >>> trial = Trial(Load("silent"), "changed", same_model=False, gate=gate, lines="complete")
        >>> print(*render_score(LoaderScore("load", "last.ckpt", (Row(FAULTS["nan"], trial),))), sep="\n")
        fault  seen by  loader  output   gate
        nan    file     silent  changed  nan-or-inf
        load notices 0 of 1 faults (0%).
        The checks of --lora-ckpt catch 1 of 1 (100%).
        1 loads in silence. What would notice it:
          the file before it is loaded: nan
            assert_lora_complete(open_checkpoint(path))
    """
    told = score.to_dict() if isinstance(score, LoaderScore) else score
    rows = sorted(told["rows"], key=_place)
    yield from _table([_HEAD, *(_cells(row) for row in rows)])
    yield f"{told['loader']} notices {told['noticed']} of {told['counted']} faults{_percent(told['score'])}."
    yield f"The checks of --lora-ckpt catch {told['caught']} of {told['gated']}{_percent(told['gate_score'])}."
    yield from _groups(rows)
    yield from _advice(rows)
    for note in told["notes"]:
        yield from wrap(f"note: {note}")


def _place(row: Mapping[str, Any]) -> tuple[bool, bool, bool, bool, int]:
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
    # A file that cannot be read has no cause beside.
    causes = row["causes"] or row["checks"]
    more = f" +{len(causes) - _CAUSES}" if len(causes) > _CAUSES else ""
    told = f"{', '.join(causes[:_CAUSES])}{more}"
    return f"warns: {told}" if row["gate"] == "warned" else told


def _table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _groups(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    counted = [row for row in rows if row["accepted"] is None]
    for verdict, told in (("missed", "Neither notices"), ("warned", "Nothing but a warning of the checks tells of")):
        if named := [row["fault"] for row in counted if _is_unnoticed(row) and row["gate"] == verdict]:
            yield from wrap(f"{told}: {', '.join(named)}.")
    if coped := sum(row["unharmed"] for row in counted):
        yield f"Not counted: {coped} with which it copes, for the model is the healthy one all the same."
    for row in rows:
        if row["accepted"] is not None:
            yield from wrap(f"Accepted: {row['fault']} ({row['accepted']}).")


def _advice(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    silent = [row for row in rows if _is_unnoticed(row) and row["accepted"] is None]
    if not silent:
        return
    yield (
        f"{len(silent)} loads in silence. What would notice it:"
        if len(silent) == 1
        else (f"{len(silent)} load in silence. What would notice them:")
    )
    yield from advise(silent)


def advise(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Give the lines to write, grouped: which faults each of them notices, and the code."""
    for slug, lines in LINES.items():
        if named := [row["fault"] for row in rows if row["lines"] == slug]:
            yield from wrap(f"{lines.what}: {', '.join(named)}", "    ", first="  ")
            yield from (f"    {line}" for line in lines.code)


def _is_unnoticed(row: Mapping[str, Any]) -> bool:
    return not row["noticed"] and not row["unharmed"]


def _percent(share: float | None) -> str:
    # Rounded down: 99.6% is not all of them.
    return "" if share is None else f" ({int(100 * share)}%)"
