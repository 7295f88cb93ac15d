"""A hostile file as code: what writes it, and what must be said of it. Nothing binary is kept in the repository."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write = Callable[[Path], Path]

MARKER = "EXECUTED"
"""The directory that every payload makes where it runs: harmless, and seen."""


class Expect(enum.Enum):
    """What the audit must say of a sample."""

    CAUGHT = "`readable` or `safe` fails"
    UNREADABLE = "`readable` fails"
    FAILS = "some check fails"
    NOTICED = "some check fails, or a finding or note is shown"
    PASSES = "`readable` and `safe` pass"
    SURVIVES = "whatever is said, it is said: no fault of ours, within the limits"


class Kind(enum.Enum):
    """What a family attacks."""

    CODE = "code in a pickle"
    ARCHIVE = "archives that two readers read differently"
    RESOURCES = "memory and time"
    DATA = "headers, configs, manifests"
    PATH = "links and special files"
    TEXT = "the report's text"


@dataclass(frozen=True)
class Sample:
    """One hostile file.

    Attributes:
        family: Name of its family.
        name: Name within the family.
        kind: What it attacks.
        expect: What must be said.
        write: Writes it into an empty directory and returns the path to audit.
        runs: Whether Python's own `pickle`, or `torch.load` without `weights_only`, runs the payload, which makes
            `MARKER`.
        asks: Globals that must be named in the result, as `module.name`.
    """

    family: str
    name: str
    kind: Kind
    expect: Expect
    write: Write = field(repr=False)
    runs: bool = False
    asks: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Return the name by which it is known everywhere."""
        return f"{self.family}/{self.name}"


@dataclass
class Family:
    """Collects the samples of one family; a builder is any function `folder -> path`."""

    name: str
    kind: Kind
    expect: Expect
    samples: list[Sample] = field(default_factory=list)

    def add(
        self, name: str, write: Write, expect: Expect | None = None, *, runs: bool = False, asks: tuple[str, ...] = ()
    ) -> None:
        """Add a sample."""
        self.samples.append(Sample(self.name, name, self.kind, expect or self.expect, write, runs, asks))

    def __iter__(self) -> Iterator[Sample]:
        """Give the samples."""
        return iter(self.samples)
