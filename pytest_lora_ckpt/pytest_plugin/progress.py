"""How far a long proof has come, behind the line that pytest is at: on a terminal, where somebody waits."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

_SAVE, _RESTORE, _ERASE = "\x1b7", "\x1b8", "\x1b[K"


class TerminalProgress(Progress):
    """Writes how far the proof has come, and takes it away at the end.

    Args:
        config: The run's.
        clock: Tells the time in seconds.
    """

    def __init__(self, config: pytest.Config, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._config = config

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
