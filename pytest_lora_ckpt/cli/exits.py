"""The exit codes of `lora-ckpt`."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended, for scripts; `docs/cli.md` has the same table.

    Example:
        >>> int(ExitCode.FAILED), ExitCode.FAILED.meaning
        (1, 'a check failed, or there are differences')
    """

    FINE = 0
    FAILED = 1
    UNUSABLE = 2
    INTERNAL = 3
    INTERRUPTED = 130
    CLOSED_PIPE = 141

    @property
    def meaning(self) -> str:
        """What it says, in a few words."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.FINE: "all is well",
    ExitCode.FAILED: "a check failed, or there are differences",
    ExitCode.UNUSABLE: "a checkpoint cannot be read, or the command line is wrong",
    ExitCode.INTERNAL: "lora-ckpt itself failed",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.CLOSED_PIPE: "nobody reads the output any more",
}
