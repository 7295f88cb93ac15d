"""Every name that pickles ask for: the pickle itself, those that follow it, and those that lie in it as values."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.limits import OverLimitError
from pytest_lora_ckpt.checkpoint.pickle.globals import path_of
from pytest_lora_ckpt.checkpoint.pickle.inert import Opaque
from pytest_lora_ckpt.checkpoint.pickle.machine import PickleMachine
from pytest_lora_ckpt.checkpoint.pickle.places import find_places
from pytest_lora_ckpt.vocabulary.formats import LEGACY_MAGIC

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.pickle.globals import Global, Place

_DEPTH = 4  # Pickles in pickles.
_UNREADABLE = (ValueError, EOFError, OSError, NotImplementedError, RuntimeError)  # By `zipfile`: packed or encrypted.

_LEGACY_PICKLES = 5  # Pickles of torch's legacy format; the bytes of storages follow.
_HEADER = re.compile(rb"\x80[\0-\5]")
STORAGE_RECORD = re.compile(r"(^|/)data/[^/]*$")
"""Records of torch's archives that hold the bytes of tensors, by name."""

_TRIES = 256  # Places where a pickle is looked for in other bytes, before those are left out that one try ran over.


@dataclass(frozen=True, slots=True)
class Scan:
    """What a stretch of bytes asks for, read as one pickle after another.

    Attributes:
        globals: The names.
        pickles: How many pickles were read to their end.
        error: Why the next one was not; None where the bytes end with the last.
        position: Where the last whole pickle ends.
        reached: How far the next one was read.
        first: What the first one describes.
    """

    globals: tuple[Global, ...]
    pickles: int
    error: BrokenFileError | None
    position: int
    reached: int
    first: object

    @property
    def is_legacy(self) -> bool:
        """Whether these are the pickles of torch's legacy format."""
        return self.first == LEGACY_MAGIC and self.pickles >= _LEGACY_PICKLES


def scan_pickles(data: bytes, entry: str, budget: Budget, depth: int = 0, *, start: int = 0) -> Scan:
    """Read pickles one after another until the bytes end, or no longer are a pickle.

    Args:
        data: The bytes.
        entry: What to call them.
        budget: What may be spent.
        depth: How many pickles they lie in.
        start: Where the first one begins.
    """
    machine = PickleMachine(data, entry, persistent=_persistent, budget=budget, start=start)
    results: list[object] = []
    error: BrokenFileError | None = None
    end = start
    try:
        with machine.ledger.on_error():
            while machine.position < len(data):
                results.append(machine.load())
                end = machine.position
    except OverLimitError:
        raise
    except BrokenFileError as broken:
        error = broken
    found = globals_of(machine, results[0] if len(results) == 1 else results, budget, depth)
    return Scan(found, len(results), error, end, machine.position, results[0] if results else None)


def scan_between(data: bytes, entry: str, budget: Budget, depth: int = 0, *, start: int = 0) -> tuple[Global, ...]:
    """Return what the whole pickles ask for that lie among other bytes, each by its header; the first may have none.

    Args:
        data: The bytes.
        entry: What to call them.
        budget: What may be spent.
        depth: How many pickles they lie in.
        start: Where to begin.
    """
    found: list[Global] = []
    position, tries = start, 0
    while True:
        budget.check_time()
        scan = scan_pickles(data, entry, budget, depth, start=position)
        if scan.pickles or (position == start and data[start : start + 1] == b"\x80"):
            found += scan.globals
        tries += 1
        header = _HEADER.search(data, max(scan.position if tries < _TRIES else scan.reached, position + 1))
        if header is None:
            return tuple(found)
        position = header.start()


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
    for value, place in find_places(made, budget):
        budget.check_time()
        if depth < _DEPTH:
            inner += _inner(value, place, ledger.entry, budget, depth + 1)
    for data, byte in ledger.inner:
        scan = scan_pickles(data, ledger.entry, budget, depth + 1)
        if not scan.is_legacy or depth >= _DEPTH:  # torch never writes another.
            ledger.ask("torch.storage", "_load_from_bytes()", byte).note("called")
        inner += scan.globals or _in_archive(data, ledger.entry, budget, depth + 1)
    return (*ledger.globals(), *inner)


def _inner(value: bytes | bytearray | str, place: Place, entry: str, budget: Budget, depth: int) -> tuple[Global, ...]:
    """Return what a value asks for, should somebody load it as a pickle; nothing where it is none.

    With a header, what comes before it breaks counts; without one it must be a whole pickle, for a text may look so.
    """
    data = _decoded(value)
    if data is None:
        return ()
    if data.startswith(b"PK\3\4"):
        found = _in_archive(data, entry, budget, depth)
    else:
        scan = scan_pickles(data, entry, budget, depth)
        if scan.pickles or (not isinstance(value, str) and value[:1] == b"\x80"):
            found = scan.globals
        else:
            found = () if isinstance(value, str) else scan_between(data, entry, budget, depth)
    return tuple(dataclasses.replace(each, path=f"{path_of(place)}, a pickle in a value") for each in found)


def _in_archive(data: bytes, entry: str, budget: Budget, depth: int) -> tuple[Global, ...]:
    """Return what the pickles in a zip archive ask for that lies in a value; nothing where it is none."""
    import zipfile  # With five compressors, for what few checkpoints have.

    found: list[Global] = []
    with suppress(zipfile.BadZipFile, zlib.error, *_UNREADABLE), zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            budget.spend("entries", 1)
            if not STORAGE_RECORD.search(info.filename):
                budget.spend("inflated_bytes", info.file_size)
                with archive.open(info) as file:
                    found += scan_pickles(file.read(info.file_size), entry, budget, depth).globals
    return tuple(found)


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
