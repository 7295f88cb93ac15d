"""What the pickles of a checkpoint ask for: every class and function that they name, and what they do with it."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, CheckpointError
from pytest_lora_ckpt.checkpoint.pickle.inert import describe
from pytest_lora_ckpt.vocabulary.calls import WATCHED
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PART = 60  # Characters of one step of a path.
_STEPS = 12  # Steps of a path that are shown.

Place: TypeAlias = "tuple[Place | None, object]"
"""A place in an object: the place around it, and the step from there; the object itself has neither."""

Use = Literal["named", "made", "valued", "called", "changed"]


def path_of(place: Place | None) -> str:
    """Write a place as a path, from its end backwards: a hostile object is a million levels deep.

    Example:
        >>> path_of((((None, None), "hyper_parameters"), 3))
        'hyper_parameters[3]'
    """
    steps: list[str] = []
    while place is not None and place[0] is not None and len(steps) <= _STEPS:
        place, step = place
        if type(step) is int:
            steps.append(f"[{step}]")
        else:
            steps.append(f".{printable(step if isinstance(step, str) else describe(step, _PART), _PART)}")
    return ("…" if len(steps) > _STEPS else "") + "".join(reversed(steps)).removeprefix(".")


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a pickle asks for; it was neither imported nor called.

    Attributes:
        module: The module that would be imported, as Python 3 calls it.
        name: What would be taken from it; with dots where it is an attribute of an attribute.
        entry: The file, and the record in it where it has records: `"last.ckpt: last/data.pkl"`.
        path: Where in the saved object it lies, `"hyper_parameters.optimizer"`; None where nothing in the result holds
            it: it was thrown away, or it only spells plain data.
        use: What loading does with it: `"named"`, it is only looked up; `"made"`, an instance is made of the class,
            without a call; `"called"`; `"valued"`, called with one text or number, as members of enums are; or
            `"changed"`, its attributes or entries are set.
        byte: Where in the entry it is asked for.
        count: How often it is used in this way.

    Example:
        >>> asked = Global("posix", "system", "a.ckpt: a/data.pkl", "callbacks.x", "called")
        >>> asked.qualname, asked.called
        ('posix.system', True)
    """

    module: str
    name: str
    entry: str
    path: str | None = None
    use: Use = "named"
    byte: int = 0
    count: int = 1

    @property
    def qualname(self) -> str:
        """Module and name in one."""
        return f"{self.module}.{self.name}"

    @property
    def called(self) -> bool:
        """Whether loading does more than look it up."""
        return self.use != "named"

    def within(self, file: str) -> Global:
        """Return the same for an entry that is a record of a file, or the whole of it."""
        return dataclasses.replace(self, entry=f"{file}: {self.entry}" if self.entry else file)

    def below(self, folder: str) -> Global:
        """Return the same for a file that lies in this directory; an empty one is where the checkpoint lies."""
        return dataclasses.replace(self, entry=f"{folder}/{self.entry}") if folder else self


@dataclass(slots=True, eq=False)
class Asked:
    """One name as a pickle asks for it, while it is read: what is done with it is noted here.

    Attributes:
        spelled: Whether it was called only to spell the name of a class, such as `getattr(Outer, "Inner")`.
        watched: Whether its arguments have to be looked at: it may call them.
    """

    module: str
    name: str
    byte: int
    watched: bool
    uses: dict[Use, int] = field(default_factory=dict)
    places: dict[Use, Place] = field(default_factory=dict)
    spelled: bool = False

    @property
    def qualname(self) -> str:
        """Module and name in one."""
        return f"{self.module}.{self.name}"

    def note(self, use: Use) -> None:
        """Count one use."""
        self.uses[use] = self.uses.get(use, 0) + 1


class Ledger:
    """Every name that the pickles of one entry ask for.

    Args:
        entry: What to call the entry.

    Attributes:
        inner: Pickles that one of the names is called with, to be loaded from there, each with its place.
    """

    def __init__(self, entry: str) -> None:
        self.entry = entry
        self.asked: dict[tuple[str, str], Asked] = {}
        self.inner: list[tuple[bytes, int]] = []

    def ask(self, module: str, name: str, byte: int) -> Asked:
        """Return the row of a name."""
        row = self.asked.get((module, name))
        if row is None:
            row = self.asked[module, name] = Asked(module, name, byte, (module, name) in WATCHED)
        return row

    @contextmanager
    def on_error(self) -> Iterator[None]:
        """Let an error take along what was asked for until then: loading runs that before it breaks at the same place.

        Raises:
            BrokenFileError: What is raised inside.
            CheckpointError: What is raised inside.
        """
        try:
            yield
        except (BrokenFileError, CheckpointError) as error:
            error.globals = self.globals()
            raise

    def globals(self) -> tuple[Global, ...]:
        """Return what was asked for so far, sorted: a row for each use of each name."""
        found: list[Global] = []
        for row in sorted(self.asked.values(), key=lambda row: row.qualname):
            uses: Mapping[Use, int] = row.uses or ({} if row.spelled else {"named": 1})
            found += (
                Global(
                    row.module,
                    row.name,
                    self.entry,
                    path_of(row.places[use]) if use in row.places else None,
                    use,
                    row.byte,
                    number,
                )
                for use, number in uses.items()
            )
        return tuple(found)
