"""What a loader for a library says where it cannot load."""

from __future__ import annotations

GIVE_LOADER = "Give your own code: --lora-loader=module:function, or --lora-model=module:factory."


class StackError(Exception):
    """A library's own way to load does not work here.

    Args:
        message: Why, in a sentence.
        remedy: What to do.
    """

    cause = "loader-failed"

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy
