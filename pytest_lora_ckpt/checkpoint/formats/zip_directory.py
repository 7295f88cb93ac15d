"""What the directory of a zip archive says, and the end record by which it is found.

Layout of the fields: APPNOTE.TXT of PKWARE, sections 4.3.12 to 4.3.16 and 4.5.3. Which differences there are between
readers: `miniz.c`, which torch reads by, and Python's `zipfile`.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from pytest_lora_ckpt.checkpoint.errors import AmbiguousArchiveError, BrokenFileError
from pytest_lora_ckpt.checkpoint.limits import MAX_DIRECTORY
from pytest_lora_ckpt.wording import count as counted
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_lora_ckpt.checkpoint.window import Window
    from pytest_lora_ckpt.wording import SafeText

STORED, DEFLATED = 0, 8
SIZES_BEHIND = 8
FULL = 0xFFFFFFFF
EXTRA = struct.Struct("<2H")

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")

_END_MARK = b"PK\x05\x06"
_FULL16 = 0xFFFF
_ZIP64, _OTHER_NAME = 0x0001, 0x7075
_ENCRYPTED = 1
_FLAGS = SIZES_BEHIND | 0x0800 | 0x0006  # Names are UTF-8; how hard the packer tried.
_FOLDER_ATTRIBUTE = 0x10
# Bytes from the end of a file within which torch finds an end record: a comment's, and then up to a block of its own
# (`mz_zip_reader_locate_header_sig` in miniz.c).
_FURTHEST = _FULL16 + _END.size + 4096
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


def read_directory(window: Window) -> tuple[list[Entry], int]:
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
        for value, most, whole in zip((here, count, size, start), (_FULL16, _FULL16, FULL, FULL), full, strict=True):
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
    if magic != b"PK\x01\x02" or flags & _ENCRYPTED or method not in {STORED, DEFLATED}:
        raise BrokenFileError(
            f"entry {number} of the archive's directory is damaged, encrypted or of an unknown method"
        )
    name = directory[position + _ENTRY.size : name_end]
    if extra_length or FULL in {size, packed, header}:
        zip64 = zip64_field(directory[name_end:extra_end], name)
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
    wanted = fields.count(FULL)
    if len(zip64) != 8 * wanted:
        raise BrokenFileError("a big record without its size")
    full = iter(struct.unpack(f"<{wanted}Q", zip64))
    return tuple(next(full) if value == FULL else value for value in fields)


def zip64_field(extra: bytes, name: bytes) -> bytes:
    """Return the contents of the zip64 field in a record's extra fields; empty without one."""
    found = None
    position = 0
    while position < len(extra):
        if position + EXTRA.size > len(extra):
            raise AmbiguousArchiveError(
                f"the extra fields of record {_shown(name)} are damaged: some readers ignore them"
            )
        kind, length = EXTRA.unpack_from(extra, position)
        position += EXTRA.size + length
        if position > len(extra):
            raise AmbiguousArchiveError(
                f"the extra fields of record {_shown(name)} are damaged: some readers ignore them"
            )
        if kind == _OTHER_NAME or (kind == _ZIP64 and found is not None):
            raise AmbiguousArchiveError(f"record {_shown(name)} has a second name or size")
        if kind == _ZIP64:
            found = extra[position - length : position]
    return found or b""


def _shown(name: bytes) -> SafeText:
    return printable(name.decode("utf-8", "backslashreplace"), 60)
