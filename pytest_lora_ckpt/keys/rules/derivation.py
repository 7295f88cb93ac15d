"""From pairs of keys to a short ordered list of rules that turns each first key into its second, and harms no other.

The rules are chosen greedily: the pattern that brings most templates nearer to their goal and none farther away comes
first. What no general pattern can do is done by a rule for the template itself. Applied in order, the result gives
every pair exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from pytest_lora_ckpt.keys.rules.describe import classify
from pytest_lora_ckpt.keys.rules.edits import Candidate, Edit, candidates, distance, edits, joined_edits, pattern_for
from pytest_lora_ckpt.keys.rules.rule import Rule
from pytest_lora_ckpt.keys.rules.usual import PEFT_WRAPPER, UNWRAP, usual_candidates

Propose: TypeAlias = Callable[[Sequence[str], Sequence[str]], Iterator[Candidate]]

_MOST_ROUNDS = 64
# Beyond so many proposals in one round only those of the most frequent edits are tried.
_MOST_PROPOSALS = 400
# Of more goals than this a sample decides which patterns are worth a trial on all.
_MOST_TRIED = 600
# A pattern tied to the start is easier to read and safer than one that may match anywhere.
_ANCHOR_BONUS = 12
# A name no model has.
_ASIDE = "__aside__"


def proposed(source: Sequence[str], target: Sequence[str]) -> Iterator[Candidate]:
    """Propose patterns for each single difference between two keys."""
    changes = edits(source, target)
    close = joined_edits(changes)
    for edit in changes if close == changes else [*changes, *close]:
        yield from candidates(edit)


@dataclass(slots=True)
class Goal:
    """A template on its way: what its keys look like by now, and what they must become.

    Attributes:
        now: The key with symbols for its numbers, after the rules chosen so far.
        then: What it must become, with the same symbols; None where it may become anything but a model key.
        keys: The number of keys of the template.
        example: A real key of the template, changed along with `now`.
    """

    now: str
    then: str | None
    keys: int
    example: str


def derive_rules(
    goals: Iterable[Goal],
    *,
    general: bool = True,
    exact: bool = True,
    complete: bool = False,
    proposals: Propose = proposed,
) -> list[Rule] | None:
    r"""Choose rules for the goals.

    Args:
        goals: One per template of the checkpoint; they are not changed.
        general: Whether to look for rules that serve several templates; else each gets its own.
        exact: Whether a template that no such rule serves may get its own.
        complete: Whether each rule must do all that a key needs.
        proposals: Proposes patterns for the way from one key to another.

    Returns:
        The rules, or None if these goals cannot be met in this way.

    Example:
        >>> goals = [Goal(f"module.{n}", n, 1, f"module.{n}") for n in ("fc.weight", "fc.bias")]
        >>> [rule.pattern for rule in derive_rules(goals)]
        ['^module\\.']
    """
    given = list(goals)
    # Taking PEFT's wrapper out first, as people would, is often shorter; where it is not, gain alone decides.
    orders = (True, False) if general and not complete and any(PEFT_WRAPPER in goal.now for goal in given) else (False,)
    found = []
    for unwrap_first in orders:
        own = [Goal(goal.now, goal.then, goal.keys, goal.example) for goal in given]
        bound = [goal for goal in own if goal.then is not None]
        end = r"\Z" if any("\n" in goal.now for goal in own) else "$"
        rules: list[Rule] = []
        for _ in range(_MOST_ROUNDS if general else 0):
            choice = _best(bound, end, proposals, complete=complete, unwrap_first=unwrap_first)
            if choice is None:
                break
            rules.append(_commit(choice, own))
        if exact:
            rules += _exact(own, bound, end)
        if all(goal.now == goal.then for goal in bound):
            found.append(rules)
    return min(found, key=len, default=None)


def _best(bound: Sequence[Goal], end: str, propose: Propose, *, complete: bool, unwrap_first: bool) -> Candidate | None:
    """The candidate that helps most and harms nothing, or None."""
    open_goals = [goal for goal in bound if goal.now != goal.then]
    sample = bound if len(bound) <= _MOST_TRIED else _spread(open_goals, bound)
    ranked: list[tuple[tuple[bool, int, int, str], Candidate]] = []
    gaps: dict[int, int] = {}
    for candidate in _proposals(open_goals, end, propose, usual=not complete):
        gain = _gain(candidate, sample, gaps, complete=complete)
        if gain > 0:
            cost = len(candidate.pattern) - _ANCHOR_BONUS * candidate.pattern.startswith("^")
            later = unwrap_first and candidate.pattern != UNWRAP
            rank = (later, -gain, cost, candidate.pattern + "\0" + candidate.replacement)
            ranked.append((rank, candidate))
    for _, candidate in sorted(ranked, key=lambda item: item[0]):
        harmless = sample is bound or _gain(candidate, bound, {}, complete=complete) > 0
        if harmless and _keeps_apart(candidate, bound):
            return candidate
    return None


def _proposals(open_goals: Sequence[Goal], end: str, propose: Propose, *, usual: bool) -> list[Candidate]:
    """Each pattern that any of the goals suggests, once."""
    found: dict[tuple[str, str], Candidate] = {}
    ways = [(goal.now, goal.then or "") for goal in open_goals[:: len(open_goals) // _MOST_TRIED + 1]]
    every = chain(
        usual_candidates(ways) if usual else (),
        (candidate for now, then in ways for candidate in propose(now.split("."), then.split("."))),
    )
    for candidate in every:
        fitted = candidate._replace(pattern=_at_end(candidate.pattern, end))
        found.setdefault((fitted.pattern, fitted.replacement), fitted)
        if len(found) > _MOST_PROPOSALS:
            break
    return list(found.values())


def _spread(open_goals: Sequence[Goal], bound: Sequence[Goal]) -> list[Goal]:
    """Some goals of all, taken at even distances."""
    half = _MOST_TRIED // 2
    return [*open_goals[:: len(open_goals) // half + 1], *bound[:: len(bound) // half + 1]]


def _keeps_apart(candidate: Candidate, bound: Sequence[Goal]) -> bool:
    """Whether keys with different goals stay different."""
    pattern = re.compile(candidate.pattern)
    goals: dict[str, str | None] = {}
    return all(goals.setdefault(pattern.sub(candidate.replacement, goal.now), goal.then) == goal.then for goal in bound)


def _gain(candidate: Candidate, bound: Sequence[Goal], gaps: dict[int, int], *, complete: bool) -> int:
    """How much nearer the candidate brings all goals together; 0 if it takes any farther away."""
    pattern = re.compile(candidate.pattern)
    total = 0
    for at, goal in enumerate(bound):
        after = pattern.sub(candidate.replacement, goal.now)
        if after == goal.now:
            continue
        target = (goal.then or "").split(".")
        if at not in gaps:
            gaps[at] = distance(goal.now.split("."), target)
        step = gaps[at] - distance(after.split("."), target)
        if step <= 0 or (complete and after != goal.then):
            return 0
        total += step
    return total


def _commit(candidate: Candidate, goals: Sequence[Goal]) -> Rule:
    """Apply the candidate to all goals and write it down as a rule."""
    pattern = re.compile(candidate.pattern)
    keys = 0
    example: tuple[str, str] | None = None
    for goal in goals:
        after = pattern.sub(candidate.replacement, goal.now)
        if after == goal.now:
            continue
        real = pattern.sub(candidate.replacement, goal.example)
        if goal.then is not None:
            keys += goal.keys
            example = min(example, (goal.example, real)) if example else (goal.example, real)
        goal.now, goal.example = after, real
    kind, by, text = classify(candidate)
    return Rule(kind, candidate.pattern, candidate.replacement, by, keys, example or ("", ""), text)


def _exact(goals: Sequence[Goal], bound: Sequence[Goal], end: str) -> list[Rule]:
    """One rule for each template that is still on its way, ordered so that none undoes another."""
    waiting: dict[str, list[Goal]] = {}
    wanted_by: dict[str, list[str]] = {}
    for goal in bound:
        if goal.now != goal.then:
            waiting.setdefault(goal.now, []).append(goal)
            wanted_by.setdefault(goal.then or "", []).append(goal.now)
    standing: dict[str, list[Goal]] = {}
    for goal in goals:
        standing.setdefault(goal.now, []).append(goal)
    rules: list[Rule] = []
    ready = sorted((now for now, own in waiting.items() if own[0].then not in waiting), reverse=True)
    while waiting:
        if not ready:
            # Names that change places: one steps aside first.
            now = min(waiting)
            rules.append(_move(now, f"{now}.{_ASIDE}", standing.get(now, ()), end))
            waiting[f"{now}.{_ASIDE}"] = standing[f"{now}.{_ASIDE}"] = waiting.pop(now)
            ready = [one for one in wanted_by.get(now, ()) if one in waiting]
            wanted_by.setdefault(waiting[f"{now}.{_ASIDE}"][0].then or "", []).append(f"{now}.{_ASIDE}")
            continue
        now = ready.pop()
        if now not in waiting:
            continue
        rules.append(_move(now, waiting.pop(now)[0].then or "", standing.get(now, ()), end))
        ready += sorted((one for one in wanted_by.get(now, ()) if one in waiting), reverse=True)
    return rules


def _move(before: str, after: str, goals: Sequence[Goal], end: str) -> Rule:
    candidate = pattern_for(Edit((), tuple(before.split(".")), tuple(after.split(".")), ()), 0, 0)
    return _commit(candidate._replace(pattern=_at_end(candidate.pattern, end)), goals)


def _at_end(pattern: str, end: str) -> str:
    """Tie a pattern to the very end where a key holds a line break, before which `$` matches too."""
    return pattern if end == "$" else re.sub(r"(?<!\\)\$", lambda _: end, pattern)
