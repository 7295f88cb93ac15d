"""What speaks for a rewrite and against it, and when that is enough to believe it.

A rewrite is believed in a region (all templates below its old prefix, or one branch of them) when most of what lies
there finds its place and more than one name agrees. What moves segments about asks for more evidence than what only
adds or drops some.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.keys.conventions import NUMBER, Form, Path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_lora_ckpt.keys.matching.candidates import Candidate, Rewrite
    from pytest_lora_ckpt.keys.matching.state import Choice

# A rewrite of this rank or above puts unrelated names in the place of others.
UNRELATED = 4

# By the rank of the rewrite: which share of a region must find its place, how many names must agree, and which share
# of the model's keys there must be filled.
_LEAST_PRECISION = {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.75, 5: 0.9}
_LEAST_LEAVES = {1: 2, 2: 2, 3: 2, 4: 3, 5: 5}
_LEAST_RECALL = {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.75, 5: 0.9}
_MOST_CONTRADICTIONS = 0.25
# So many names in a row that agree say as much as a second module.
_TELLING_TAIL = 3


class Region(NamedTuple):
    """Part of what a rewrite concerns, with what speaks for and against it.

    Attributes:
        rewrite: The rewrite.
        supporters: The templates that it would place.
        score: How many of them fit by shape.
        precision: Which share of all templates there fit.
        contradiction: Which share of the supporters meet a name, but another shape.
        leaves: How many different names agree.
        tail: How many names in a row agree at most.
    """

    rewrite: Rewrite
    supporters: tuple[int, ...]
    score: float
    precision: float
    contradiction: float
    leaves: int
    tail: int


class Evidence:
    """Judges rewrites by all candidates.

    Args:
        forms: The literal reading of each template of the checkpoint.
        by_rewrite: Rewrite -> template -> candidate.
        has_module: Whether the model has a module at a path.
        adapted: Whether the model has LoRA. One without it has no place for any, which says nothing about other keys.
        recall: The share of the model's keys below a prefix that the given candidates fill.
        fused: Templates for which the model has several modules, or one for several of them, which say nothing either.
    """

    def __init__(  # noqa: PLR0913 - Each is one question.
        self,
        forms: Sequence[Form],
        by_rewrite: Mapping[Rewrite, Mapping[int, Candidate]],
        has_module: Callable[[Path], bool],
        recall: Callable[[Sequence[Candidate]], float],
        *,
        adapted: bool,
        fused: frozenset[int] = frozenset(),
    ) -> None:
        """Sort the templates by the prefixes that occur."""
        self.forms = forms
        self.by_rewrite = by_rewrite
        self.recall = recall
        self._has_module = has_module
        self._adapted = adapted
        self._fused = fused
        self._below: defaultdict[Path, list[int]] = defaultdict(list)
        prefixes = {rewrite.old for rewrite in by_rewrite}
        for source, form in enumerate(forms):
            for length in range(len(form.path) + 1):
                if form.path[:length] in prefixes:
                    self._below[form.path[:length]].append(source)

    def is_at_home(self, source: int) -> bool:
        """Whether the model has the very module, only not what this template would put there."""
        form = self.forms[source]
        return form.is_lora and self._has_module(form.path)

    def believable(self, rewrite: Rewrite, free: Sequence[Candidate], choice: Choice) -> Region | None:
        """The largest part of a rewrite's templates in which it may be believed."""
        whole = self._region(rewrite, free, self._below[rewrite.old], choice)
        if self._is_strong(whole, free):
            return whole
        depth = len(rewrite.old)
        branches: defaultdict[Path, list[Candidate]] = defaultdict(list)
        below: defaultdict[Path, list[int]] = defaultdict(list)
        for candidate in free:
            branches[candidate.form.path[depth : depth + 1]].append(candidate)
        for source in self._below[rewrite.old]:
            below[self.forms[source].path[depth : depth + 1]].append(source)
        kept: set[int] = set()
        for branch, own in branches.items():
            region = self._region(rewrite, own, below[branch], choice)
            if self._is_strong(region, own):
                kept.update(region.supporters)
        if not kept:
            return None
        # What stands alone next to branches that move together may go along if it fits.
        kept.update(
            c.source for branch, own in branches.items() for c in own if len(below[branch]) == len(own) and c.fit.same
        )
        supporters = [candidate for candidate in free if candidate.source in kept]
        return self._region(rewrite, supporters, kept, choice)

    def _region(
        self, rewrite: Rewrite, supporters: Sequence[Candidate], below: Iterable[int], choice: Choice
    ) -> Region:
        depth = len(rewrite.old)
        own = {candidate.source for candidate in supporters}
        missed = 0
        at_home: set[Path] = set()  # Adapted modules that the model has where the rewrite puts them.
        for source in below:
            form = self.forms[source]
            excused = form.is_lora and self._has_module(rewrite.new + form.path[depth:])
            if excused:
                at_home.add(form.path[depth:])
            excused = excused or (form.is_lora and not self._adapted) or source in self._fused
            missed += source not in own and choice.is_open(source) and not excused
        fitting = [candidate for candidate in supporters if candidate.fit.same or candidate.fit.near]
        tails = {candidate.form.path[depth:] for candidate in fitting}
        if tails and not self._adapted:
            tails |= at_home
        # Unrelated towers share the paths below their layers, but seldom three names of modules.
        agreeing = {candidate.form.leaf for candidate in fitting} if rewrite.rank >= UNRELATED else tails
        return Region(
            rewrite=rewrite,
            supporters=tuple(sorted(own)),
            score=sum(candidate.fit.share for candidate in supporters),
            precision=len(fitting) / (len(supporters) + missed) if supporters else 0.0,
            contradiction=1 - len(fitting) / len(supporters) if supporters else 0.0,
            leaves=len(agreeing),
            tail=max((sum(name != NUMBER for name in tail) for tail in tails), default=0),
        )

    def _is_strong(self, region: Region, supporters: Sequence[Candidate]) -> bool:
        rank = region.rewrite.rank
        telling = region.leaves >= _LEAST_LEAVES[rank] or (rank < UNRELATED and region.tail >= _TELLING_TAIL)
        return (
            telling
            and region.precision >= _LEAST_PRECISION[rank]
            and region.contradiction <= _MOST_CONTRADICTIONS
            and (not _LEAST_RECALL[rank] or self.recall(supporters) >= _LEAST_RECALL[rank])
        )
