"""The records of a zip archive, where every reader finds the same ones.

Readers differ in which end record they take, in whether case, local headers and zip64 fields count, and in what may lie
before, between and behind the records. An archive in which any of that could matter is refused. What is left: records
one behind another from the first byte on, each with the header that the directory says, then the directory, then the
end record, which ends the file. However many gigabytes the records have, only their headers are read. Over a network
each of them would be a request: there the header of a record is read and compared when the record is.

`zipfile` reads neither the local headers nor what lies between them, and takes ten times as long for the directory (it
makes an object of thirty fields per record). Layout of the fields: APPNOTE.TXT of PKWARE, sections 4.3.7 to 4.3.16 and
4.5.3. Which differences there are: `miniz.c`, which torch reads by, and Python's `zipfile`.
"""

from __future__ import annotations

import re
import struct
import zlib
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.errors import AmbiguousArchiveError, BrokenFileError
from pytest_lora_ckpt.checkpoint.limits import MAX_DIRECTORY, OverLimitError
from pytest_lora_ckpt.checkpoint.window import DeflatedWindow, PartWindow
from pytest_lora_ckpt.wording import count as counted
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_lora_ckpt.checkpoint.window import Window
    from pytest_lora_ckpt.wording import SafeText

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR = struct.Struct("<4s3L")
_DESCRIPTOR64 = struct.Struct("<4sL2Q")
_EXTRA = struct.Struct("<2H")

_END_MARK = b"PK\x05\x06"
_DESCRIPTOR_MARK = b"PK\x07\x08"
_PADDING = b"FB"  # The field with which torch moves a record to a multiple of 64 bytes.
_FULL, _FULL16 = 0xFFFFFFFF, 0xFFFF
_ZIP64, _OTHER_NAME = 0x0001, 0x7075
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _SIZES_BEHIND = 1, 8
_FLAGS = _SIZES_BEHIND | 0x0800 | 0x0006  # Names are UTF-8; how hard the packer tried.
_NOT_KNOWN = {(0, 0, 0), (0, _FULL, _FULL)}  # Checksum and sizes of a record that is being written to a stream.
_FOLDER_ATTRIBUTE = 0x10
# Bytes from the end of a file within which torch finds an end record: a comment's, and then up to a block of its own
# (`mz_zip_reader_locate_header_sig` in miniz.c).
_FURTHEST = _FULL16 + _END.size + 4096
_HEADER_READ = 160  # Bytes: a header, its name and torch's padding.
# A reader could take such a name for another one, or for none. `_SIGNS` are in a list of names, each between two line
# ends, where one of them may be of this kind: to look for them takes a tenth of the time.
_UNSAFE_NAME = re.compile(rb"[\0\n\\]|^[A-Za-z]:|^/|//|(?:^|/)\.\.?(?:/|$)|^$")
_SIGNS = (
    *(b"\0", b"\\", b":", b"//", b"/./", b"/../", b"/.\n", b"/..\n"),
    *(b"\n\n", b"\n/", b"\n./", b"\n../", b"\n.\n", b"\n..\n"),
)


