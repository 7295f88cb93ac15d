"""Zip archives written field by field: as torch's writer does, and in ways in which no library does."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.hostile.ops import envelope

if TYPE_CHECKING:
    from pathlib import Path

FLOATS = struct.pack("<4f", 1.0, 2.0, 3.0, 4.0)
OTHER_FLOATS = struct.pack("<4f", -9.0, -9.0, -9.0, -9.0)
FOLDER = "archive"
STREAMED = 0x0808  # UTF-8 names, and sizes that follow the data: torch writes no other flags.
FOUR = 0xFFFFFFFF


@dataclass(frozen=True)
class Entry:
    """One entry; `None` stands for what torch's writer would put there."""

    name: str
    data: bytes = b""
    method: int = 0
    flags: int = STREAMED
    crc: int | None = None
    packed: int | None = None
    size: int | None = None
    made_by: int = 0
    disk: int = 0
    internal: int = 0
    external: int = 0
    extra: bytes = b""
    comment: bytes = b""
    offset: int | None = None  # Where the directory says that it lies.
    local_magic: bytes = b"PK\x03\x04"
    local_name: str | None = None
    local_flags: int | None = None
    local_method: int | None = None
    local_crc: int | None = None
    local_size: int | None = None
    local_extra: bytes = b""
    descriptor: bytes | None = None
    before: bytes = b""  # Between the entry before and this one.
    local: bool = True  # False: only the directory knows it.

    def parts(self, at: int) -> tuple[bytes, bytes]:
        """Give the local part and the line of the directory for an entry at this offset."""
        data = zlib.compress(self.data, 9)[2:-4] if self.method == 8 else self.data
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        size = len(self.data) if self.size is None else self.size
        packed = len(data) if self.packed is None else self.packed
        streamed = bool(self.flags & 8)
        name = self.name.encode("utf-8", "surrogateescape")
        local_name = name if self.local_name is None else self.local_name.encode("utf-8", "surrogateescape")
        local_size = self.local_size
        header = struct.pack(
            "<4s5H3L2H",
            self.local_magic,
            0,
            self.flags if self.local_flags is None else self.local_flags,
            self.method if self.local_method is None else self.local_method,
            0,
            0,
            (0 if streamed else crc) if self.local_crc is None else self.local_crc,
            (0 if streamed else packed & FOUR) if local_size is None else local_size,
            (0 if streamed else size & FOUR) if local_size is None else local_size,
            len(local_name),
            len(self.local_extra),
        )
        descriptor = self.descriptor
        if descriptor is None:
            descriptor = struct.pack("<4s3L", b"PK\x07\x08", crc, packed & FOUR, size & FOUR) if streamed else b""
        line = struct.pack(
            "<4s6H3L5H2L",
            b"PK\x01\x02",
            self.made_by,
            0,
            self.flags,
            self.method,
            0,
            0,
            crc,
            min(packed, FOUR),
            min(size, FOUR),
            len(name),
            len(self.extra),
            len(self.comment),
            self.disk,
            self.internal,
            self.external,
            min(at if self.offset is None else self.offset, FOUR),
        )
        return header + local_name + self.local_extra + data + descriptor, line + name + self.extra + self.comment


@dataclass(frozen=True)
class Ending:
    """The directory's end: zip64 and its locator, which torch always writes, and the classic record."""

    before: bytes = b""
    zip64: bool = True
    zip64_count: int | None = None
    zip64_size: int | None = None
    zip64_start: int | None = None
    zip64_length: int = 44
    locator_offset: int | None = None
    locator_disks: int = 1
    between: bytes = b""
    count: int | None = None
    count_here: int | None = None
    size: int | None = None
    start: int | None = None
    disk: int = 0
    directory_disk: int = 0
    comment: bytes = b""
    comment_length: int | None = None
    after: bytes = b""

    def write(self, at: int, count: int, size: int, start: int) -> bytes:
        """Give the bytes of an end that begins at `at`."""
        out = self.before
        if self.zip64:
            here = at + len(out)
            many = count if self.zip64_count is None else self.zip64_count
            out += struct.pack(
                "<4sQ2H2L4Q",
                b"PK\x06\x06",
                self.zip64_length,
                0x031E,
                45,
                0,
                0,
                many,
                many,
                size if self.zip64_size is None else self.zip64_size,
                start if self.zip64_start is None else self.zip64_start,
            )
            place = here if self.locator_offset is None else self.locator_offset
            out += struct.pack("<4sLQL", b"PK\x06\x07", 0, place, self.locator_disks)
        out += self.between
        count = count if self.count is None else self.count
        out += struct.pack(
            "<4s4H2LH",
            b"PK\x05\x06",
            self.disk,
            self.directory_disk,
            count if self.count_here is None else self.count_here,
            count,
            size if self.size is None else self.size,
            start if self.start is None else self.start,
            len(self.comment) if self.comment_length is None else self.comment_length,
        )
        return out + self.comment + self.after


