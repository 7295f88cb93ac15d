"""What has been decided so far: which template of the checkpoint goes where, and what is ambiguous."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_lora_ckpt.keys.conventions import Path
    from pytest_lora_ckpt.keys.matching.candidates import Candidate, Rewrite

Place: TypeAlias = "tuple[Path, str]"


class Choice:
    """Decisions, taken one after another.

    Args:
        clash: Whether two candidates would put two tensors into one place.

    Attributes:
        placed: Template -> its place.
        doubtful: Groups of templates, each with the rewrites that fit equally well.
    """

    def __init__(self, clash: Callable[[Candidate, Candidate], bool]) -> None:
        """Begin with nothing decided."""
        self.placed: dict[int, Candidate] = {}
        self.doubtful: list[tuple[tuple[int, ...], tuple[Rewrite, ...]]] = []
        self._clash = clash
        self._taken: defaultdict[Place, list[Candidate]] = defaultdict(list)
        self._closed: set[int] = set()

    def place(self, candidates: Iterable[Candidate]) -> None:
        """Place those that are still open and whose place is free."""
        for candidate in candidates:
            if candidate.source not in self.placed and self.is_free(candidate):
                self.placed[candidate.source] = candidate
                self._taken[candidate.place].append(candidate)

    def doubt(self, sources: tuple[int, ...], rewrites: tuple[Rewrite, ...]) -> None:
        """Note that several rewrites fit these templates equally well."""
        self.doubtful.append((sources, rewrites))

    def close(self, sources: Iterable[int]) -> None:
        """Consider these templates no more."""
        self._closed.update(sources)

    def is_open(self, source: int) -> bool:
        """Whether a template waits for a place."""
        return source not in self.placed and source not in self._closed

    def is_free(self, candidate: Candidate) -> bool:
        """Whether no other template has taken a candidate's place."""
        return not any(self._clash(candidate, other) for other in self._taken.get(candidate.place, ()))

    @property
    def score(self) -> float:
        """How many templates are placed with fitting shapes."""
        return sum(candidate.fit.share for candidate in self.placed.values())

    @property
    def places(self) -> frozenset[Place]:
        """What of the model is filled."""
        return frozenset(candidate.place for candidate in self.placed.values())

    @property
    def rewrites(self) -> frozenset[Rewrite]:
        """The rewrites that are believed."""
        return frozenset(candidate.rewrite for candidate in self.placed.values())
