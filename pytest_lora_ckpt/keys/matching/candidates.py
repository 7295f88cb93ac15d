"""Where a checkpoint's templates could go in the model: candidates, and the rewrite of the path that each stands for.

A candidate pairs a template of the checkpoint with a module of the model that has the same last name and parameter.
Stripping what both paths share at their end leaves a `Rewrite`: one prefix of the path takes the place of another.
Templates that move together share a rewrite, and so vote for it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.keys.conventions import NUMBER, Form, Path, are_opposed, senses, share_a_word
from pytest_lora_ckpt.keys.differences import differences, distance
from pytest_lora_ckpt.keys.matching.shapes import Fit, compare_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_lora_ckpt.keys.templates import Indices, Template

# More modules of one last name than this are only compared where more of the path agrees.
_MOST_NAMESAKES = 48

# The variants of a base weight that a saved one may become, by preference.
_TRAINED_FIRST = {
    "plain": ("plain", "copy", "original", "token"),
    "copy": ("copy", "plain"),
    "original": ("original", "plain", "token"),
    "token": ("token", "original", "plain"),
}
_ORIGINAL_FIRST = {**_TRAINED_FIRST, "plain": ("plain", "original", "token", "copy")}


class Rewrite(NamedTuple):
    """The prefix `old` of a plain path becomes `new`.

    Attributes:
        old: Segments that the checkpoint's path begins with.
        new: Segments that the model's path begins with instead.
        rank: How much it asks one to believe. 0 nothing changes, 1 `model` levels come or go, 2 segments come or go,
            3 segments change but share a word, 4 segments are replaced by unrelated ones, or what the module perceives
            comes or goes, 5 both.
    """

    old: Path
    new: Path
    rank: int


NO_REWRITE = Rewrite((), (), 0)


class Rewrites:
    """The rewrites that occur in one inference, each ranked once."""

    def __init__(self) -> None:
        """Begin with none."""
        self._known: dict[tuple[Path, Path, bool], Rewrite | None] = {}
        self._senses: dict[Path, frozenset[str]] = {}

    def between(self, path: Path, other: Path) -> Rewrite | None:
        """Return what turns one path into the other, without what both share at their end.

        None if it would make one thing its opposite, such as a tower that sees one that hears.
        """
        tail = 0
        while tail < min(len(path), len(other)) and path[-tail - 1] == other[-tail - 1]:
            tail += 1
        old, new = path[: len(path) - tail], other[: len(other) - tail]
        # `vision_model` below `vision_tower` perceives what it did before.
        turns = self._senses_of(path) != self._senses_of(other)
        if (old, new, turns) not in self._known:
            rank = _rank(old, new, turns=turns)
            self._known[old, new, turns] = None if are_opposed(old, new) else Rewrite(old, new, rank)
        return self._known[old, new, turns]

    def _senses_of(self, path: Path) -> frozenset[str]:
        if path not in self._senses:
            self._senses[path] = senses(path)
        return self._senses[path]


def _rank(old_path: Path, new_path: Path, *, turns: bool) -> int:
    """The rank of a rewrite; `turns` says whether what the module perceives comes or goes."""
    if old_path == new_path:
        return 0
    old = tuple(name for name in old_path if name != "model")
    new = tuple(name for name in new_path if name != "model")
    if old == new:
        return 1
    changes = differences(old, new)
    went = {name for change in changes for name in change.old}
    came = {name for change in changes for name in change.new}
    pure = not went or not came or went == came
    if turns:
        return 4 if pure else 5
    if pure:
        return 2
    # Inside of a layer there is little that one module could be taken for.
    inside = old_path[:-1] == new_path[:-1] and NUMBER in old_path[:-1]
    return 3 if inside or share_a_word(went, came) else 4


class Candidate(NamedTuple):
    """A place for a template of the checkpoint.

    Attributes:
        source: The template's position in the list of templates.
        form: How it was read.
        path: The plain path in the model.
        rewrite: What turns the one path into the other.
        fit: How many members fit there, by shape.
    """

    source: int
    form: Form
    path: Path
    rewrite: Rewrite
    fit: Fit

    @property
    def place(self) -> tuple[Path, str]:
        """The plain path in the model and what of the module."""
        return self.path, self.form.family


class ModelIndex:
    """The model's templates, to be looked up by what they mean."""

    def __init__(
        self, templates: Iterable[Template], *, trained_first: bool, base_weights: frozenset[str] = frozenset()
    ) -> None:
        """Index the literal reading of each template; `X.linear` is `X` too where `linear` holds base weights."""
        self.slots: dict[tuple[Path, str], list[tuple[Form, Template]]] = {}
        self.modules: set[Path] = set()
        self._by_leaf: defaultdict[tuple[str, str], list[Path]] = defaultdict(list)
        self._by_tail: dict[tuple[Path, str], list[Path]] | None = None
        self._order = _TRAINED_FIRST if trained_first else _ORIGINAL_FIRST
        every = [(template.forms[0], template) for template in templates]
        for form, template in every:
            self._put(form, template)
        for form, template in every:
            if (path := template.spelled(form.path)) != form.path:
                self._put(form._replace(path=path), template)
        for form, template in every if base_weights else ():
            if form.path[-1:] and form.path[-1] in base_weights:
                outer = form._replace(path=form.path[:-1])
                if (outer.path, outer.family) not in self.slots:
                    self._put(outer, template)

    def _put(self, form: Form, template: Template) -> None:
        slot = self.slots.get((form.path, form.family))
        if slot is None:
            slot = self.slots[form.path, form.family] = []
            self._by_leaf[form.leaf, form.family].append(form.path)
        slot.append((form, template))
        if not form.is_lora:
            self.modules.add(form.path)

    def namesakes(self, form: Form) -> Sequence[Path]:
        """Paths of the model with the same last name and family; if too many, those that share most of their end."""
        # `model` levels come and go, so a path without any other name may end in one or not.
        leaves = ("", "model") if form.leaf in {"", "model"} else (form.leaf,)
        paths = [path for leaf in leaves for path in self._by_leaf.get((leaf, form.family), ())]
        if len(paths) <= _MOST_NAMESAKES:
            return paths
        if self._by_tail is None:
            self._by_tail = {}
        by_tail = self._by_tail
        if ((form.leaf,), form.family) not in by_tail:
            by_tail[(form.leaf,), form.family] = []
            for path in paths:
                for length in range(2, len(path) + 1):
                    by_tail.setdefault((path[-length:], form.family), []).append(path)
        found: list[Path] = []
        for length in range(len(form.path), 1, -1):
            more = by_tail.get((form.path[-length:], form.family), [])
            if len(more) > _MOST_NAMESAKES:
                break
            found = more
        return found

    def places(self, form: Form, path: Path, source: Template, adapters: Sequence[str | None]) -> list[Template]:
        """The templates at a path that may receive `source`, the best first; `adapters` by preference."""
        slot = self.slots.get((path, form.family), [])
        if form.is_lora:
            wanted = [(variant, adapter) for variant in (form.variant, "plain") for adapter in adapters]
        else:
            wanted = []
            for variant in self._order[form.variant]:
                wanted += [(variant, adapter) for adapter in (adapters if variant == "copy" else (None,))]
        fitting: list[Template] = []
        for variant, adapter in wanted:
            fitting = [t for other, t in slot if (other.variant, other.adapter) == (variant, adapter)]
            if fitting:
                break
        # Whatever the grammar made of it, the same name is the same name.
        literal = [t for _, t in slot if t.names == source.names]
        if len(fitting) > 1:
            fitting.sort(key=lambda template: (distance(source.marked, template.marked), template.names))
        return [*literal, *(t for t in fitting if t not in literal)]


