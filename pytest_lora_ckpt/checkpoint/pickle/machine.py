"""A pickle machine that cannot import and cannot call.

`pickle.Unpickler` with its own `find_class` comes close. It is not used because parts of it answer before `find_class`
is asked, or cannot be bounded: extension codes (`copyreg`), a memo index of four bytes that makes the C version
allocate and clear 64 GB, tuples nested so deeply that hashing one overflows the C stack, `BUILD`, which sets attributes
on whatever lies on the stack. This machine has the opcodes (`pickletools`, PEP 3154, PEP 574) and nothing behind them:
a global is a name, a call is a record.
"""

from __future__ import annotations

import struct

from pytest_lora_ckpt.checkpoint.pickle.opcodes import HANDLERS
from pytest_lora_ckpt.checkpoint.pickle.state import BrokenPickleError, MachineState

# A pickle takes a few hundred bytes per tensor: a million keys are 0.3 GB.
MAX_PICKLE = 1 << 30

_UINT32 = struct.Struct("<I")
_NOT_A_PICKLE = (
    *(KeyError, TypeError, ValueError, AttributeError),
    *(OverflowError, MemoryError, RecursionError),
)


class PickleMachine(MachineState):
    """Reads pickles, one after another, from `data`.

    Args:
        data: Bytes, or a memory map of the file.
        position: Where the first pickle begins; after `load`, where it ended.
        builders: qualified name -> what to make of its arguments (our own inert code). Other names become `Opaque`.
        persistent: What to make of a persistent id.

    Example:
        >>> import pickle, datetime
        >>> machine = PickleMachine(pickle.dumps({"length": datetime.timedelta(2)}))
        >>> machine.load()
        {'length': datetime.timedelta(2, 0, 0)}
        >>> machine.globals
        {'datetime.timedelta'}
    """

    def load(self) -> object:
        """Read one pickle and return what it describes.

        Raises:
            BrokenPickleError: Cut off, or no pickle at all.
        """
        self.stack, self.marks, self.memo = [], [], {}
        try:
            return self._run()
        except (IndexError, struct.error) as error:
            # Both mean "nothing there": at the end of the data it was cut off, before it the stack is too short.
            if self.position >= len(self.data) - 4:
                raise BrokenPickleError(f"the pickle ends early, at byte {len(self.data)}", truncated=True) from error
            raise BrokenPickleError(f"not a pickle: broken near byte {self.position}") from error
        except _NOT_A_PICKLE as error:
            raise BrokenPickleError(f"not a pickle: broken near byte {self.position} ({error!r:.80})") from error

    def _run(self) -> object:  # noqa: C901, PLR0912 - A call for each opcode would double the time (measured).
        """Go through the opcodes: those that make up a tensor here, the others in `opcodes`."""
        data, stack, memo, position, end = self.data, self.stack, self.memo, self.position, len(self.data)
        try:
            while True:
                code = data[position]
                position += 1
                match code:
                    case 0x71:  # BINPUT
                        memo[data[position]] = stack[-1]
                        position += 1
                    case 0x72:  # LONG_BINPUT
                        memo[_UINT32.unpack_from(data, position)[0]] = stack[-1]
                        position += 4
                    case 0x68:  # BINGET
                        stack.append(memo[data[position]])
                        position += 1
                    case 0x6A:  # LONG_BINGET
                        stack.append(memo[_UINT32.unpack_from(data, position)[0]])
                        position += 4
                    case 0x94:  # MEMOIZE
                        memo[len(memo)] = stack[-1]
                    case 0x4B:  # BININT1
                        stack.append(data[position])
                        position += 1
                    case 0x28:  # MARK
                        self.marks.append(stack)
                        stack = []
                    case 0x74:  # TUPLE
                        items = tuple(stack)
                        stack = self.marks.pop()
                        stack.append(items)
                    case 0x58:  # BINUNICODE
                        start = position + 4
                        position = start + _UINT32.unpack_from(data, position)[0]
                        if position > end:
                            raise BrokenPickleError(
                                f"the pickle ends early, inside a text at byte {start}", truncated=True
                            )
                        stack.append(data[start:position].decode("utf-8", "surrogatepass"))
                    case 0x52:  # REDUCE
                        arguments = stack.pop()
                        stack[-1] = self.call(stack[-1], arguments)
                    case 0x2E:  # STOP
                        return stack.pop()
                    case _:
                        self.position, self.stack = position, stack
                        HANDLERS[code](self)
                        position, stack = self.position, self.stack
        finally:
            self.position = max(position, self.position)
