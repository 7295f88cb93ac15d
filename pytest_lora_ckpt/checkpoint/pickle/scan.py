"""Every name that pickles ask for: the pickle itself, those that follow it, and those that lie in it as values."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.limits import OverLimitError
from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from pytest_lora_ckpt.checkpoint.pickle.places import find_places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.pickle.globals import Global
    from pytest_lora_ckpt.checkpoint.pickle.inert import Builder

_DEPTH = 4  # Pickles in pickles.

LEGACY_PICKLES = 5
"""Pickles of torch's legacy format; the bytes of storages follow."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a stretch of bytes asks for, read as one pickle after another.

    Attributes:
        globals: The names.
        pickles: How many pickles were read to their end.
        error: Why the next one was not; None where the bytes end with the last.
        position: Where the last whole pickle ends.
    """

    globals: tuple[Global, ...]
    pickles: int
    error: BrokenFileError | None
    position: int


def scan_pickles(
    data: bytes, entry: str, budget: Budget, depth: int = 0, builders: Mapping[str, Builder] | None = None
) -> Scan:
    """Read pickles one after another until the bytes end, or no longer are a pickle.

    Args:
        data: The bytes.
        entry: What to call them.
        budget: What may be spent.
        depth: How many pickles they lie in.
        builders: See `PickleMachine`; without them only plain data is made.
    """
    machine = PickleMachine(data, entry, builders=builders, persistent=_persistent, budget=budget)
    results: list[object] = []
    error: BrokenFileError | None = None
    end = 0
    try:
        while machine.position < len(data):
            results.append(machine.load())
            end = machine.position
    except OverLimitError:
        raise
    except BrokenFileError as broken:
        error = broken
    return Scan(
        globals_of(machine, results[0] if len(results) == 1 else results, budget, depth), len(results), error, end
    )


def globals_of(machine: PickleMachine, made: object, budget: Budget, depth: int = 0) -> tuple[Global, ...]:
    """Return what the pickles of a machine ask for, with the places where it lies.

    Args:
        machine: What read them.
        made: What they describe; of several, the list of it.
        budget: What may be spent.
        depth: How many pickles they lie in.
    """
    ledger = machine.ledger
    inner: list[Global] = []
    for value, place in find_places(made):
        budget.check_time()
        if depth < _DEPTH:
            inner += _inner(value, place, ledger.entry, budget, depth + 1)
    for data, byte in ledger.inner:
        scan = scan_pickles(data, ledger.entry, budget, depth + 1)
        whole = scan.error is None or scan.pickles >= LEGACY_PICKLES
        if not whole or depth >= _DEPTH:
            ledger.ask("torch.storage", "_load_from_bytes()", byte).note("called")
        inner += scan.globals
    return (*ledger.globals(), *inner)


def _inner(value: bytes | bytearray | str, place: str, entry: str, budget: Budget, depth: int) -> tuple[Global, ...]:
    """Return what a value asks for, should somebody load it as a pickle; nothing where it is none.

    With a header, what comes before it breaks counts; without one it must be a whole pickle, for a text may look so.
    """
    data = _decoded(value)
    if data is None:
        return ()
    scan = scan_pickles(data, entry, budget, depth)
    if scan.pickles == 0 and (isinstance(value, str) or value[:1] != b"\x80"):
        return ()
    return tuple(dataclasses.replace(each, path=f"{place}, a pickle in a value") for each in scan.globals)


def _decoded(value: bytes | bytearray | str) -> bytes | None:
    try:
        data = value.encode("latin-1") if isinstance(value, str) else bytes(value)
        return base64.b64decode(data, validate=True) if data[:2] == b"gA" else data
    except (UnicodeEncodeError, binascii.Error):
        return None


def _persistent(saved: tuple[object, ...]) -> object:
    """Make nothing of a persistent id but the class of a module, which torch's legacy format gives so."""
    match saved:
        case ("module" | b"module", Opaque() as kind, _, _):
            return kind
    return Opaque("a persistent id", saved)