class IndexMap(NamedTuple):
    """How a source's numbers become a target's: by position, or as constants."""

    picks: tuple[int | str, ...]
    straight: bool

    def __call__(self, indices: Indices) -> Indices:
        """Return the target's numbers."""
        if self.straight:
            return indices
        return tuple(indices[pick] if isinstance(pick, int) else pick for pick in self.picks)


def index_map(path: Path, target_path: Path, source: Template, target: Template) -> IndexMap | None:
    """How the numbers of a source key become those of its target, or None if that is not known."""
    own = target.forms[0].path
    if len(own) == len(target_path):
        target_path = own  # Without the numbers that are spelled out.
    numbers = path.count(NUMBER)
    if source.names == target.names:
        return IndexMap((), straight=True)
    if numbers == target_path.count(NUMBER) == len(source.names) - 1 == len(target.names) - 1:
        return IndexMap((), straight=True)
    if len(target.names) - 1 != target_path.count(NUMBER):
        return None
    # Numbers that only one side has must be the same in all keys, or several keys would become one.
    carried = _carried(path, target_path, len(source.names) - 1)
    if any(at not in carried.values() and source.constant(at) is None for at in range(len(source.names) - 1)):
        return None
    picks = [carried.get(at, target.constant(at)) for at in range(len(target.names) - 1)]
    known = tuple(pick for pick in picks if pick is not None)
    return IndexMap(known, straight=False) if len(known) == len(picks) else None


def _carried(path: Path, target_path: Path, numbers: int) -> dict[int, int]:
    """Which number of the target path is which one of the path, of which only so many are real."""
    carried: dict[int, int] = {}
    start = stop = 0
    for edit in [*differences(path, target_path), None]:
        end = len(edit.left) if edit else len(path)
        for at in range(end - start):
            number = path[: start + at].count(NUMBER)
            # A convention may have put a number at the end that the key itself lacks.
            if path[start + at] == NUMBER and number < numbers:
                carried[target_path[: stop + at].count(NUMBER)] = number
        if edit:
            stop += end - start + len(edit.new)
            start = end + len(edit.old)
    return carried


def measure(source: Template, path: Path, targets: Sequence[Template], target_path: Path, family: str) -> Fit:
    """Count how the members of a source fit a place in the model."""
    fit = Fit(0, 0, 0, len(source.members))
    for target in targets:
        mapped = index_map(path, target_path, source, target)
        if mapped is None:
            continue
        if mapped.straight and source.shape is not None and target.shape is not None:
            met = len(source.members.keys() & target.members.keys())
            fit = fit.add(compare_shapes(source.shape, target.shape, family), met)
            continue
        for indices in source.members:
            there = mapped(indices)
            if there in target.members:
                fit = fit.add(compare_shapes(source.shape_at(indices), target.shape_at(there), family), 1)
    return fit


def images(path: Path, rewrites: Iterable[Rewrite]) -> list[Path]:
    """Where a path of the checkpoint would lie in the model, by the rewrites that are believed."""
    return [rewrite.new + path[len(rewrite.old) :] for rewrite in rewrites if path[: len(rewrite.old)] == rewrite.old]
