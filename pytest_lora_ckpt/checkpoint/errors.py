"""`CheckpointError`: why a path cannot be read as a checkpoint, and what to do about it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_lora_ckpt.checkpoint.address import Place, place
from pytest_lora_ckpt.wording import SafeText, block, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.checkpoint.pickle.globals import Global


UNREACHED = frozenset(
    {"forbidden", "no-ranges", "timeout", "no-connection", "connection-lost", "server-error", "changed"}
)
"""Problems of a remote file that any other request for it would have too."""


class CheckpointError(Exception):
    """A path that cannot be read as a checkpoint, or a tensor that cannot be read from one.

    Attributes:
        path: What was asked for.
        problem: The kind, one word that stays the same: `"missing"`, `"truncated"`, `"git-lfs-pointer"`,
            `"no-state-dict"`, `"empty"`, `"broken-config"`, `"not-a-checkpoint"` …
        expected: What should be there.
        found: What is there instead.
        remedy: What to do next.
        globals: Every class and function that the pickles ask for, as far as they were read.
        unread: Files that lie with it whose pickles were not read to the end -> why.

    Example:
        >>> print(CheckpointError("empty-file", "a.ckpt", expected="a checkpoint", found="0 bytes", remedy="Copy it."))
        cannot read checkpoint a.ckpt (empty-file)
          expected: a checkpoint
          found: 0 bytes
          what to do: Copy it.
    """

    def __init__(self, problem: str, path: str | Place, *, expected: str, found: str, remedy: str) -> None:
        self.problem = problem
        self.path = place(path)
        super().__init__(problem, str(self.path))
        self.expected: str = block(expected, wrapped=False)
        self.found: str = block(found, wrapped=False)
        self.remedy: str = block(remedy, wrapped=False)
        self.globals: tuple[Global, ...] = ()
        self.unread: Mapping[str, str] = {}

    def __str__(self) -> str:
        return explained(f"cannot read checkpoint {printable(self.path)} ({self.problem})", self)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way from a pytest-xdist worker: `Exception` itself would forget the keyword arguments."""
        fields = {"expected": self.expected, "found": self.found, "remedy": self.remedy}
        return (
            partial(type(self), self.problem, self.path, **fields),
            (),
            {"globals": self.globals, "unread": self.unread},
        )


class UnknownKeyError(CheckpointError, KeyError):
    """A key that the checkpoint does not have; a `KeyError` as well, since it is asked for like a mapping's."""

    __str__ = CheckpointError.__str__


class NotMineError(Exception):
    """The file is of another format than the one that was asked; the message says how it can tell."""


class BrokenFileError(Exception):
    """A file of the format that was asked does not hold together.

    Attributes:
        truncated: The bytes are fine as far as they go, and end too early.
        globals: What the pickles asked for before they broke.
    """

    def __init__(self, reason: str, *, truncated: bool = False, globals: tuple[Global, ...] = ()) -> None:  # noqa: A002
        super().__init__(reason)
        self.truncated = truncated
        self.globals = globals


class AmbiguousArchiveError(BrokenFileError):
    """Two readers could find different things in an archive; the message says what could part them."""


def local(path: Place) -> Path:
    """Return a path on this machine.

    Raises:
        CheckpointError: It is an address.
    """
    if isinstance(path, Path):
        return path
    raise CheckpointError(
        "not-local",
        path,
        expected="a checkpoint on this machine, to be copied",
        found="an address",
        remedy="Download it first and give the path of the copy.",
    )


def big_endian(path: str | Place, found: str) -> CheckpointError:
    """Return the error for values that this machine would have to turn around."""
    return CheckpointError(
        "big-endian",
        path,
        expected="values with the lowest byte first",
        found=f"{found}: names and shapes are known, values are not",
        remedy="Load it with `torch.load`, which swaps the bytes, and save it again.",
    )


def changed(path: str | Place, expected: str, found: str) -> CheckpointError:
    """Return the error for a file that is another than when the checkpoint was opened."""
    return CheckpointError(
        "changed",
        path,
        expected=expected,
        found=found,
        remedy="Open the checkpoint again once nothing writes to it any more.",
    )


class _Explained(Protocol):
    expected: str
    found: str
    remedy: str


def explained(fact: str, error: _Explained) -> SafeText:
    """Put the fact first, then what was expected, what is there instead, and what to do; safe to print."""
    lines = [fact]
    for label, text in (("expected", error.expected), ("found", error.found), ("what to do", error.remedy)):
        lines.append(f"  {label}: " + text.strip().replace("\n", "\n    "))
    return block("\n".join(lines), wrapped=False)
