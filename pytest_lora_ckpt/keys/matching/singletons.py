"""Single tensors that are left over when the large moves are known: which of them may still be placed.

A left-over tensor goes where a believed rewrite takes it. Otherwise it is moved only if it is the only one of its name
and shape on both sides, the move only adds or drops segments, and its neighbours are known to have found places; a
head (`lm_head`, `score` …) may stand apart from its neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys.conventions import NUMBER, Path
from pytest_lora_ckpt.keys.matching.evidence import UNRELATED
from pytest_lora_ckpt.vocabulary.models import HEADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_lora_ckpt.keys.conventions import Form
    from pytest_lora_ckpt.keys.matching.candidates import Candidate
    from pytest_lora_ckpt.keys.matching.state import Choice, Place


def followers(waiting: Mapping[int, Sequence[Candidate]], choice: Choice) -> list[Candidate]:
    """Candidates of templates that fit where exactly one of the believed rewrites takes them."""
    believed = {rewrite for rewrite in choice.rewrites if rewrite.rank}
    found: list[Candidate] = []
    for own in waiting.values():
        fitting = [c for c in own if c.rewrite in believed and c.fit.same and choice.is_free(c)]
        if len(fitting) == 1:
            found.append(fitting[0])
    return found


def lone(
    waiting: Mapping[int, Sequence[Candidate]],
    choice: Choice,
    forms: Sequence[Form],
    clash: Callable[[Candidate, Candidate], bool],
) -> list[Candidate]:
    """Candidates of templates that can only be one thing: a head that moved."""
    fitting = {
        source: kept
        for source, own in waiting.items()
        if (kept := [c for c in own if _fits_alone(c) and choice.is_free(c)])
    }
    if not fitting:
        return []
    wanted: defaultdict[Place, list[Candidate]] = defaultdict(list)
    for own in fitting.values():
        for candidate in own:
            wanted[candidate.place].append(candidate)
    counts = _counts(forms, choice)
    settled = {
        (c.form.path[:length], c.rewrite.old) for c in choice.placed.values() for length in range(len(c.form.path))
    }
    return [
        own[0]
        for own in fitting.values()
        if len(own) == 1
        and _is_small_move(own[0])
        and _stands_free(own[0], forms[own[0].source].path, counts, settled)
        and not any(other.source != own[0].source and clash(own[0], other) for other in wanted[own[0].place])
    ]


def _fits_alone(candidate: Candidate) -> bool:
    """Whether a single tensor fits; a head may have grown with the vocabulary."""
    return bool(candidate.fit.same) or (candidate.form.leaf in HEADS and candidate.form.family == "weight")


def _is_small_move(candidate: Candidate) -> bool:
    """Whether segments only come or go, and no numbers among them but that of a head in an `nn.Sequential`."""
    rewrite = candidate.rewrite
    is_sequence = candidate.form.leaf in HEADS and rewrite.old == (*rewrite.new, NUMBER)
    return 1 <= rewrite.rank < UNRELATED - 1 and (is_sequence or NUMBER not in (*rewrite.old, *rewrite.new))


def _stands_free(
    candidate: Candidate, path: Path, counts: Mapping[Path, tuple[int, int]], settled: Iterable[tuple[Path, Path]]
) -> bool:
    """Whether nothing that is known of its neighbours speaks against a candidate; `path` is the checkpoint's own."""
    if candidate.form.leaf in HEADS:
        return True
    module = _module(path)
    # Where its neighbours went by a rewrite that would move it as well, it is known to have no place.
    is_known = any((module[:-1], path[:length]) in settled for length in range(len(module)))
    if is_known and module[:-1] and candidate.rewrite.rank > 1:
        return False
    (below, placed), (own, own_placed) = counts[module[:-1]], counts[module]
    return 2 * (placed - own_placed) >= below - own


def _counts(forms: Sequence[Form], choice: Choice) -> dict[Path, tuple[int, int]]:
    """How many templates lie below each path, and how many of them are placed."""
    counts: dict[Path, tuple[int, int]] = {}
    for source, form in enumerate(forms):
        module = _module(form.path)
        for length in range(len(module) + 1):
            total, placed = counts.get(module[:length], (0, 0))
            counts[module[:length]] = (total + 1, placed + (source in choice.placed))
    return counts


def _module(path: Path) -> Path:
    """The path up to its last name."""
    last = max((at for at, name in enumerate(path) if name != NUMBER), default=-1)
    return path[: last + 1]
