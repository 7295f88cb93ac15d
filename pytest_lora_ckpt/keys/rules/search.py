"""A short ordered list of rules that turns each key into its goal.

The rules are chosen greedily: the pattern that brings most templates nearer to their goal and none farther away comes
first. What no general pattern can do is done by a rule for the template itself. Applied in order, the result gives
every goal exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys.differences import Difference, differences, distance, join_close
from pytest_lora_ckpt.keys.rules.describe import classify
from pytest_lora_ckpt.keys.rules.known import UNWRAP, known_steps
from pytest_lora_ckpt.keys.rules.rule import Rule
from pytest_lora_ckpt.keys.rules.substitution import Substitution, substitution, substitutions
from pytest_lora_ckpt.vocabulary.lora import PEFT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MOST_ROUNDS = 64
# Beyond so many proposals in one round only those of the most frequent differences are tried.
_MOST_PROPOSALS = 400
# Of more goals than this a sample decides which patterns are worth a trial on all.
_MOST_TRIED = 600
# A pattern tied to the start is easier to read and safer than one that may match anywhere.
_ANCHOR_BONUS = 12
_FACTORS = (("lora_A",), ("lora_B",))
# A name no model has.
_ASIDE = "__aside__"


@dataclass(slots=True)
class Goal:
    """A template on its way: what its keys look like by now, and what they must become.

    Attributes:
        now: The key with symbols for its numbers, after the rules chosen so far.
        then: What it must become, with the same symbols.
        keys: The number of keys of the template.
        example: A real key of the template, changed along with `now`.
    """

    now: str
    then: str
    keys: int
    example: str


def find_rules(goals: Iterable[Goal], *, general: bool = True) -> list[Rule] | None:
    r"""Choose rules for the goals.

    Args:
        goals: One per template of the checkpoint; they are not changed.
        general: Whether to look for rules that serve several templates; else each gets its own.

    Returns:
        The rules, or None where one key would have to become two.

    Example:
        >>> goals = [Goal(f"module.{n}", n, 1, f"module.{n}") for n in ("fc.weight", "fc.bias")]
        >>> [rule.pattern for rule in find_rules(goals)]
        ['^module\\.']
    """
    given = list(goals)
    # People take PEFT's wrapper out first, which is often shorter as well; where it is not, gain alone decides.
    orders = (True, False) if general and any(PEFT_PREFIX in goal.now for goal in given) else (False,)
    lists = [rules for unwrap in orders if (rules := _find_rules(given, general=general, unwrap=unwrap)) is not None]
    return min(lists, key=len, default=None)


def _find_rules(goals: Sequence[Goal], *, general: bool, unwrap: bool) -> list[Rule] | None:
    """Choose rules, PEFT's wrapper first if asked."""
    own = [replace(goal) for goal in goals]
    # `$` matches before a line break as well.
    end = r"\Z" if any("\n" in goal.now for goal in own) else "$"
    rules: list[Rule] = []
    for _ in range(_MOST_ROUNDS if general else 0):
        step = _best_step(own, end, unwrap=unwrap)
        if step is None:
            break
        rules.append(_commit(step, own))
    rules += _exact_rules(own, end)
    return rules if all(goal.now == goal.then for goal in own) else None


def _best_step(goals: Sequence[Goal], end: str, *, unwrap: bool) -> Substitution | None:
    """The step that helps most and harms nothing, or None."""
    open_goals = [goal for goal in goals if goal.now != goal.then]
    sample = goals if len(goals) <= _MOST_TRIED else [*_spread(open_goals), *_spread(goals)]
    ranked: list[tuple[bool, bool, int, int, Substitution]] = []
    gaps: dict[int, int] = {}
    for step in _proposals(open_goals, end):
        gain = _gain(step, sample, gaps)
        if gain > 0:
            # Another library's name for a factor says more alone than joined with its neighbours.
            names_factor = bool(step.difference.old) and step.difference.new[-1:] in _FACTORS
            later = unwrap and step != UNWRAP
            cost = len(step.pattern) - _ANCHOR_BONUS * step.pattern.startswith("^")
            ranked.append((not names_factor, later, -gain, cost, step))
    for *_, step in sorted(ranked):
        harmless = sample is goals or _gain(step, goals, {}) > 0
        if harmless and _keeps_apart(step, goals):
            return step
    return None


