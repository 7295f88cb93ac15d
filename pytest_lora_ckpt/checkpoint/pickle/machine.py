"""A pickle machine that cannot import and cannot call.

`pickle.Unpickler` with its own `find_class` comes close. It is not used because parts of it answer before `find_class`
is asked, or cannot be bounded: extension codes (`copyreg`), a memo index of four bytes that makes the C version
allocate and clear 64 GB, tuples nested so deeply that hashing one overflows the C stack, `BUILD`, which sets attributes
on whatever lies on the stack. This machine has the opcodes (`pickletools`, PEP 3154, PEP 574) and nothing behind them:
a global is a name, a call is a record.
"""

from __future__ import annotations

import struct
from itertools import chain

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.pickle.opcodes import HANDLERS
from pytest_lora_ckpt.checkpoint.pickle.record_call import BEGINS, read_record_call
from pytest_lora_ckpt.checkpoint.pickle.state import PickleState
from pytest_lora_ckpt.checkpoint.pickle.tensor_call import read_tensor_call

_UINT32 = struct.Struct("<I")
_NOT_A_PICKLE = (
    *(KeyError, TypeError, ValueError, AttributeError),
    *(OverflowError, MemoryError, RecursionError),
)


class PickleMachine(PickleState):
    """Reads pickles, one after another, from `data`.

    Args:
        data: The bytes.
        entry: What to call them where it is said what they ask for.
        builders: qualified name -> what to make of its arguments (our own inert code). Other names become `Opaque`.
        persistent: What to make of a persistent id.
        budget: What the audit may spend.
        start: Where in the bytes the first one begins.

    Attributes:
        position: Where the next opcode lies.
        ledger: Every class and function that was asked for, also where the pickle breaks later.

    Example:
        >>> import pickle, datetime
        >>> machine = PickleMachine(pickle.dumps({"length": datetime.timedelta(2)}))
        >>> machine.load()
        {'length': datetime.timedelta(2, 0, 0)}
        >>> [(each.qualname, each.use) for each in machine.ledger.globals()]
        [('datetime.timedelta', 'called')]
    """

    def load(self) -> object:
        """Read one pickle and return what it describes.

        Raises:
            BrokenFileError: Cut off, or not a pickle at all.
        """
        try:
            return self._run()
        except (IndexError, struct.error) as error:
            # Both mean "nothing there": at the end of the data it was cut off, before it the stack is too short.
            if self.position >= len(self.data) - 4:
                raise BrokenFileError(f"the pickle ends early, at byte {len(self.data)}", truncated=True) from error
            raise BrokenFileError(f"not a pickle: broken near byte {self.position}") from error
        except _NOT_A_PICKLE as error:
            raise BrokenFileError(f"not a pickle: broken near byte {self.position} ({error!r:.80})") from error
        finally:
            self.stack, self.marks, self.memo, self.sparse = [], [], [], {}

    def _run(self) -> object:  # noqa: C901, PLR0912, PLR0915 - A call for each opcode would double the time.
        """Go through the opcodes: those that make up a tensor here, by frequency, the others in `opcodes.HANDLERS`."""
        data, stack, memo, end = self.data, self.stack, self.memo, len(self.data)
        uint32, call, sparse, position = _UINT32.unpack_from, self.call, self.sparse, self.position
        try:
            for _ in chain.from_iterable(self.blocks()):
                code = data[position]
                position += 1
                match code:
                    case 0x72:  # LONG_BINPUT
                        (index,) = uint32(data, position)
                        if index == len(memo) and not sparse:
                            memo.append(stack[-1])
                        else:
                            self.put(index, stack[-1])
                        position += 4
                    case 0x4B:  # BININT1
                        stack.append(data[position])
                        position += 1
                    case 0x68:  # BINGET
                        index = data[position]
                        stack.append(memo[index] if index < len(memo) else sparse[index])
                        position += 1
                    case 0x4D:  # BININT2
                        stack.append(data[position] | data[position + 1] << 8)
                        position += 2
                    case 0x28:  # MARK
                        if data[position] == 0x28 and (behind := read_tensor_call(self, stack, position - 1)):  # noqa: PLR2004
                            position = behind
                        else:
                            self.marks.append(stack)
                            stack = []
                    case 0x58:  # BINUNICODE
                        start = position + 4
                        position = start + uint32(data, position)[0]
                        if position > end:
                            raise BrokenFileError(
                                f"the pickle ends early, inside a text at byte {start}", truncated=True
                            )
                        stack.append(data[start:position].decode("utf-8", "surrogatepass"))
                    case 0x74:  # TUPLE
                        items = tuple(stack)
                        stack = self.marks.pop()
                        stack.append(items)
                    case 0x86:  # TUPLE2
                        second = stack.pop()
                        stack[-1] = (stack[-1], second)
                    case 0x52 | 0x81:  # REDUCE, NEWOBJ
                        arguments = stack.pop()
                        stack[-1] = call(stack[-1], arguments, "called" if code == 0x52 else "made")  # noqa: PLR2004
                    case 0x94:  # MEMOIZE
                        if sparse:
                            self.put(len(memo) + len(sparse), stack[-1])
                        else:
                            memo.append(stack[-1])
                    case 0x6A:  # LONG_BINGET
                        (index,) = uint32(data, position)
                        stack.append(memo[index] if index < len(memo) else sparse[index])
                        position += 4
                    case 0x89:  # NEWFALSE
                        stack.append(False)
                    case 0x29:  # EMPTY_TUPLE
                        if data.startswith(BEGINS, position) and (
                            behind := read_record_call(self, stack, position - 1)
                        ):
                            position = behind
                        else:
                            stack.append(())
                    case 0x51:  # BINPERSID
                        saved = stack.pop()
                        if self.persistent is None or not isinstance(saved, tuple):
                            raise BrokenFileError("a persistent id where none can be")
                        stack.append(self.persistent(saved))
                    case 0x2E:  # STOP
                        return stack.pop()
                    case _:
                        self.position, self.stack = position, stack
                        HANDLERS[code](self)
                        position, stack = self.position, self.stack
            raise AssertionError("the blocks have no end")
        finally:
            self.position = max(position, self.position)
