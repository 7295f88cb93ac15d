"""What a pickle machine works on: data, stack and memo; and the two things that other machines really do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.checkpoint.pickle.plain import PLAIN, Builder, UnfitError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from mmap import mmap

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Protocols 0 to 2 use Python 2's names.


class BrokenPickleError(Exception):
    """The bytes are no whole, well-formed pickle.

    Attributes:
        truncated: The bytes are fine as far as they go, and end too early.
    """

    def __init__(self, reason: str, *, truncated: bool = False) -> None:
        """See the class."""
        super().__init__(reason)
        self.truncated = truncated


class MachineState:
    """The data and what was read from it so far.

    Attributes:
        data: Bytes, or a memory map of the file.
        position: Where the next opcode lies.
        globals: Every `module.name` that was met.
    """

    def __init__(
        self,
        data: bytes | mmap,
        position: int = 0,
        *,
        builders: Mapping[str, Builder] | None = None,
        persistent: Builder | None = None,
    ) -> None:
        """See the class."""
        self.data = data
        self.position = position
        self.builders = {**PLAIN, **(builders or {})}
        self.persistent = persistent
        self.globals: set[str] = set()
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}

    @property
    def left(self) -> int:
        """How many bytes there are behind `position`."""
        return len(self.data) - self.position

    def skip(self, length: int) -> None:
        """Step over the next `length` bytes, which must be there."""
        if length > self.left:
            raise BrokenPickleError(f"the pickle ends early, inside a value at byte {self.position}", truncated=True)
        self.position += length

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes."""
        start = self.position
        self.skip(length)
        return self.data[start : self.position]

    def number(self, size: int) -> int:
        """Return the next number, unsigned, of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        """Return the next line without its end."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise BrokenPickleError("the pickle ends early, inside a line", truncated=True)
        return self.take(end + 1 - self.position)[:-1]

    def pop_mark(self) -> list[object]:
        """Return what was pushed since the last mark, and forget the mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def named(self, module: object, name: object) -> Opaque:
        """Return the record of a global, which is only a name here: nothing is imported."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise BrokenPickleError("a global's name is not a text")
        qualname = f"{_RENAMED.get(module, module)}.{name}"
        self.globals.add(qualname)
        return Opaque(qualname)

    def call(self, function: object, arguments: object, keywords: object = None) -> object:
        """Return what our own builder makes of the call, or a record of it: nothing of the file's is called."""
        if not isinstance(function, Opaque) or not isinstance(arguments, tuple):
            raise BrokenPickleError("something that is neither a class nor a function is called")
        builder = self.builders.get(function.qualname) if function.args is None else None
        if builder is not None and not keywords:
            try:
                return builder(arguments)
            except UnfitError:
                pass
        return Opaque(function.qualname, arguments, keywords if isinstance(keywords, dict) else None)
