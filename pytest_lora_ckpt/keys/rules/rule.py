"""One step of a remapping: a regular expression over the whole key, who applies it, and how many keys it serves."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind: TypeAlias = Literal[
    "strip",
    "insert",
    "replace",
    "insert-adapter",
    "rename-adapter",
    "drop-adapter",
    "wrap-peft",
    "unwrap-peft",
    "modules-to-save",
    "convention",
    "move",
]
AppliedBy: TypeAlias = Literal["torch", "peft", "you"]

_WHO: Mapping[str, str] = {
    "torch": "torch does it",
    "peft": "PEFT's loader does it",
    "you": "your loader must do it",
}


@dataclass(frozen=True, slots=True)
class Rule:
    r"""A step from checkpoint keys towards model keys: `re.sub(pattern, replacement, key)`.

    Attributes:
        kind: What the step does, as a slug.
        pattern: A regular expression in Python's syntax.
        replacement: What takes its place, `\1` standing for the first group.
        by: Who applies it: `torch` (nothing to do), `peft` (PEFT's own loader), or `you` (your loader must).
        keys: The number of checkpoint keys that it serves.
        example: A key before and after this step.
        text: What it does, in words.

    Example:
        >>> rule = Rule("strip", r"^module\.", "", "you", 2, ("module.fc.weight", "fc.weight"), "strip module.")
        >>> rule.apply("module.fc.bias")
        'fc.bias'
        >>> rule.describe()
        'strip module. (2 keys, your loader must do it)'
    """

    kind: Kind
    pattern: str
    replacement: str
    by: AppliedBy
    keys: int
    example: tuple[str, str]
    text: str
    _compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile the pattern once: a rule is applied to every key."""
        object.__setattr__(self, "_compiled", re.compile(self.pattern))

    def apply(self, key: str) -> str:
        """Return the key after this step; the same key where the step does not concern it."""
        return self._compiled.sub(self.replacement, key)

    def describe(self) -> str:
        """Say in one line what the step does, for how many keys, and who applies it."""
        plural = "key" if self.keys == 1 else "keys"
        return f"{self.text} ({self.keys} {plural}, {_WHO[self.by]})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "rule": self.text,
            "kind": self.kind,
            "pattern": self.pattern,
            "replacement": self.replacement,
            "by": self.by,
            "keys": self.keys,
            "example": list(self.example),
        }
