"""Infer how a checkpoint's keys become a model's: by names first, by structure next, never against the shapes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.keys.matching.adapters import AdapterChoice, choose_adapters
from pytest_lora_ckpt.keys.matching.assignment import Assigner
from pytest_lora_ckpt.keys.matching.candidates import (
    Candidate,
    IndexMap,
    ModelIndex,
    Rewrite,
    Rewrites,
    images,
    index_map,
    measure,
)
from pytest_lora_ckpt.keys.matching.flattened import FlatFusion, match_flattened
from pytest_lora_ckpt.keys.matching.fused_roles import FusedRoles
from pytest_lora_ckpt.keys.matching.pairs import Link, Pairs
from pytest_lora_ckpt.keys.matching.shapes import NO_FIT
from pytest_lora_ckpt.keys.matching.translation import Translator
from pytest_lora_ckpt.keys.problems import find_problems
from pytest_lora_ckpt.keys.remapping import Ambiguity, Remapping
from pytest_lora_ckpt.keys.rules.build import rules_for
from pytest_lora_ckpt.keys.templates import Indices, Template, templates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_lora_ckpt.keys.conventions import Form, Path
    from pytest_lora_ckpt.keys.matching.state import Choice

# More templates than this are not compared with all their namesakes.
_MOST_COMPARED = 5_000
_SAMPLE = 1_000
_MOST_REWRITES = 40


def infer_remapping(
    checkpoint_keys: Mapping[str, Any],
    model_keys: Mapping[str, Any],
    *,
    adapter_name: str = "default",
    adapter_config: Mapping[str, Any] | None = None,
    aliases: Iterable[Iterable[str]] = (),
) -> Remapping:
    """Infer how a checkpoint's keys become a model's.

    Nothing is guessed from shapes alone: a pair has the same last name and parameter (in any known convention), its
    shapes agree, and the keys around it moved in the same way. Where two places fit equally well none is picked.

    Args:
        checkpoint_keys: Key -> shape or `TensorInfo`; a `KeySet` brings its aliases along.
        model_keys: The same for the model that is to receive the tensors; a `KeySet` also brings what its library
            renames.
        adapter_name: The adapter of the model that a checkpoint without adapter names is for, if the model has it;
            else the model's only one.
        adapter_config: PEFT's `adapter_config.json` as a dict, if there is one; only `modules_to_save` is used.
        aliases: Further groups of keys, of either side, that name one tensor.

    Example:
        >>> found = infer_remapping(
        ...     {"module.base_model.model.fc.lora_A.weight": (4, 8)},
        ...     {"base_model.model.fc.base_layer.weight": (6, 8), "base_model.model.fc.lora_A.default.weight": (4, 8)})
        >>> found.mapping
        {'module.base_model.model.fc.lora_A.weight': 'base_model.model.fc.lora_A.default.weight'}
        >>> [rule.by for rule in found.rules]
        ['you', 'peft']
    """
    groups = [*getattr(checkpoint_keys, "aliases", ()), *getattr(model_keys, "aliases", ()), *aliases]
    search = _Search(checkpoint_keys, model_keys, adapter_name, adapter_config, groups)
    return search.run()


class _Search:
    """One inference; holds both sides as templates."""

    def __init__(
        self,
        checkpoint_keys: Mapping[str, Any],
        model_keys: Mapping[str, Any],
        adapter_name: str,
        adapter_config: Mapping[str, Any] | None,
        aliases: Sequence[Iterable[str]],
    ) -> None:
        self.sources = templates(checkpoint_keys)
        self.targets = templates(model_keys)
        self.adapters: AdapterChoice = choose_adapters(self.sources, self.targets, adapter_name)
        trained = bool(adapter_config and adapter_config.get("modules_to_save")) or any(
            template.forms[0].is_lora or template.names[0].startswith(".base_model.model.") for template in self.sources
        )
        self.translator = Translator(self.sources, self.targets, getattr(model_keys, "published", None))
        self.index = ModelIndex(self.targets, trained_first=trained, base_weights=self.translator.wrapped_targets)
        self.group_of = {key: at for at, group in enumerate(aliases) for key in group}
        self.fused = FusedRoles(self.sources, self.targets)
        self.rewrites = Rewrites()
        self.pairs = Pairs()
        self._filled: set[tuple[str, ...]] = set()
        self.model_keys = model_keys

    def run(self) -> Remapping:
        """Choose places for templates, write out the pairs of keys, derive rules, and name what is left."""
        for flat in match_flattened(self.sources, self.targets, self.adapters):
            if isinstance(flat, FlatFusion):
                self.pairs.fused.append(flat)
            else:
                self.pairs.add(flat.key, flat.goal, same=flat.same)
                self.pairs.symbolic[flat.key] = (flat.now, flat.then)
        choice = Assigner(
            [source.forms[0] for source in self.sources],
            self._candidates(),
            has_module=self.index.modules.__contains__,
            adapted=any(target.forms[0].is_lora for target in self.targets),
            clash=self._clash,
            recall=self._recall,
            fused=self.fused.sources,
        ).choose()
        for candidate in sorted(choice.placed.values(), key=self._nearest_first):
            self._write_pairs(candidate)
        ambiguities = self._ambiguities(choice)
        rules = rules_for(self.sources, self.model_keys, self.pairs)
        rewrites = [candidate.rewrite for candidate in choice.placed.values()]
        problems = find_problems(
            self.sources, self.targets, self.index, self.pairs, rewrites=rewrites, fused=self.fused
        )
        return Remapping(tuple(rules), self.pairs.mapping, self.pairs.mismatches, tuple(ambiguities), tuple(problems))

    def _candidates(self) -> list[Candidate]:
        """Compare each template with its namesakes; of very many, a sample shows which rewrites are worth a look."""
        paths = self.index.namesakes
        if len(self.sources) > _MOST_COMPARED:
            votes: Counter[Rewrite] = Counter()
            for source in self.sources[:: len(self.sources) // _SAMPLE + 1]:
                for path in self.index.namesakes(source.forms[0]):
                    if (rewrite := self.rewrites.between(source.forms[0].path, path)) is not None:
                        votes[rewrite] += 1
            leading = sorted(votes, key=lambda rewrite: (-votes[rewrite], rewrite))[:_MOST_REWRITES]

            def paths(form: Form) -> Sequence[Path]:
                return sorted({form.path, *images(form.path, leading)})

        return [
            candidate
            for at, source in enumerate(self.sources)
            for form in (*source.forms, *self.translator.forms(source))
            for path in paths(form)
            if (candidate := self._candidate(at, form, path)) is not None
        ]

    def _candidate(self, at: int, form: Form, path: Path) -> Candidate | None:
        rewrite = self.rewrites.between(form.path, path)
        if rewrite is None:
            return None
        fit = measure(self.sources[at], form.path, self._targets(at, form, path), path, form.family)
        return Candidate(at, form, path, rewrite, fit) if fit.met else None

    def _targets(self, at: int, form: Form, path: Path) -> list[Template]:
        """The model's templates at a path that may receive a template, read in one way."""
        return self.index.places(form, path, self.sources[at], self.adapters.of(form.adapter))

    def _maps(self, candidate: Candidate) -> list[tuple[Template, IndexMap]]:
        """The model's templates at a candidate's place, each with how the numbers carry over."""
        at, form, path, *_ = candidate
        maps = [(each, index_map(form.path, path, self.sources[at], each)) for each in self._targets(at, form, path)]
        return [(target, mapped) for target, mapped in maps if mapped is not None]

    def _hits(self, candidate: Candidate) -> dict[Indices, tuple[Template, Indices]]:
        """Each member's place: the numbers of the source -> template and numbers of the target."""
        maps = self._maps(candidate)
        hits: dict[Indices, tuple[Template, Indices]] = {}
        for indices in self.sources[candidate.source].members:
            for target, mapped in maps:
                there = mapped(indices)
                if there in target.members:
                    hits[indices] = (target, there)
                    break
        return hits

    def _clash(self, one: Candidate, other: Candidate) -> bool:
        """Whether two templates want one place; aliases may share it."""
        mine, theirs = self._hits(one), self._hits(other)
        wanted = {place: indices for indices, place in theirs.items()}
        for indices, place in mine.items():
            if place in wanted and not self._are_aliases(
                self.sources[one.source].members[indices], self.sources[other.source].members[wanted[place]]
            ):
                return True
        return False

    def _are_aliases(self, key: str, other: str) -> bool:
        group = self.group_of.get(key)
        return group is not None and group == self.group_of.get(other)

    def _recall(self, candidates: Sequence[Candidate]) -> float:
        """The share of the model's keys below the new prefixes that the candidates fill."""
        lora = any(c.form.is_lora for c in candidates)
        base = any(not c.form.is_lora for c in candidates)
        roots = {c.path[: len(c.rewrite.new) + 1] for c in candidates}
        depths = {len(root) for root in roots}
        wanted = {name for c in candidates for name in self.adapters.of(c.form.adapter)}
        total = 0
        for (path, _), slot in self.index.slots.items():
            if any(path[:depth] in roots for depth in depths):
                for form, template in slot:
                    counts = (lora and form.adapter in wanted) if form.is_lora else base
                    counts = counts and template.names not in self.fused.targets
                    total += len(template.members) if counts else 0
        return sum(c.fit.same + c.fit.near for c in candidates) / total if total else 0.0

    def _nearest_first(self, candidate: Candidate) -> tuple[int, bool, int]:
        at, form, path, *_ = candidate
        names = [target.names for target in self._targets(at, form, path)]
        literal = candidate.rewrite.rank == 0 and self.sources[at].names in names
        return (0 if literal else 1, form.variant == "original", at)

    def _write_pairs(self, candidate: Candidate) -> None:
        source, links = self.sources[candidate.source], self.pairs.links
        for target, mapped in self._maps(candidate):
            untouched = candidate.source not in links and target.names not in self._filled and not self.pairs.symbolic
            uniform = source.shape is not None and target.shape is not None
            if untouched and uniform and mapped.straight:
                linked = self.pairs.add_all(source, target)
            else:
                linked = self._write_singly(source, target, mapped)
            if linked:
                self._filled.add(target.names)
                links.setdefault(candidate.source, []).append(Link(target, mapped, linked))

    def _write_singly(self, source: Template, target: Template, mapped: IndexMap) -> list[Indices]:
        """Write pairs one by one, minding what others have taken."""
        pairs = self.pairs
        linked: list[Indices] = []
        for indices, key in source.members.items():
            there = mapped(indices)
            goal = target.members.get(there)
            if goal is None or pairs.goal(key) is not None:
                continue
            if goal in pairs.source_of and not self._are_aliases(key, pairs.source_of[goal]):
                continue
            pairs.add(key, goal, same=source.shape_at(indices) == target.shape_at(there))
            linked.append(indices)
        return linked

    def _ambiguities(self, choice: Choice) -> list[Ambiguity]:
        """Write out what was not decided."""
        found: list[Ambiguity] = []
        for members, rewrites in choice.doubtful:
            rows: list[tuple[str, ...]] = []
            for member in members:
                form = self.sources[member].forms[0]
                per_rewrite = [
                    self._hits(Candidate(member, form, path, rewrite, NO_FIT))
                    for rewrite in rewrites
                    for path in images(form.path, [rewrite])
                ]
                for indices, key in self.sources[member].members.items():
                    places = [hits[indices] for hits in per_rewrite if indices in hits]
                    if len(places) == len(rewrites):
                        rows.append((key, *(target.members[there] for target, there in places)))
            names = " or ".join(".".join(rewrite.new).replace("..", ".#") or "the root" for rewrite in rewrites)
            found += _ambiguity(rows, f"names and shapes fit equally well at {names}; rename one, or map them by hand")
        for adapter, options in sorted(self.adapters.undecided.items(), key=str):
            known = ", ".join(map(str, options))
            text = f"the model has the adapters {known}; say which one with adapter_name"
            found += _ambiguity(self._undecided_rows(adapter, options), text)
        return found

    def _undecided_rows(self, adapter: str | None, names: Sequence[str | None]) -> list[tuple[str, ...]]:
        """Each key of an adapter with its places under each of the model's adapters."""
        rows: list[tuple[str, ...]] = []
        for source in self.sources:
            form = source.forms[0]
            if form.adapter != adapter or not (form.is_lora or form.variant == "copy"):
                continue
            per_name = [self.index.places(form, form.path, source, [name]) for name in names]
            for indices, key in source.members.items():
                places = [t.members[indices] for own in per_name for t in own[:1] if indices in t.members]
                if self.pairs.goal(key) is None and len(places) == len(names):
                    rows.append((key, *places))
        return rows


def _ambiguity(rows: Sequence[tuple[str, ...]], distinction: str) -> list[Ambiguity]:
    """One ambiguity from rows of a key and its possible places; none without rows."""
    if not rows:
        return []
    keys, *choices = zip(*sorted(rows), strict=True)
    return [Ambiguity(keys, tuple(choices), distinction)]
