"""How far a long proof has come: when somebody who waits is to be told, and what."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pytest_lora_ckpt.wording import size

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST, _NEXT = 1.0, 0.5  # Seconds: nobody needs to be told of what is over at once.


class Progress(ABC):
    """Says how far a proof has come, and takes it away at the end.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = self._last = -1.0

    def __call__(self, done: int, total: int, /) -> None:
        """Take in that so many bytes of so many are compared."""
        now = self._clock()
        if self._begin < 0:
            self._begin = self._last = now
        is_over = done >= total
        is_shown = self._last > self._begin
        if is_over and is_shown:
            self._write("")
        elif not is_over and now - self._last >= (_NEXT if is_shown else _FIRST):
            self._write(f" loaded: {size(done)} of {size(total)} compared")
            self._last = now
        if is_over:
            self._begin = self._last = -1.0

    @abstractmethod
    def _write(self, text: str) -> None:
        """Show a text in place of the one before; an empty one takes that away."""
