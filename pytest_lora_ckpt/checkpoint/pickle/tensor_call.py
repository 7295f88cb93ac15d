"""The call that makes a tensor, as torch writes it: some thirty opcodes, always the same ones, read in one step.

A checkpoint has thousands of them, and to go through their opcodes one by one takes half of the time to open it. Only
the usual spelling is known here; what differs is left to the machine's loop, which gives the same. The first
byte of each opcode says how long it is, so that the expression cannot match anything but these opcodes.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.pickle.state import PickleState

_PUT = rb"r(.{4})"  # LONG_BINPUT
_INTEGER = rb"(?:K.|M..|J.{4})"  # BININT1, BININT2, BININT
_DIGITS = (*range(1, 8), 14, 15)  # Of a number, or of an address in the legacy format.
_NAME = rb"X(%b)" % b"|".join(rb"\x%02x\0\0\0[0-9]{%d}" % (size, size) for size in _DIGITS)  # BINUNICODE
_TUPLE = rb"(%b\x85|%b{2}\x86|%b{3}\x87)" % (_INTEGER, _INTEGER, _INTEGER)  # TUPLE1 to TUPLE3
_CALL = re.compile(
    rb"\(\(h(.)(h.|j.{4})%b%b" % (_NAME, _PUT)  # MARK, MARK; BINGET, LONG_BINGET: "storage", its class; its name
    + rb"h(.)(%b)(N?)t%bQ" % (_INTEGER, _PUT)  # Its device and number of elements, no view; TUPLE, BINPERSID
    + rb"(%b)(?:%b%b%b%b|\)\))" % (_INTEGER, _TUPLE, _PUT, _TUPLE, _PUT)  # Offset, shape, stride; EMPTY_TUPLE twice
    + rb"([\x88\x89])h(.)\)R%b" % _PUT  # Whether it has a gradient; its hooks, REDUCE: an empty OrderedDict
    + rb"t%bR%b" % (_PUT, _PUT),  # TUPLE, REDUCE
    re.DOTALL,
)
_PLACES = struct.Struct("<7I").pack


def read_tensor_call(machine: PickleState, stack: list[object], start: int) -> int:
    """Read the arguments from `start` on, call the function on the stack with them, and return where the call ends.

    0 where it is written in another way; then nothing was done.
    """
    memo, persistent, found = machine.memo, machine.persistent, _CALL.match(machine.data, start)
    if found is None or persistent is None or machine.sparse:
        return 0
    # fmt: off
    (word, kind, name, at_name, device, numel, view, at_saved, offset, shape, at_shape, stride, at_stride, gradient,
     hooks, at_hooks, at_arguments, at_made) = found.groups(b"")
    # fmt: on
    at = len(memo)
    puts = at_name + at_saved + at_shape + at_stride + at_hooks + at_arguments + at_made
    if not _PLACES(at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6).startswith(puts):
        return 0
    try:
        named = memo[word[0]], memo[_integer(kind)], name[4:].decode("ascii"), memo[device[0]], _integer(numel)
        hooked = memo[hooks[0]]
    except IndexError:
        return 0
    saved = (*named, None) if view else named
    storage, made_hooks = persistent(saved), machine.call(hooked, ())
    sizes, steps = _sizes(shape), _sizes(stride)
    arguments = (storage, _integer(offset), sizes, steps, gradient == b"\x88", made_hooks)
    made = stack[-1] = machine.call(stack[-1], arguments)
    places = (sizes, steps) if shape else ()
    memo += (named[2], saved, *places, made_hooks, arguments, made)
    return found.end()


@lru_cache(maxsize=1024)
def _integer(opcode: bytes) -> int:
    return int.from_bytes(opcode[1:], "little", signed=opcode[0] == 0x4A)  # noqa: PLR2004 - BININT.


@lru_cache(maxsize=1024)
def _sizes(opcodes: bytes) -> tuple[int, ...]:
    """Return the tuple of integers that these opcodes make; a checkpoint has few different ones."""
    return tuple(map(_integer, re.findall(_INTEGER, opcodes, re.DOTALL)))
