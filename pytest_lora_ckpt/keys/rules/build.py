"""From the pairs of keys to rules: one goal per template, and a check of the rules on the keys themselves."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys.rules.search import Goal, find_rules
from pytest_lora_ckpt.keys.rules.substitution import symbol

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from pytest_lora_ckpt.keys.matching.pairs import Link, Pairs
    from pytest_lora_ckpt.keys.rules.rule import Rule
    from pytest_lora_ckpt.keys.templates import Template

# So many keys of each template are put through the rules as a proof; all of them in a checkpoint of usual size.
_PROOFS_PER_TEMPLATE = 64
_PROVE_ALL_BELOW = 20_000
# Numbers between dots or underscores: flattened names keep theirs so.
_ANY_NUMBER = re.compile(r"(?<![^._])[0-9]+(?![^._])")


def rules_for(sources: Sequence[Template], model_keys: Container[str], pairs: Pairs) -> list[Rule]:
    """Derive rules that turn each checkpoint key into its model key and no other key into one."""
    apart: set[int] = set()
    held: set[int] = set()
    rules: list[Rule] = []
    for general in (True, True, True, False):
        derived = find_rules(_goals(sources, pairs, apart, held), general=general)
        if derived is None:
            apart |= {at for at, links in pairs.links.items() if len(links) > 1}
            continue
        rules = derived
        wrong = list(_wrong(rules, sources, model_keys, pairs))
        if not wrong:
            return rules
        apart |= {at for at in wrong if at in pairs.links}
        held |= {at for at in wrong if at not in pairs.links}
    if sum(len(source.members) for source in sources) <= _PROVE_ALL_BELOW:
        # Names that no pattern distinguishes: one rule for each key.
        every = (key for source in sources for key in source.members.values())
        single = (Goal(key, goal, 1, key) for key in every if (goal := pairs.goal(key)) is not None)
        rules = find_rules(single, general=False) or rules
    return rules


def _goals(sources: Sequence[Template], pairs: Pairs, apart: set[int], held: set[int]) -> Iterator[Goal]:
    """One goal per template, or per key where a template's keys go different ways."""
    for at, source in enumerate(sources):
        links = pairs.links.get(at)
        if links is None:
            if at in held:
                yield from flat_goals({key: key for key in source.members.values()})
            continue
        if len(links) == 1 and at not in apart:
            link = links[0]
            symbols = tuple(source.named(at) or symbol(at) for at in range(len(source.names) - 1))
            now, then = source.key(symbols), link.target.key(link.mapped(symbols))
            yield Goal(now, then, len(link.members), source.members[min(link.members)])
        else:
            yield from _split_goals(source, links)
    yield from flat_goals(dict(_flat_pairs(sources, pairs)), pairs.symbolic)


def _flat_pairs(sources: Sequence[Template], pairs: Pairs) -> Iterator[tuple[str, str]]:
    """The pairs that were found key by key."""
    for at, source in enumerate(sources):
        if at not in pairs.links:
            for key in source.members.values():
                goal = pairs.goal(key)
                if goal is not None:
                    yield key, goal


def _split_goals(source: Template, links: Sequence[Link]) -> Iterator[Goal]:
    """Goals by the value of one number, if that distinguishes the links; else by key."""
    unlinked = set(source.members) - {indices for link in links for indices in link.members}
    places = len(source.names) - 1
    for place in range(places):
        values = [{indices[place] for indices in link.members} for link in links]
        rest = {indices[place] for indices in unlinked}
        if sum(map(len, values)) + len(rest) == len(set().union(rest, *values)):
            break
    else:
        for link in links:
            for indices in link.members:
                key = source.members[indices]
                yield Goal(key, link.target.key(link.mapped(indices)), 1, key)
        return
    for link, own in zip(links, values, strict=True):
        for value in sorted(own, key=lambda digits: (len(digits), digits)):
            members = [indices for indices in link.members if indices[place] == value]
            symbols = tuple(value if at == place else symbol(at) for at in range(places))
            now, then = source.key(symbols), link.target.key(link.mapped(symbols))
            yield Goal(now, then, len(members), source.members[min(members)])


def flat_goals(pairs: Mapping[str, str], symbolic: Mapping[str, tuple[str, str]] | None = None) -> Iterator[Goal]:
    """Goals for single keys, joined where they differ only in numbers that carry over in order."""
    joined: dict[str, Goal] = {}
    split: set[str] = set()
    ways: dict[str, str] = {}
    for key, goal in sorted(pairs.items()):
        if symbolic is not None and key in symbolic:
            now, then = symbolic[key]
        elif _ANY_NUMBER.findall(key) == _ANY_NUMBER.findall(goal):
            now, then = _symbolic(key), _symbolic(goal)
        else:
            now, then = key, goal
        ways[key] = now
        if now in joined and joined[now].then != then:
            split.add(now)
        joined.setdefault(now, Goal(now, then, 0, key)).keys += 1
    for key, now in ways.items():
        if now in split:
            yield Goal(key, pairs[key], 1, key)
    yield from (goal for now, goal in joined.items() if now not in split)


def _symbolic(key: str) -> str:
    count = iter(range(len(key)))
    return _ANY_NUMBER.sub(lambda _: symbol(next(count)), key)


def _wrong(
    rules: Sequence[Rule], sources: Sequence[Template], model_keys: Container[str], pairs: Pairs
) -> Iterator[int]:
    """The templates whose keys the rules do not take where they must."""
    prove_all = sum(len(source.members) for source in sources) <= _PROVE_ALL_BELOW
    for at, source in enumerate(sources):
        members = source.members.values()
        for key in members if prove_all else islice(members, _PROOFS_PER_TEMPLATE):
            now = key
            for rule in rules:
                now = rule.apply(now)
            goal = pairs.goal(key)
            if now != goal and (goal is not None or now in model_keys):
                yield at
                break
