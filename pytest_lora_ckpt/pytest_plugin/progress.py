"""How far a long proof has come, behind the line that pytest is at: on a terminal, where somebody waits."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

from pytest_lora_ckpt.wording import size

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

_FIRST, _NEXT = 1.0, 0.5  # Seconds: nobody needs to be told of what is over at once.
_SAVE, _RESTORE, _ERASE = "\x1b7", "\x1b8", "\x1b[K"


class TerminalProgress:
    """Writes how far the proof has come, and takes it away at the end.

    Args:
        config: The run's.
        clock: Tells the time in seconds.
    """

    def __init__(self, config: pytest.Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
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

    def _write(self, text: str) -> None:
        if not is_watched(self._config):
            return
        writer, capture = self._config.get_terminal_writer(), self._config.pluginmanager.getplugin("capturemanager")
        if writer.width_of_current_line + len(text) >= writer.fullwidth:
            return  # On another line it could not be taken away.
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            sys.stdout.write(f"{_SAVE}{text}{_ERASE}{_RESTORE}")
            sys.stdout.flush()


def is_watched(config: pytest.Config) -> bool:
    """Whether somebody looks at a terminal on which a line can be written over."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or config.getoption("verbose") < 0:
        return False
    return bool(reporter.isatty) and os.environ.get("TERM", "dumb") != "dumb"
