"""The state of a pickle machine: the bytes, the stack, the memo, and what is done with a global: nothing."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from itertools import repeat
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.limits import Budget
from pytest_lora_ckpt.checkpoint.pickle.globals import Ledger
from pytest_lora_ckpt.checkpoint.pickle.inert import PLAIN, Builder, Opaque, UnfitError
from pytest_lora_ckpt.checkpoint.pickle.watched import note_call, watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_lora_ckpt.checkpoint.pickle.globals import Use

_FIRST_BLOCK, _BLOCK = 16, 8192  # Opcodes: there may be many small pickles.
_VALUES = frozenset({str, int})
_PYTHON_3 = 3  # The first protocol in which names are those of Python 3.


class PickleState:
    """What the opcodes work on. See `PickleMachine`."""

    def __init__(  # noqa: PLR0913 - All but the first by keyword or by default.
        self,
        data: bytes,
        entry: str = "",
        *,
        builders: Mapping[str, Builder] | None = None,
        persistent: Builder | None = None,
        budget: Budget | None = None,
        start: int = 0,
    ) -> None:
        self.budget = budget or Budget()
        if not start:
            self.budget.grant(len(data))
        self.data = data
        self.position = start
        self.protocol = 0
        self.builders = {**PLAIN, **(builders or {})}
        self.persistent = persistent
        self.ledger = Ledger(entry)
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        # Every pickler counts its memo up from 0 or 1. What else a pickle may say is kept apart: see `put`.
        self.memo: list[object] = []
        self.sparse: dict[int, object] = {}

    def put(self, index: int, value: object) -> None:
        """Remember a value under an index, which is the next one in all pickles that a pickler wrote."""
        if 0 <= index < len(self.memo):
            self.memo[index] = value
            return
        self.sparse[index] = value
        while len(self.memo) in self.sparse:
            self.memo.append(self.sparse.pop(len(self.memo)))

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes, which must be there."""
        start = self.position
        if length > len(self.data) - start:
            raise BrokenFileError(f"the pickle ends early, inside a value at byte {start}", truncated=True)
        self.position += length
        return self.data[start : self.position]

    def number(self, size: int, *, signed: bool = False) -> int:
        """Return the next number of `size` bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> bytes:
        """Return the next line without its end."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise BrokenFileError("the pickle ends early, inside a line", truncated=True)
        return self.take(end + 1 - self.position)[:-1]

    def pop_mark(self) -> list[object]:
        """Return what was pushed since the last mark, and forget the mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def named(self, module: object, name: object) -> Opaque:
        """Return the record of a global, which is only a name here: nothing is imported.

        Names of Python 2 are those that `pickle` makes of them, in the protocols in which it does.
        """
        if not isinstance(module, str) or not isinstance(name, str):
            raise BrokenFileError("a global's name is not a text")
        if self.protocol < _PYTHON_3:
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        known = len(self.ledger.asked)
        asked = self.ledger.ask(module, name, self.position)
        if len(self.ledger.asked) > known:
            self.budget.spend("names", 1)
        return Opaque(f"{module}.{name}", asked=asked)

    def blocks(self) -> Iterator[repeat[None]]:
        """Give blocks of opcodes without an end, each paid for in advance."""
        block = _FIRST_BLOCK
        while True:
            self.budget.spend("opcodes", block)
            if block == _BLOCK:
                self.budget.check_memory()
            yield repeat(None, block)
            block = min(2 * block, _BLOCK)

    def _pay(self, arguments: tuple[object, ...]) -> None:
        """Spend what a builder of plain data copies: with a few opcodes a pickle can ask for it again and again."""
        for each in arguments:
            if isinstance(each, (str, bytes, bytearray)):
                self.budget.spend("made_bytes", len(each))
            elif isinstance(each, (list, tuple, set, frozenset)):
                self.budget.spend("elements", len(each))

    def call(self, function: object, arguments: object, use: Use = "called", keywords: object = None) -> object:
        """Return what our own builder makes of the call, or a record of it: nothing of the file's is called."""
        if type(function) is not Opaque or function.asked is None:
            raise BrokenFileError("something that is neither a class nor a function is called")
        if type(arguments) is not tuple:
            note_call(self.ledger, function, use=use)  # `pickle` takes any iterable, in one of its two versions.
            raise BrokenFileError("a call whose arguments are not a tuple")
        asked = function.asked
        if function.args is not None:
            note_call(self.ledger, function, arguments, use)
        elif asked.watched:
            spelled = watch(self.ledger, asked, arguments, use)
            if spelled is not None:
                return spelled
        elif use == "called" and len(arguments) == 1 and type(arguments[0]) in _VALUES:
            asked.note("valued")
        else:
            asked.note(use)
        builder = self.builders.get(function.qualname) if function.args is None else None
        if builder is not None and not keywords:
            if arguments and function.qualname in PLAIN:
                self._pay(arguments)
            try:
                return builder(arguments)
            except UnfitError:
                pass
        return Opaque(function.qualname, arguments, keywords if isinstance(keywords, dict) else None, asked=asked)