def _proposals(open_goals: Sequence[Goal], end: str) -> list[Substitution]:
    """Each step that any of the goals suggests, once."""
    found: dict[tuple[str, str], Substitution] = {}
    ways = [(goal.now, goal.then) for goal in open_goals[:: len(open_goals) // _MOST_TRIED + 1]]
    for step in chain(known_steps(ways), _suggested(ways)):
        tied = step._replace(pattern=_at_end(step.pattern, end))
        found.setdefault((tied.pattern, tied.replacement), tied)
        if len(found) > _MOST_PROPOSALS:
            break
    return list(found.values())


def _suggested(ways: Sequence[tuple[str, str]]) -> Iterator[Substitution]:
    """Propose steps for each single difference between two keys."""
    for now, then in ways:
        single = differences(now.split("."), then.split("."))
        for difference in dict.fromkeys([*single, *join_close(single)]):
            yield from substitutions(difference)


def _spread(goals: Sequence[Goal]) -> Sequence[Goal]:
    """Some goals, taken at even distances."""
    return goals[:: len(goals) // (_MOST_TRIED // 2) + 1]


def _keeps_apart(step: Substitution, goals: Sequence[Goal]) -> bool:
    """Whether keys with different goals stay different."""
    pattern = re.compile(step.pattern)
    then: dict[str, str] = {}
    return all(then.setdefault(pattern.sub(step.replacement, goal.now), goal.then) == goal.then for goal in goals)


def _gain(step: Substitution, goals: Sequence[Goal], gaps: dict[int, int]) -> int:
    """How much nearer a step brings all goals together; 0 if it takes any farther away."""
    pattern = re.compile(step.pattern)
    total = 0
    for at, goal in enumerate(goals):
        after = pattern.sub(step.replacement, goal.now)
        if after == goal.now:
            continue
        target = goal.then.split(".")
        if at not in gaps:
            gaps[at] = distance(goal.now.split("."), target)
        nearer = gaps[at] - distance(after.split("."), target)
        if nearer <= 0:
            return 0
        total += nearer
    return total


def _commit(step: Substitution, goals: Iterable[Goal]) -> Rule:
    """Take a step with all goals, and write it down as a rule."""
    pattern = re.compile(step.pattern)
    keys = 0
    examples: list[tuple[str, str]] = []
    for goal in goals:
        after = pattern.sub(step.replacement, goal.now)
        if after != goal.now:
            examples.append((goal.example, pattern.sub(step.replacement, goal.example)))
            keys += goal.keys
            goal.now, goal.example = after, examples[-1][1]
    kind, by, text = classify(step)
    return Rule(kind, step.pattern, step.replacement, by, keys, min(examples), text)


def _exact_rules(goals: Sequence[Goal], end: str) -> list[Rule]:
    """One rule for each template that is still on its way, ordered so that none undoes another."""
    standing: dict[str, list[Goal]] = {}
    for goal in goals:
        standing.setdefault(goal.now, []).append(goal)
    if any(goal.then != own[0].then for own in standing.values() for goal in own):
        return []
    waiting = {now: own[0].then for now, own in standing.items() if own[0].then != now}
    rules: list[Rule] = []
    while waiting:
        ready = sorted(now for now, then in waiting.items() if then not in waiting)
        rules += [_whole_key(now, waiting.pop(now), standing[now], end) for now in ready]
        if waiting and not ready:
            # Names that change places: one steps aside first.
            now = min(waiting)
            aside = f"{now}.{_ASIDE}"
            rules.append(_whole_key(now, aside, standing[now], end))
            waiting[aside], standing[aside] = waiting.pop(now), standing[now]
    return rules


def _whole_key(before: str, after: str, goals: Sequence[Goal], end: str) -> Rule:
    step = substitution(Difference((), tuple(before.split(".")), tuple(after.split(".")), ()), 0, 0)
    return _commit(step._replace(pattern=_at_end(step.pattern, end)), goals)


def _at_end(pattern: str, end: str) -> str:
    """Tie a pattern to the very end where a key holds a line break, before which `$` matches too."""
    return pattern if end == "$" else re.sub(r"(?<!\\)\$", lambda _: end, pattern)
