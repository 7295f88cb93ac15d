"""What a place for remote files gives: `Server`. There is one for HTTP, and one for all other filesystems of fsspec."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Found:
    """What lies under an address.

    Attributes:
        is_folder: Whether it is a directory.
        size: How many bytes a file has.
        state: What tells one state of the file from another, as far as the server says it: an ETag, a time, a version.
        names: What lies in a directory, as far as it is known already: name -> what that is; None where it is not.
        is_page: Whether it is a page for people: some servers have one for whatever is not there.
        head: The first bytes of a file, as far as they came with the answer.
    """

    is_folder: bool
    size: int = 0
    state: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, Found] | None = None
    is_page: bool = False
    head: bytes = field(default=b"", repr=False)

    def is_like(self, other: Found) -> bool:
        """Whether nothing says that another answer is of another state of the file."""
        shared = self.state.keys() & other.state.keys()
        return self.size == other.size and all(self.state[name] == other.state[name] for name in shared)


class Server(Protocol):
    """A place for remote files. Each method is one request, or few.

    All raise `CheckpointError` where the server cannot be reached, refuses, or does not answer in time.
    """

    def find(self, address: str, head: int) -> Found | None:
        """Return what lies under an address, and up to `head` bytes of it where they come with the answer."""
        ...

    def names(self, folder: str) -> Mapping[str, Found] | None:
        """Return what lies in a directory; None where the server does not say."""
        ...

    def read(self, address: str, found: Found, start: int, stop: int) -> bytes:
        """Return the bytes of a file from `start` to `stop`, of the state in which it was found.

        Raises:
            CheckpointError: Also where it is in another state.
        """
        ...

    def join(self, folder: str, name: str) -> str:
        """Return the address of a name in a directory."""
        ...
