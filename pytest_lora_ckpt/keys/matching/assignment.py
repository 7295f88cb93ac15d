"""Which rewrites to believe: those that place the most templates, and none that another one could replace.

Names that are equal as they stand come first, unless one rewrite places more without them. Then the rewrite with the
most support is taken, again and again. Where another rewrite serves the same templates as well, or other templates
have the same right to the same places, nothing is placed and the doubt is noted.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys.matching.evidence import Evidence, Region
from pytest_lora_ckpt.keys.matching.singletons import followers, lone
from pytest_lora_ckpt.keys.matching.state import Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_lora_ckpt.keys.conventions import Form, Path
    from pytest_lora_ckpt.keys.matching.candidates import Candidate, Rewrite

_MOST_FIRST_GUESSES = 6
_EPSILON = 1e-9


class Assigner:
    """Chooses among candidates.

    Args:
        forms: The literal reading of each template of the checkpoint.
        candidates: All candidates, any number per template.
        has_module: Whether the model has a module at a path.
        adapted: Whether the model has LoRA.
        clash: Whether two candidates would put two tensors into one place.
        recall: The share of the model's keys below a prefix that the given candidates fill.
        fused: Templates for which the model has several modules, or one for several of them.
    """

    def __init__(  # noqa: PLR0913 - Each is one question.
        self,
        forms: Sequence[Form],
        candidates: Iterable[Candidate],
        *,
        has_module: Callable[[Path], bool],
        adapted: bool,
        clash: Callable[[Candidate, Candidate], bool],
        recall: Callable[[Sequence[Candidate]], float],
        fused: frozenset[int] = frozenset(),
    ) -> None:
        """Sort the candidates by rewrite."""
        self._clash = clash
        self._by_rewrite: defaultdict[Rewrite, dict[int, Candidate]] = defaultdict(dict)
        for candidate in candidates:
            own = self._by_rewrite[candidate.rewrite]
            if candidate.source not in own or own[candidate.source].fit.share < candidate.fit.share:
                own[candidate.source] = candidate
        self._of: defaultdict[int, list[Candidate]] = defaultdict(list)
        for own in self._by_rewrite.values():
            for candidate in own.values():
                self._of[candidate.source].append(candidate)
        self._evidence = Evidence(forms, self._by_rewrite, has_module, recall, adapted=adapted, fused=fused)
        literal = [c for rewrite, own in self._by_rewrite.items() if not rewrite.rank for c in own.values()]
        # A name as it stands comes before a translated one; of a trained copy and its original the copy comes first.
        self._literal = sorted(
            literal,
            key=lambda c: (
                c.form.path != forms[c.source].path,
                c.form.variant != "copy",
                c.form.variant == "original",
                -c.fit.share,
                c.source,
            ),
        )

    def choose(self) -> Choice:
        """Decide, trying the strongest rewrites as a first guess against reading every name literally."""
        best = self._choose(None)
        totals = {
            rewrite: sum(candidate.fit.share for candidate in own.values())
            for rewrite, own in self._by_rewrite.items()
            if rewrite.rank
        }
        guesses = sorted(totals, key=lambda rewrite: (-totals[rewrite], rewrite.rank, rewrite))
        for guess in guesses[:_MOST_FIRST_GUESSES]:
            if totals[guess] > 1 and any(not c.rewrite.rank for s in self._by_rewrite[guess] for c in self._of[s]):
                other = self._choose(guess)
                if _is_better(other, best):
                    best = other
        return best

    def _choose(self, first: Rewrite | None) -> Choice:
        choice = Choice(self._clash)
        if first is not None:
            choice.place(self._by_rewrite[first].values())
        choice.place(c for c in self._literal if c.fit.same or c.fit.near)
        while (region := min(self._regions(choice), key=_strongest_first, default=None)) is not None:
            self._decide(region, choice)
        choice.place(c for c in self._literal if c.fit.met)
        choice.place(followers(self._waiting(choice), choice))
        choice.place(lone(self._waiting(choice), choice, self._evidence.forms, self._clash))
        return choice

    def _decide(self, region: Region, choice: Choice) -> None:
        """Place what a region holds, or note that it is ambiguous."""
        rivals = self._rivals(region, choice)
        competitor = self._competitor(region, choice) if len(rivals) == 1 else None
        if competitor is not None:
            choice.doubt(region.supporters, tuple(rivals))
            choice.doubt(competitor.supporters, (competitor.rewrite,))
            choice.close(competitor.supporters)
        elif len(rivals) == 1:
            own = self._by_rewrite[rivals[0]]
            choice.place(own[source] for source in region.supporters)
        else:
            choice.doubt(region.supporters, tuple(sorted(rivals)))
        choice.close(region.supporters)

    def _waiting(self, choice: Choice) -> dict[int, list[Candidate]]:
        """The templates that are still open, with their candidates."""
        return {
            source: own
            for source, own in sorted(self._of.items())
            if choice.is_open(source) and not self._evidence.is_at_home(source)
        }

    def _regions(self, choice: Choice) -> Iterator[Region]:
        """What may be believed by now, one region per rewrite."""
        waiting = self._waiting(choice)
        for rewrite, own in self._by_rewrite.items():
            if not rewrite.rank:
                continue
            free = [c for source, c in own.items() if source in waiting and choice.is_free(c)]
            if free and (region := self._evidence.believable(rewrite, free, choice)) is not None:
                yield region

    def _rivals(self, region: Region, choice: Choice) -> list[Rewrite]:
        """The rewrites that serve a region best; more than one if nothing distinguishes them."""
        standing: list[tuple[tuple[int, float], Rewrite]] = []
        for rewrite, own in self._by_rewrite.items():
            there = [own[s] for s in region.supporters if s in own and choice.is_free(own[s])]
            score = sum(c.fit.share for c in there)
            if not rewrite.rank or len(there) < len(region.supporters) or score < region.score - _EPSILON:
                continue
            if rewrite != region.rewrite and self._evidence.believable(rewrite, there, choice) is None:
                continue
            standing.append(((rewrite.rank, -round(self._evidence.recall(there), 6)), rewrite))
        best = min(key for key, _ in standing)
        return [rewrite for key, rewrite in standing if key == best]

    def _competitor(self, region: Region, choice: Choice) -> Region | None:
        """Another part of the checkpoint that has the same right to the same places."""
        mine = self._by_rewrite[region.rewrite]
        places = {mine[source].place: mine[source] for source in region.supporters}
        for other in self._regions(choice):
            if other.rewrite == region.rewrite or other.score < region.score - _EPSILON:
                continue
            if other.rewrite.rank > region.rewrite.rank:
                continue
            theirs = [self._by_rewrite[other.rewrite][s] for s in other.supporters if s not in region.supporters]
            if any(c.place in places and self._clash(c, places[c.place]) for c in theirs):
                return other
        return None


def _is_better(other: Choice, best: Choice) -> bool:
    """Whether a choice places more, or the same by fewer rewrites."""
    if abs(other.score - best.score) > _EPSILON:
        return other.score > best.score
    return other.places == best.places and len(other.rewrites) < len(best.rewrites)


def _strongest_first(region: Region) -> tuple[float, int, float, Rewrite]:
    return (-region.score, region.rewrite.rank, -region.precision, region.rewrite)
