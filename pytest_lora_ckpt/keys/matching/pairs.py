"""Pairs of keys as the matching finds them: by template, or key by key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_lora_ckpt.keys.matching.candidates import IndexMap
    from pytest_lora_ckpt.keys.matching.flattened import FlatFusion
    from pytest_lora_ckpt.keys.templates import Indices, Template


@dataclass(slots=True)
class Link:
    """Members of a template that all go to one template of the model."""

    target: Template
    mapped: IndexMap
    members: list[Indices]


@dataclass(slots=True)
class Pairs:
    """Pairs of keys, found one by one.

    Attributes:
        mapping: Checkpoint key -> model key of the same shape.
        mismatches: Checkpoint key -> model key of another shape.
        source_of: Model key -> the first checkpoint key that took it.
        links: The same pairs by template, where they were found by template: position -> where its members go.
        symbolic: For pairs that were found key by key, both keys with symbols for their numbers.
        fused: Flattened names of modules for which the model has several.
    """

    mapping: dict[str, str] = field(default_factory=dict)
    mismatches: dict[str, str] = field(default_factory=dict)
    source_of: dict[str, str] = field(default_factory=dict)
    links: dict[int, list[Link]] = field(default_factory=dict)
    symbolic: dict[str, tuple[str, str]] = field(default_factory=dict)
    fused: list[FlatFusion] = field(default_factory=list)

    def add(self, key: str, goal: str, *, same: bool) -> None:
        """Note a pair."""
        (self.mapping if same else self.mismatches)[key] = goal
        self.source_of.setdefault(goal, key)

    def add_all(self, source: Template, target: Template) -> list[Indices]:
        """Note all pairs of two templates whose numbers are the same, and none of which was noted before."""
        theirs = target.members
        linked = [indices for indices in source.members if indices in theirs]
        keys = [source.members[indices] for indices in linked]
        goals = [theirs[indices] for indices in linked]
        (self.mapping if source.shape == target.shape else self.mismatches).update(zip(keys, goals, strict=True))
        self.source_of.update(zip(goals, keys, strict=True))
        return linked

    def goal(self, key: str) -> str | None:
        """The model key that a checkpoint key meets, whatever its shape."""
        found = self.mapping.get(key)
        return self.mismatches.get(key) if found is None else found
