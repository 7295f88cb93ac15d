"""What no renaming can mend, recognised by what is left over and by how shapes differ where names meet."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from pytest_lora_ckpt.keys.matching.candidates import NO_REWRITE, ModelIndex, Rewrite, images
from pytest_lora_ckpt.keys.matching.fusion import find_fusions, kind_of_fusion
from pytest_lora_ckpt.keys.remapping import KeyProblem
from pytest_lora_ckpt.keys.templates import are_turned
from pytest_lora_ckpt.vocabulary.models import HEADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_lora_ckpt.keys.conventions import Form, Path
    from pytest_lora_ckpt.keys.matching.fused_roles import FusedRoles
    from pytest_lora_ckpt.keys.matching.pairs import Pairs
    from pytest_lora_ckpt.keys.templates import Indices, Shape, Template

_TEXTS = {
    "size-0": "the tensors are empty, as ZeRO-3 writes them when parameters are not gathered before saving",
    "rank-mismatch": "the low-rank factors have another rank than the model's",
    "transposed": "the tensors are the model's transposed; they must be turned, not renamed",
    "one-rank": "the tensors are the part that one rank holds; they must be gathered before saving",
    "merged-linear": "several low-rank factors are stacked in one (loralib's MergedLinear); they must be split",
    "resized-vocabulary": "the number of tokens differs; resize the model's embeddings before loading",
    "shape-mismatch": "the names meet, the shapes do not",
    "fused-qkv": "query, key and value are one tensor on one side and three on the other",
    "fused-gate-up": "gate and up projection are one tensor on one side and two on the other",
    "fused": "several tensors of one side are one tensor on the other",
    "fused-experts": "the experts are one tensor on one side and one each on the other",
    "extra-layers": "the checkpoint has layers (or experts) that the model does not have",
    "missing-layers": "the model has layers (or experts) that the checkpoint does not have",
    "no-adapter-slot": "the model has these modules, but no adapter on them",
}
# A kind, checkpoint keys, and model keys.
_Finding: TypeAlias = "tuple[str, Iterable[str], Iterable[str]]"
_EMBEDDINGS = ("embed", "wte")


def find_problems(  # noqa: PLR0913  # Both sides, and what was made of them.
    sources: Sequence[Template],
    targets: Sequence[Template],
    index: ModelIndex,
    pairs: Pairs,
    *,
    rewrites: Iterable[Rewrite],
    fused: FusedRoles,
) -> list[KeyProblem]:
    """Name what no renaming can mend, each kind once with all its keys."""
    found: defaultdict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    believed = sorted({*rewrites, NO_REWRITE}, key=lambda rewrite: (-len(rewrite.old), rewrite))
    left = [source for source in sources if not any(pairs.goal(key) is not None for key in source.members.values())]
    open_slots = [target for target in targets if not any(key in pairs.source_of for key in target.members.values())]
    for kind, keys, goals in chain(
        _mismatches(sources, targets, pairs),
        _left_over(left, index, believed),
        find_fusions(left, open_slots, lambda path: images(path, believed)),
        fused.fusions(left, open_slots),
        ((kind_of_fusion(each.role), (each.key,), each.goals) for each in pairs.fused),
        _layers(sources, pairs),
    ):
        found[kind][0].update(keys)
        found[kind][1].update(goals)
    return [
        KeyProblem(kind, tuple(sorted(keys)), tuple(sorted(goals)), _TEXTS[kind])
        for kind, (keys, goals) in sorted(found.items())
        if keys or goals
    ]


def _left_over(left: Iterable[Template], index: ModelIndex, rewrites: Iterable[Rewrite]) -> Iterator[_Finding]:
    """Adapters for which the model has no place, and empty tensors."""
    for source in left:
        if source.forms[0].is_lora and _has_module_without_slot(source.forms[0], index, rewrites):
            yield "no-adapter-slot", source.members.values(), ()
        # Buffers may be empty with reason.
        if source.forms[0].family and any(0 in shape for shape in source.shapes):
            empty = [key for indices, key in source.members.items() if 0 in source.shape_at(indices)]
            yield "size-0", empty, ()


def _layers(sources: Sequence[Template], pairs: Pairs) -> Iterator[_Finding]:
    """Numbers that only one side has, in templates that both sides have."""
    for at, links in pairs.links.items():
        linked = sum(len(link.members) for link in links)
        if linked < len(sources[at].members):
            extra = [
                key
                for indices, key in sources[at].members.items()
                if not any(link.mapped(indices) in link.target.members for link in links)
            ]
            yield "extra-layers", extra, ()
        for link in links:
            if len(link.members) < len(link.target.members):
                yield "missing-layers", (), [k for k in link.target.members.values() if k not in pairs.source_of]


def _has_module_without_slot(form: Form, index: ModelIndex, rewrites: Iterable[Rewrite]) -> bool:
    here = [path for path in images(form.path, rewrites) if path in index.modules]
    return bool(here) and not any((path, family) in index.slots for path in here for family in (form.family, "A", "B"))


def _mismatches(sources: Sequence[Template], targets: Sequence[Template], pairs: Pairs) -> Iterator[_Finding]:
    """The kind of each pair whose names meet and whose shapes do not."""
    if not pairs.mismatches:
        return
    shapes: dict[str, Shape] = {
        key: target.shape_at(indices) for target in targets for indices, key in target.members.items()
    }
    factors: dict[tuple[Path, Indices, str | None], dict[str, Shape]] = {}
    for source in sources:
        form = source.forms[0]
        if form.family in {"A", "B"}:
            for indices in source.members:
                factors.setdefault((form.path, indices, form.adapter), {})[form.family] = source.shape_at(indices)
    for source in sources:
        form = source.forms[0]
        for indices, key in source.members.items():
            goal = pairs.mismatches.get(key)
            if goal is not None:
                own = factors.get((form.path, indices, form.adapter), {})
                yield _kind(form, source.shape_at(indices), shapes[goal], own), (key,), (goal,)


def _kind(form: Form, shape: Shape, other: Shape, factors: dict[str, Shape]) -> str:
    """What the difference between two shapes says."""
    first, second = factors.get("A", ()), factors.get("B", ())
    rank = second[1] if len(second) > 1 else 0
    is_stacked = bool(first and rank) and first[0] > rank and first[0] % rank == 0
    same_input, same_output = shape[1:] == other[1:], shape[:1] == other[:1]
    if are_turned(first, second):
        same_input, same_output = same_output, same_input
    same_axes = len(shape) == len(other)
    is_embedding = form.family.startswith("lora_embedding")
    grows = form.leaf in HEADS or any(word in form.leaf.lower() for word in _EMBEDDINGS)
    signs = (
        ("size-0", 0 in shape),
        ("transposed", len(shape) > 1 and shape == other[::-1]),
        ("merged-linear", is_stacked),
        ("one-rank", _is_part(shape, other, first, rank)),
        ("rank-mismatch", same_axes and ((form.family == "A" and same_input) or (form.family == "B" and same_output))),
        ("resized-vocabulary", form.family == "lora_embedding_A" and same_axes and same_output),
        ("rank-mismatch", is_embedding and same_axes),
        ("resized-vocabulary", grows and same_input and same_axes),
    )
    return next((kind for kind, holds in signs if holds), "shape-mismatch")


def _is_part(shape: Shape, other: Shape, first: Shape, rank: int) -> bool:
    """Whether a factor has a part of the model's rows, and its A as small a part of the ranks that its B has."""
    if not first or not first[0] < rank or rank % first[0]:
        return False
    return shape[1:] == other[1:] and other[0] == shape[0] * (rank // first[0])
