"""A small object without arguments and its attributes, as protocol 4 writes a dataclass: read in one step.

The metadata of a distributed checkpoint has three for each chunk, of some thirty opcodes each. As with the call that
makes a tensor (`tensor_call`), only the usual spelling is known here, and what differs is left to the machine's loop.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.vocabulary.calls import LOOKED_UP

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.pickle.state import PickleState

BEGINS = b"\x81\x94}\x94("
"""What follows EMPTY_TUPLE: NEWOBJ, MEMOIZE, EMPTY_DICT, MEMOIZE, MARK."""

_REFERENCE = rb"(?:h.|j.{4})"  # BINGET, LONG_BINGET
_LONG = rb"\x8a(?:%b)" % b"|".join(rb"\x%02x.{%d}" % (size, size) for size in range(1, 9))  # LONG1
_INTEGER = rb"(?:K.|M..|J.{4}|%b)" % _LONG  # BININT1, BININT2, BININT
_TEXT = rb"\x8c(?:%b)\x94" % b"|".join(rb"\x%02x.{%d}" % (size, size) for size in range(256))  # SHORT_BINUNICODE
_SIZES = rb"(?:%b\x85\x94|%b{2}\x86\x94|%b{3}\x87\x94|\(%b+t\x94|\))" % ((_INTEGER,) * 4)  # TUPLE1 to 3, TUPLE
_CALL = rb"%b%b\x85\x94R\x94" % (_REFERENCE, _SIZES)  # Of one tuple of integers: TUPLE1, REDUCE
_ENTRY = rb"(%b)(%b|%b|%b|%b)" % (_REFERENCE, _CALL, _REFERENCE, _INTEGER, _TEXT)
_RECORD = rb"\)%b%b(?:%b)?(?:%b)?ub" % (re.escape(BEGINS), _ENTRY, _ENTRY, _ENTRY)
_SHORT, _TEXT_CODE, _LONG_CODE = 0x68, 0x8C, 0x8A
_REFERENCES, _SIGNED = frozenset({_SHORT, 0x6A}), frozenset({0x4A, _LONG_CODE})
_INTEGERS = re.compile(_INTEGER, re.DOTALL)


def read_record_call(machine: PickleState, stack: list[object], start: int) -> int:  # noqa: C901, PLR0912 - As fast as it gets.
    """Make an object of the class on the stack and set its attributes, and return where its opcodes end.

    0 where it is written in another way; then nothing was done.
    """
    memo, found = machine.memo, _record().match(machine.data, start)
    if found is None or machine.sparse:
        return 0
    state: dict[object, object] = {}
    later: list[tuple[str, object, bytes]] = []  # Texts, which are remembered, and functions to call, with arguments.
    parts = iter(found.groups())
    try:
        for key, spelled in zip(parts, parts, strict=True):
            if key is None:
                break
            name, code = memo[_index(key)], spelled[0]
            if type(name) is not str or name in state or name in LOOKED_UP:
                return 0
            if code in _REFERENCES:
                size = 2 if code == _SHORT else 5
                state[name] = memo[_index(spelled[:size])]
                if len(spelled) > size:
                    later.append((name, state[name], spelled[size:-4]))
            elif code == _TEXT_CODE:
                state[name] = spelled[2:-1].decode("utf-8", "surrogatepass")
                later.append((name, state[name], b""))
            else:
                state[name] = _number(spelled)
    except (IndexError, UnicodeDecodeError):
        return 0
    made = stack[-1] = machine.call(stack[-1], (), "made")
    memo += (made, state)
    for name, value, spelled in later:
        if spelled:
            sizes = _sizes(spelled)
            state[name] = result = machine.call(value, (sizes,))
            memo += (sizes, (sizes,), result) if sizes else ((sizes,), result)
        else:
            memo.append(value)
    if type(made) is Opaque:
        made.state = state
    return found.end()


@lru_cache(maxsize=1)
def _record() -> re.Pattern[bytes]:
    """Return the expression, which takes as long to compile as a checkpoint of a thousand tensors to read."""
    return re.compile(_RECORD, re.DOTALL)


def _index(reference: bytes) -> int:
    return reference[1] if reference[0] == _SHORT else int.from_bytes(reference[1:], "little")


def _number(opcode: bytes) -> int:
    code = opcode[0]
    return int.from_bytes(opcode[2 if code == _LONG_CODE else 1 :], "little", signed=code in _SIGNED)


@lru_cache(maxsize=1024)
def _sizes(opcodes: bytes) -> tuple[int, ...]:
    """Return the tuple of integers that these opcodes make; a checkpoint has few different ones."""
    return tuple(map(_number, _INTEGERS.findall(opcodes)))
