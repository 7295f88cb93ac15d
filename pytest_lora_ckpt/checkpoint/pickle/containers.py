"""The opcodes of a pickle that make and fill containers: plain ones, and those that an `Opaque` would have been."""

from __future__ import annotations

from collections.abc import Callable

from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.checkpoint.pickle.plain import hashable
from pytest_lora_ckpt.checkpoint.pickle.state import BrokenPickleError, MachineState

Handler = Callable[[MachineState], None]


def tuple_of(count: int) -> Handler:
    """Make a tuple of the topmost items."""

    def make(machine: MachineState) -> None:
        stack = machine.stack
        if len(stack) < count:
            raise BrokenPickleError("a tuple of what is not there")
        stack[-count:] = [tuple(stack[-count:])]

    return make


def make_list(machine: MachineState) -> None:
    """Make a list of what lies above the mark."""
    items = machine.pop_mark()
    machine.stack.append(items)


def _pairs(items: list[object]) -> dict[object, object]:
    if len(items) % 2:
        raise BrokenPickleError("a key without a value")
    return {hashable(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def make_dict(machine: MachineState) -> None:
    """Make a dict of what lies above the mark."""
    items = machine.pop_mark()
    machine.stack.append(_pairs(items))


def make_frozenset(machine: MachineState) -> None:
    """Make a frozenset of what lies above the mark."""
    items = machine.pop_mark()
    machine.stack.append(frozenset(hashable(item) for item in items))


def _extend(target: object, items: list[object]) -> None:
    if isinstance(target, Opaque):
        if target.elements is None:
            target.elements = []
        target.elements.extend(items)
    elif isinstance(target, list):
        target.extend(items)
    else:
        raise BrokenPickleError("something is appended to what is no list")


def _update(target: object, items: list[object]) -> None:
    if isinstance(target, Opaque):
        if target.entries is None:
            target.entries = {}
        target = target.entries
    if not isinstance(target, dict):
        raise BrokenPickleError("a key is set in what is no dict")
    target.update(_pairs(items))


def append(machine: MachineState) -> None:
    """Append the topmost item to what lies below it."""
    item = machine.stack.pop()
    _extend(machine.stack[-1], [item])


def appends(machine: MachineState) -> None:
    """Append what lies above the mark to what lies below it."""
    items = machine.pop_mark()
    _extend(machine.stack[-1], items)


def set_item(machine: MachineState) -> None:
    """Set the topmost key and value in what lies below them."""
    value, key = machine.stack.pop(), machine.stack.pop()
    _update(machine.stack[-1], [key, value])


def set_items(machine: MachineState) -> None:
    """Set the keys and values above the mark in what lies below it."""
    items = machine.pop_mark()
    _update(machine.stack[-1], items)


def add_items(machine: MachineState) -> None:
    """Add what lies above the mark to the set below it."""
    items = machine.pop_mark()
    target = machine.stack[-1]
    if isinstance(target, set):
        target.update(hashable(item) for item in items)
    else:
        _extend(target, items)
