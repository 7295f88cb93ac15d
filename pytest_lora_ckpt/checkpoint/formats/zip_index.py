"""The index of a zip archive: its central directory only, however many gigabytes lie before it.

`zipfile` reads the same, in ten times the time (it makes an object of thirty fields per record). Layout of the fields:
APPNOTE.TXT of PKWARE, sections 4.3.7 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.window import DeflatedWindow, PartWindow

if TYPE_CHECKING:
    from pytest_lora_ckpt.checkpoint.window import Window

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_END_MARK = b"PK\x05\x06"
_COMMENT = 0xFFFF
_FULL = 0xFFFFFFFF
_ZIP64 = 1
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1


class Record(NamedTuple):
    """One record: where its local header begins, its size packed and unpacked, how it is packed, its checksum.

    A checksum of 0 is none: `torch.serialization.set_crc32_options(False)` writes it for every record, and of records
    that have one only one in four thousand million has this.
    """

    header: int
    packed: int
    size: int
    deflated: bool
    crc: int


@dataclass(frozen=True, slots=True, eq=False)
class ZipIndex:
    """The records of an archive, by name, in the order of the directory."""

    window: Window
    records: dict[str, Record]

    def data_offset(self, name: str) -> int:
        """Return where in the archive the record's data begins.

        Raises:
            BrokenFileError: Its header is not where the directory says.
        """
        header = self.records[name].header
        raw = self.window.read(header, _LOCAL.size)
        if len(raw) < _LOCAL.size or raw[:4] != b"PK\x03\x04":
            raise BrokenFileError(f"no header of record {name[:60]!r} at byte {header}")
        fields = _LOCAL.unpack(raw)
        return header + _LOCAL.size + int(fields[9]) + int(fields[10])

    def record(self, name: str) -> tuple[Window, int]:
        """Return the window that the record's data lies in, unpacked, and where in it they begin.

        Raises:
            BrokenFileError: Its header is not where the directory says.
        """
        record, start = self.records[name], self.data_offset(name)
        if record.deflated:
            return DeflatedWindow(PartWindow(self.window, start, record.packed), record.size), 0
        return self.window, start

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
        except ValueError as error:
            raise BrokenFileError(f"record {name[:60]!r}: {error}") from error
        if len(data) != record.size or (record.crc and zlib.crc32(data) != record.crc):
            raise BrokenFileError(f"record {name[:60]!r} does not have the checksum that the archive gives for it")
        return data


def read_index(window: Window) -> ZipIndex:
    """Read the central directory.

    Raises:
        BrokenFileError: There is none, or it is damaged.
    """
    length = window.length
    first = max(0, length - _COMMENT - _END.size - _END64_LOCATOR.size)
    tail = window.read(first, length - first)
    position = _end_record(tail)
    if position < 0 or len(tail) - position < _END.size:
        raise BrokenFileError("the directory at the end of the archive is missing", truncated=True)
    end = first + position
    _, _, _, _, count, size, start, _ = _END.unpack_from(tail, position)
    locator = position - _END64_LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
        end = _END64_LOCATOR.unpack_from(tail, locator)[2]
        raw = window.read(end, _END64.size) if end < length else b""
        if len(raw) < _END64.size or raw[:4] != b"PK\x06\x06":
            raise BrokenFileError("the archive's zip64 directory is not where its end says")
        count, size, start = _END64.unpack(raw)[7:10]
    if start + size > end:
        raise BrokenFileError("the archive's directory does not lie before its end")
    return ZipIndex(window, _records(window.read(start, size), count, start))


def _end_record(tail: bytes) -> int:
    """Find the record that ends the archive, behind which only its comment lies; a comment may hold its mark too."""
    position = last = tail.rfind(_END_MARK)
    while position >= 0:
        behind = len(tail) - position - _END.size
        if behind >= 0 and _END.unpack_from(tail, position)[-1] == behind:
            return position
        position = tail.rfind(_END_MARK, 0, position)
    return last


def _records(directory: bytes, count: int, start: int) -> dict[str, Record]:
    """Read the entries of the central directory, which begins at byte `start` of the file."""
    records: dict[str, Record] = {}
    position = 0
    for _ in range(count):
        try:
            fields = _ENTRY.unpack_from(directory, position)
        except struct.error:
            raise BrokenFileError("the archive's directory ends early", truncated=True) from None
        magic, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length = fields[:13]
        header = fields[16]
        name_end = position + _ENTRY.size + name_length
        extra_end = name_end + extra_length
        if magic != b"PK\x01\x02" or flags & _ENCRYPTED or method not in {_STORED, _DEFLATED}:
            raise BrokenFileError(
                f"entry {len(records)} of the archive's directory is damaged, encrypted or packed by an unknown method"
            )
        name = directory[position + _ENTRY.size : name_end].decode("utf-8", "replace")
        if _FULL in {size, packed, header}:
            size, packed, header = _zip64(directory[name_end:extra_end], size, packed, header)
        if header + _LOCAL.size + packed > start or (method == _STORED and packed != size):
            raise BrokenFileError(f"record {name[:60]!r} does not lie inside the archive")
        if name in records:
            raise BrokenFileError(f"two records are called {name[:60]!r}: readers differ in which one they take")
        records[name] = Record(header, packed, size, method == _DEFLATED, crc)
        position = extra_end + comment_length
    return records


def _zip64(extra: bytes, *fields: int) -> tuple[int, ...]:
    """Return the fields, those that did not fit into four bytes taken from the zip64 extra field."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == _ZIP64:
            wanted = [index for index, value in enumerate(fields) if value == _FULL]
            if length >= 8 * len(wanted) and position + 4 + length <= len(extra):
                full = struct.unpack_from(f"<{len(wanted)}Q", extra, position + 4)
                return tuple(full[wanted.index(i)] if i in wanted else value for i, value in enumerate(fields))
        position += 4 + length
    raise BrokenFileError("a big record without its size")
