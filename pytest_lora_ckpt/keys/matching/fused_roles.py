"""Modules that one library has once and another several times, by their roles in the libraries' rows.

Such a module has no place in the model, and says nothing about where its neighbours go.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from pytest_lora_ckpt.keys.conventions import senses
from pytest_lora_ckpt.keys.matching.fusion import kind_of_fusion
from pytest_lora_ckpt.keys.matching.spoken import spoken
from pytest_lora_ckpt.vocabulary.conventions import FUSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_lora_ckpt.keys.templates import Template

_Kind: TypeAlias = "tuple[bool, frozenset[str]]"
_WHOLE_OF = {part: whole for whole, parts in FUSED.items() for part in parts}
# Whose first axis is the width that comes out.
_OUTPUTS = frozenset({"B", "weight", "bias"})


class FusedRoles:
    """Which templates of each side are one for several of the other, or one of several for one.

    Attributes:
        sources: Positions of those of the checkpoint.
        targets: Names of those of the model.
    """

    def __init__(self, sources: Sequence[Template], targets: Sequence[Template]) -> None:
        """Read the roles of both sides; a role that both have is fused in neither."""
        self._roles = {template.names: _roles(template) for template in (*sources, *targets)}
        mine = frozenset().union(*(self._roles[source.names] for source in sources))
        theirs = frozenset().union(*(self._roles[target.names] for target in targets))
        self.sources = frozenset(at for at, s in enumerate(sources) if _is_fused(self._roles[s.names], theirs))
        self.targets = frozenset(t.names for t in targets if _is_fused(self._roles[t.names], mine))

    def fusions(
        self, left: Iterable[Template], open_slots: Iterable[Template]
    ) -> Iterator[tuple[str, list[str], list[str]]]:
        """Name what was fused or split among what is left over on both sides, where the widths add up.

        Yields:
            The kind, the checkpoint keys, and the model keys.
        """
        mine, theirs = self._by_role(left), self._by_role(open_slots)
        for kind in (*mine, *(each for each in theirs if each not in mine)):
            for whole, parts in FUSED.items():
                for few, many, turned in ((mine[kind], theirs[kind], False), (theirs[kind], mine[kind], True)):
                    ones, some = few[whole], [each for part in parts for each in many[part]]
                    if ones and _add_up(ones, [many[part] for part in parts]):
                        own, other = (some, ones) if turned else (ones, some)
                        yield kind_of_fusion(whole), _keys(own), _keys(other)

    def _by_role(self, templates: Iterable[Template]) -> defaultdict[_Kind, defaultdict[str, list[Template]]]:
        """Templates by their roles; adapters apart from weights, and towers that perceive something from others."""
        found: defaultdict[_Kind, defaultdict[str, list[Template]]] = defaultdict(lambda: defaultdict(list))
        for template in templates:
            for role in self._roles.get(template.names, ()):
                found[template.forms[0].is_lora, senses(template.module)][role].append(template)
        return found


def _roles(template: Template) -> frozenset[str]:
    return frozenset(name.role for form in template.forms for name in spoken(template, form))


def _is_fused(roles: frozenset[str], others: frozenset[str]) -> bool:
    if roles & others:
        return False
    return any(_WHOLE_OF.get(role) in others or not others.isdisjoint(FUSED.get(role, ())) for role in roles)


def _add_up(wholes: Sequence[Template], parts: Sequence[Sequence[Template]]) -> bool:
    """Whether the widths of some parts, one for each role, are that of the whole."""
    for whole in wholes:
        family = whole.forms[0].family
        if family in _OUTPUTS and whole.shape:
            widths = [{t.shape[:1] for t in own if t.forms[0].family == family and t.shape} for own in parts]
            if all(len(own) == 1 for own in widths) and whole.shape[0] == sum(min(own)[0] for own in widths):
                return True
    return False


def _keys(templates: Iterable[Template]) -> list[str]:
    return [key for template in templates for key in template.members.values()]
