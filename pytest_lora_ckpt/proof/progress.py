"""Who wants to know how far long work has come."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Is told how much is done."""

    def __call__(self, done: int, total: int, /) -> None:
        """Take in that so many bytes of so many are done."""
        ...


def no_progress(done: int, total: int, /) -> None:
    """Tell nobody."""
