"""The records of a zip archive, where every reader finds the same ones.

Readers differ in which end record they take, in whether case, local headers and zip64 fields count, and in what may lie
before, between and behind the records. An archive in which any of that could matter is refused. What is left: records
one behind another from the first byte on, each with the header that the directory says, then the directory, then the
end record, which ends the file. However many gigabytes the records have, only their headers are read. Over a network
each of them would be a request: there the header of a record is read and compared when the record is.

`zipfile` reads neither the local headers nor what lies between them, and takes ten times as long for the directory (it
makes an object of thirty fields per record). Layout of the fields: APPNOTE.TXT of PKWARE, sections 4.3.7 to 4.3.9.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.errors import AmbiguousArchiveError, BrokenFileError
from pytest_lora_ckpt.checkpoint.formats.zip_directory import (
    DEFLATED,
    EXTRA,
    FULL,
    SIZES_BEHIND,
    STORED,
    Entry,
    read_directory,
    zip64_field,
)
from pytest_lora_ckpt.checkpoint.limits import OverLimitError
from pytest_lora_ckpt.checkpoint.window import DeflatedWindow, PartWindow
from pytest_lora_ckpt.wording import count as counted
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_lora_ckpt.checkpoint.window import Window

_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR = struct.Struct("<4s3L")
_DESCRIPTOR64 = struct.Struct("<4sL2Q")

_DESCRIPTOR_MARK = b"PK\x07\x08"
_PADDING = b"FB"  # The field with which torch moves a record to a multiple of 64 bytes.
_NOT_KNOWN = {(0, 0, 0), (0, FULL, FULL)}  # Checksum and sizes of a record that is being written to a stream.
_HEADER_READ = 160  # Bytes: a header, its name and torch's padding.


class Record(NamedTuple):
    """One record: where its data begin, their size packed and unpacked, how they are packed, their checksum.

    A checksum of 0 is none: `torch.serialization.set_crc32_options(False)` writes it for every record, and of records
    that have one only one in four thousand million has this.
    """

    start: int
    packed: int
    size: int
    deflated: bool
    crc: int


@dataclass(frozen=True, slots=True, eq=False)
class ZipIndex:
    """The records of an archive, by name, in the order in which they lie in it."""

    window: Window
    records: dict[str, Record]
    unread: dict[str, tuple[Entry, Entry | None, int]] = field(default_factory=dict)

    def stretch(self, name: str) -> tuple[int, int]:
        """Return where a record's bytes begin, its header's with them, as far as that was not read; and how many."""
        if name not in self.unread:
            return self.records[name].start, self.records[name].packed
        entry, _, end = self.unread[name]
        return entry.header, end - entry.header

    def record(self, name: str) -> tuple[Window, int]:
        """Return the window that the record's data lie in, unpacked, and where in it they begin.

        Raises:
            AmbiguousArchiveError: Its header, which was not read before, says something else than the directory.
        """
        if name in self.unread:
            self.records[name] = _lone_record(self.window, *self.unread.pop(name))
        record = self.records[name]
        if record.deflated:
            return DeflatedWindow(PartWindow(self.window, record.start, record.packed), record.size), 0
        return self.window, record.start

    def read(self, name: str, limit: int) -> bytes:
        """Return the data of a record of at most `limit` bytes.

        Raises:
            BrokenFileError: It is bigger, cut off, or its checksum is wrong.
        """
        record = self.records[name]
        if max(record.size, record.packed) > limit:
            raise BrokenFileError(f"record {name[:60]!r} of {record.size} bytes, of which at most {limit} are read")
        window, start = self.record(name)
        try:
            data = window.read(start, record.size)
        except OverLimitError:
            raise
        except BrokenFileError as error:
            raise BrokenFileError(f"record {name[:60]!r}: {error}") from error
        if len(data) != record.size or (record.crc and zlib.crc32(data) != record.crc):
            raise BrokenFileError(f"record {name[:60]!r} does not have the checksum that the archive gives for it")
        return data


def read_index(window: Window, accept: Callable[[Sequence[Entry]], None] = lambda _: None) -> ZipIndex:
    """Read the directory, and the header of each record.

    Args:
        window: The archive.
        accept: Looks at the directory before anything else is read; raises if the archive is of another kind.

    Raises:
        AmbiguousArchiveError: Two readers could find different records in it.
        BrokenFileError: There is no directory, or it is damaged.
    """
    entries, start = read_directory(window)
    accept(entries)
    if window.is_remote:
        return _without_headers(window, entries, start)
    return ZipIndex(window, _records(window, entries, start))


def _records(window: Window, entries: Sequence[Entry], start: int) -> dict[str, Record]:
    """Return the records after reading their headers: they must lie one behind another and fill all up to `start`."""
    before = _DESCRIPTOR64.size  # Bytes that are read with a header: what may lie behind the record before it.
    stretches = [(max(0, entry.header - before), before + _HEADER_READ) for entry in entries]
    records: dict[str, Record] = {}
    previous, end = None, 0
    with closing(window.read_each(stretches)) as headers:
        for entry, raw in zip(entries, headers, strict=True):
            name, _, method, crc, packed, size, header = entry
            lead = min(before, header)
            _check_joined(previous, end, header, raw, lead, entry)
            data = header + _local(window, entry, raw, lead)
            if method == STORED and packed != size:
                raise BrokenFileError(f"record {entry.shown} of {size} bytes takes {packed}, and is not packed")
            records[name.decode("utf-8", "backslashreplace")] = Record(data, packed, size, method == DEFLATED, crc)
            previous, end = entry, data + packed
    lead = min(before, start)
    _check_joined(previous, end, start, window.read(start - lead, lead), lead, None)
    return records


def _without_headers(window: Window, entries: Sequence[Entry], start: int) -> ZipIndex:
    """Return the records as the directory has them, without their headers: where their data begin is not known yet."""
    following: list[Entry | None] = [*entries[1:], None]
    unread = {
        each.name.decode("utf-8", "backslashreplace"): (each, after, start if after is None else after.header)
        for each, after in zip(entries, following, strict=True)
    }
    position = 0
    for name, (entry, _, end) in unread.items():
        if entry.header < position or entry.header + _LOCAL.size + entry.packed > end:
            raise AmbiguousArchiveError(f"record {printable(name, 60)} lies over another one")
        position = end
    known = {
        name: Record(0, entry.packed, entry.size, entry.method == DEFLATED, entry.crc)
        for name, (entry, *_) in unread.items()
    }
    return ZipIndex(window, known, unread)


def _lone_record(window: Window, entry: Entry, following: Entry | None, end: int) -> Record:
    """Return one record after reading its header, and that nothing lies between it and what follows at `end`."""
    data = entry.header + _local(window, entry, window.read(entry.header, _HEADER_READ), 0)
    if entry.method == STORED and entry.packed != entry.size:
        raise BrokenFileError(f"record {entry.shown} of {entry.size} bytes takes {entry.packed}, and is not packed")
    lead = min(_DESCRIPTOR64.size, end - data - entry.packed)
    behind = window.read(end - lead, lead) if lead > 0 else b""
    _check_joined(entry, data + entry.packed, end, behind, lead, following)
    return Record(data, entry.packed, entry.size, entry.method == DEFLATED, entry.crc)


def _check_joined(  # noqa: PLR0913, PLR0917 - Called for each record.
    previous: Entry | None, end: int, start: int, raw: bytes, lead: int, following: Entry | None
) -> None:
    """Check that something begins where the record before it ends, behind that record's sizes where it has them there.

    Args:
        previous: The record before it; None at the beginning of the file.
        end: Where that record's data end.
        start: Where it begins.
        raw: Bytes that were read.
        lead: Where in them it begins.
        following: The record that begins there; None for the directory.
    """
    gap = start - end
    if previous is not None and previous.flags & SIZES_BEHIND:
        _, _, _, crc, packed, size, _ = previous
        if gap == _DESCRIPTOR.size and packed <= FULL and size <= FULL:
            expected = _DESCRIPTOR.pack(_DESCRIPTOR_MARK, crc, packed, size)
        else:
            expected = _DESCRIPTOR64.pack(_DESCRIPTOR_MARK, crc, packed, size)
        if gap != len(expected) or not raw.startswith(expected, lead - gap):
            raise AmbiguousArchiveError(f"the sizes behind record {previous.shown} are not those of the directory")
    elif gap:
        what = "the directory" if following is None else following.shown
        between = f"{counted(gap, 'byte')} before it that belong to no record" if gap > 0 else "another record over it"
        raise AmbiguousArchiveError(f"{what} has {between}")


def _local(window: Window, entry: Entry, raw: bytes, at: int) -> int:
    """Return how long a record's own header is, after comparing it with what the directory says."""
    name, flags, method, crc, packed, size, header = entry
    if len(raw) < at + _LOCAL.size or not raw.startswith(b"PK\x03\x04", at):
        raise BrokenFileError(f"no header of record {entry.shown} at byte {header}")
    _, _, own_flags, own_method, _, _, own_crc, own_packed, own_size, name_length, extra_length = _LOCAL.unpack_from(
        raw, at
    )
    length: int = _LOCAL.size + name_length + extra_length
    if at + length > len(raw):
        raw, at = window.read(header, length), 0
    own_name = raw[at + _LOCAL.size : at + _LOCAL.size + name_length]
    if own_flags != flags or own_method != method or own_name != name or len(raw) < at + length:
        raise AmbiguousArchiveError(
            f"the header of record {entry.shown} has another name or packing than the directory"
        )
    zip64 = b""
    if extra_length:
        extra = raw[at + length - extra_length : at + length]
        is_padding = len(extra) >= EXTRA.size and extra.startswith(_PADDING)
        if not is_padding or EXTRA.unpack_from(extra)[1] != extra_length - EXTRA.size:
            zip64 = zip64_field(extra, name)
    said = (own_crc, own_packed, own_size)
    if flags & SIZES_BEHIND:
        # Nothing is known yet, or it is; torch writes the record's offset in the zip64 field as well.
        same = said in _NOT_KNOWN or said == (crc, packed, size)
        if zip64:
            known = {b"\0" * 8, *(value.to_bytes(8, "little") for value in (packed, size, header))}
            same = same and {zip64[i : i + 8] for i in range(0, len(zip64), 8)} <= known
    elif FULL in {own_packed, own_size}:
        same = said == (crc, FULL, FULL) and zip64.startswith(struct.pack("<2Q", size, packed))
    else:
        same = said == (crc, packed, size)
    if not same:
        raise AmbiguousArchiveError(f"the header of record {entry.shown} has other sizes than the directory")
    return length