@dataclass(frozen=True)
class Archive:
    """Entries and the end. Where `shifted`, offsets count from behind the prefix, as in self-extracting archives."""

    entries: tuple[Entry, ...]
    end: Ending = field(default_factory=Ending)
    prefix: bytes = b""
    shifted: bool = False

    def __bytes__(self) -> bytes:
        """Write it."""
        out, directory = bytearray(self.prefix), bytearray()
        base = len(self.prefix) if self.shifted else 0
        for each in self.entries:
            out += each.before
            local, line = each.parts(len(out) - base)
            out += local if each.local else b""
            directory += line
        start = len(out)
        out += directory
        return bytes(out + self.end.write(len(out) - base, len(self.entries), len(directory), start - base))

    def changed(self, which: str, **fields: object) -> Archive:
        """Give a copy in which the entries whose names end like this have other fields."""
        entries = (replace(each, **fields) if each.name.endswith(which) else each for each in self.entries)  # type: ignore[arg-type]
        return replace(self, entries=tuple(entries))

    def adding(self, *more: Entry, first: bool = False) -> Archive:
        """Give a copy with further entries, behind or in front."""
        return replace(self, entries=(*more, *self.entries) if first else (*self.entries, *more))

    def without(self, which: str) -> Archive:
        """Give a copy without the entries whose names end like this."""
        return replace(self, entries=tuple(each for each in self.entries if not each.name.endswith(which)))

    def ending(self, **fields: object) -> Archive:
        """Give a copy that ends otherwise."""
        return replace(self, end=replace(self.end, **fields))  # type: ignore[arg-type]

    def offset_of(self, which: str) -> int:
        """Say where an entry's local header begins."""
        at = len(self.prefix)
        for each in self.entries:
            at += len(each.before)
            if each.name.endswith(which):
                return at
            at += len(each.parts(at)[0]) if each.local else 0
        raise KeyError(which)


def aligned(*entries: Entry) -> tuple[Entry, ...]:
    """Pad the local headers so that data begins at a multiple of 64, as torch does."""
    position, made = 0, []
    for each in entries:
        padding = -(position + 30 + len(each.name) + 4) % 64
        made.append(replace(each, local_extra=struct.pack("<2sH", b"FB", padding) + b"Z" * padding))
        position += len(made[-1].parts(position)[0])
    return tuple(made)


def checkpoint(contents: bytes | None = None, folder: str = FOLDER, floats: bytes = FLOATS) -> Archive:
    """Give the archive of a healthy checkpoint of one tensor, whose pickle may be another."""
    return Archive(
        aligned(
            Entry(f"{folder}/data.pkl", envelope(b"}") if contents is None else contents),
            Entry(f"{folder}/.format_version", b"1"),
            Entry(f"{folder}/.storage_alignment", b"64"),
            Entry(f"{folder}/byteorder", b"little"),
            Entry(f"{folder}/data/0", floats),
            Entry(f"{folder}/version", b"3\n"),
            Entry(f"{folder}/.data/serialization_id", b"0" * 40),
        )
    )


def written(data: Archive | bytes, folder: Path, name: str = "last.ckpt") -> Path:
    """Write an archive, or any bytes."""
    path = folder / name
    path.write_bytes(bytes(data))
    return path