class Entry(NamedTuple):
    """What the directory says of one record; `header` is where its local header begins."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int

    @property
    def shown(self) -> str:
        """The name, for messages."""
        return _shown(self.name)


def _shown(name: bytes) -> SafeText:
    return printable(name.decode("utf-8", "backslashreplace"), 60)


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
    entries, start = _directory(window)
    accept(entries)
    if window.is_remote:
        return _without_headers(window, entries, start)
    return ZipIndex(window, _records(window, entries, start))


def _directory(window: Window) -> tuple[list[Entry], int]:
    """Return the entries of the central directory, and where in the file it begins."""
    count, size, start = _end(window)
    if size > MAX_DIRECTORY or size < count * _ENTRY.size:
        raise BrokenFileError(f"a directory of {size} bytes for {counted(count, 'record')}")
    window.budget.grant(size)
    window.budget.spend("entries", count)
    directory = window.read(start, size)
    entries: list[Entry] = []
    position = 0
    for _ in range(count):
        entry, position = _entry(directory, position, len(entries))
        entries.append(entry)
    if position != size:
        raise AmbiguousArchiveError(f"its directory has {size - position} bytes behind the last entry")
    _check_names(entries)
    return entries, start


def _check_names(entries: Sequence[Entry]) -> None:
    """Check that each name is one to every reader, with whatever rules for paths, and heeding case or not."""
    listed = b"".join([b"\n", *(entry.name + b"\n" for entry in entries)])
    if any(map(listed.__contains__, _SIGNS)) or listed.count(b"\n") != len(entries) + 1:
        for entry in entries:
            if _UNSAFE_NAME.search(entry.name):
                raise AmbiguousArchiveError(f"a record is called {entry.shown}: readers differ in what they make of it")
    if len(set(listed.lower().split(b"\n"))) != len(entries) + 1:
        names: set[bytes] = set()
        for entry in entries:
            if entry.name.lower() in names:
                raise AmbiguousArchiveError(
                    f"two records are called {entry.shown}: readers differ in which one they take"
                )
            names.add(entry.name.lower())


def _end(window: Window) -> tuple[int, int, int]:
    """Return how many records there are, and the directory's size and start, by the record that ends the file."""
    tail_size = min(window.length, _FURTHEST + _END64_LOCATOR.size)
    tail = window.read(window.length - tail_size, tail_size)
    position = _only_end(tail)
    _, disk, first_disk, here, count, size, start, _ = _END.unpack_from(tail, position)
    end = window.length - tail_size + position
    if tail.startswith(b"PK\x06\x07", max(0, position - _END64_LOCATOR.size)):
        end -= _END64_LOCATOR.size + _END64.size
        full = _end64(window, end, tail[position - _END64_LOCATOR.size : position])
        for value, most, whole in zip((here, count, size, start), (_FULL16, _FULL16, _FULL, _FULL), full, strict=True):
            if value not in {whole, most}:
                raise AmbiguousArchiveError("its two end records contradict each other")
        here, count, size, start = full
    if disk or first_disk or here != count:
        raise AmbiguousArchiveError("it is one disk of several")
    if start + size > end:
        raise BrokenFileError("the archive's directory does not lie before its end")
    if start + size < end:
        raise AmbiguousArchiveError(f"{counted(end - start - size, 'byte')} between its directory and its end record")
    return count, size, start


def _only_end(tail: bytes) -> int:
    """Return where the end record lies, behind which only its comment may lie, and none that could stand in for it."""
    position = tail.rfind(_END_MARK, 0, max(0, len(tail) - _END.size + len(_END_MARK)))
    if position < 0:
        raise BrokenFileError("the directory at the end of the archive is missing", truncated=True)
    behind = len(tail) - position - _END.size
    if behind != _END.unpack_from(tail, position)[-1] or tail.find(_END_MARK, position + 1) >= 0:
        raise AmbiguousArchiveError(f"{counted(behind, 'byte')} behind its end record, where another can hide")
    other = tail.find(_END_MARK)
    while other < position:
        if other + _END.size + _END.unpack_from(tail, other)[-1] == len(tail):
            raise AmbiguousArchiveError("it has two end records, of which one could be the other's comment")
        other = tail.find(_END_MARK, other + 1)
    return position


def _end64(window: Window, end: int, locator: bytes) -> tuple[int, int, int, int]:
    """Return the last four fields of the zip64 end record, which must lie at byte `end`."""
    _, locator_disk, at, disks = _END64_LOCATOR.unpack(locator)
    raw = window.read(end, _END64.size) if at == end else b""
    if not raw.startswith(b"PK\x06\x06"):
        raise BrokenFileError("the archive's zip64 directory is not where its end says")
    _, length, _, _, disk, first_disk, here, count, size, start = _END64.unpack(raw)
    if length != _END64.size - 12 or (locator_disk, disks, disk, first_disk) != (0, 1, 0, 0):
        raise AmbiguousArchiveError("its zip64 end record is of another version, or of one disk of several")
    return here, count, size, start


def _entry(directory: bytes, position: int, number: int) -> tuple[Entry, int]:
    """Return the entry at a position of the central directory, and the position behind it."""
    try:
        fields = _ENTRY.unpack_from(directory, position)
    except struct.error:
        raise BrokenFileError("the archive's directory ends early", truncated=True) from None
    magic, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length = fields[:13]
    disk, _, attributes, header = fields[13:]
    name_end = position + _ENTRY.size + name_length
    extra_end = name_end + extra_length
    if magic != b"PK\x01\x02" or flags & _ENCRYPTED or method not in {_STORED, _DEFLATED}:
        raise BrokenFileError(
            f"entry {number} of the archive's directory is damaged, encrypted or of an unknown method"
        )
    name = directory[position + _ENTRY.size : name_end]
    if extra_length or _FULL in {size, packed, header}:
        zip64 = _zip64(directory[name_end:extra_end], name)
        size, packed, header = _whole((size, packed, header), zip64)
    entry = Entry(name, flags, method, crc, packed, size, header)
    if flags & ~_FLAGS or disk:
        raise AmbiguousArchiveError(f"record {entry.shown} is marked as patched, masked or on another disk")
    is_folder = name.endswith(b"/")
    if (is_folder or attributes & _FOLDER_ATTRIBUTE) and (not is_folder or size or packed):
        # torch leaves the memory for a record that is marked as a folder as it is; a folder itself has no data.
        raise AmbiguousArchiveError(f"record {entry.shown} is a folder to some readers, and has data")
    return entry, extra_end + comment_length


def _whole(fields: tuple[int, int, int], zip64: bytes) -> tuple[int, ...]:
    """Return size, packed size and offset, those that did not fit into four bytes taken from the zip64 field."""
    wanted = fields.count(_FULL)
    if len(zip64) != 8 * wanted:
        raise BrokenFileError("a big record without its size")
    full = iter(struct.unpack(f"<{wanted}Q", zip64))
    return tuple(next(full) if value == _FULL else value for value in fields)


def _zip64(extra: bytes, name: bytes) -> bytes:
    """Return the contents of the zip64 field in a record's extra fields; empty without one."""
    found = None
    position = 0
    while position < len(extra):
        if position + _EXTRA.size > len(extra):
            raise AmbiguousArchiveError(
                f"the extra fields of record {_shown(name)} are damaged: some readers ignore them"
            )
        kind, length = _EXTRA.unpack_from(extra, position)
        position += _EXTRA.size + length
        if position > len(extra):
            raise AmbiguousArchiveError(
                f"the extra fields of record {_shown(name)} are damaged: some readers ignore them"
            )
        if kind == _OTHER_NAME or (kind == _ZIP64 and found is not None):
            raise AmbiguousArchiveError(f"record {_shown(name)} has a second name or size")
        if kind == _ZIP64:
            found = extra[position - length : position]
    return found or b""


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
            if method == _STORED and packed != size:
                raise BrokenFileError(f"record {entry.shown} of {size} bytes takes {packed}, and is not packed")
            records[name.decode("utf-8", "backslashreplace")] = Record(data, packed, size, method == _DEFLATED, crc)
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
        name: Record(0, entry.packed, entry.size, entry.method == _DEFLATED, entry.crc)
        for name, (entry, *_) in unread.items()
    }
    return ZipIndex(window, known, unread)


def _lone_record(window: Window, entry: Entry, following: Entry | None, end: int) -> Record:
    """Return one record after reading its header, and that nothing lies between it and what follows at `end`."""
    data = entry.header + _local(window, entry, window.read(entry.header, _HEADER_READ), 0)
    if entry.method == _STORED and entry.packed != entry.size:
        raise BrokenFileError(f"record {entry.shown} of {entry.size} bytes takes {entry.packed}, and is not packed")
    lead = min(_DESCRIPTOR64.size, end - data - entry.packed)
    behind = window.read(end - lead, lead) if lead > 0 else b""
    _check_joined(entry, data + entry.packed, end, behind, lead, following)
    return Record(data, entry.packed, entry.size, entry.method == _DEFLATED, entry.crc)


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
    if previous is not None and previous.flags & _SIZES_BEHIND:
        _, _, _, crc, packed, size, _ = previous
        if gap == _DESCRIPTOR.size and packed <= _FULL and size <= _FULL:
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
        is_padding = len(extra) >= _EXTRA.size and extra.startswith(_PADDING)
        if not is_padding or _EXTRA.unpack_from(extra)[1] != extra_length - _EXTRA.size:
            zip64 = _zip64(extra, name)
    said = (own_crc, own_packed, own_size)
    if flags & _SIZES_BEHIND:
        # Nothing is known yet, or it is; torch writes the record's offset in the zip64 field as well.
        same = said in _NOT_KNOWN or said == (crc, packed, size)
        if zip64:
            known = {b"\0" * 8, *(value.to_bytes(8, "little") for value in (packed, size, header))}
            same = same and {zip64[i : i + 8] for i in range(0, len(zip64), 8)} <= known
    elif _FULL in {own_packed, own_size}:
        same = said == (crc, _FULL, _FULL) and zip64.startswith(struct.pack("<2Q", size, packed))
    else:
        same = said == (crc, packed, size)
    if not same:
        raise AmbiguousArchiveError(f"the header of record {entry.shown} has other sizes than the directory")
    return length
