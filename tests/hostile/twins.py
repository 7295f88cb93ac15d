"""Archives that two readers read differently: one sees the healthy checkpoint, the other code or other weights."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.archives import FLOATS, FOUR, OTHER_FLOATS, STREAMED, Archive, Entry, checkpoint
from tests.hostile.containers import file
from tests.hostile.ops import envelope, payload, pickled, tensor, value
from tests.hostile.sample import Expect, Family, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

Refused = partial(Family, kind=Kind.ARCHIVE, expect=Expect.UNREADABLE)

PICKLE = "archive/data.pkl"
GOOD = envelope(b"}")
BAD = envelope(payload())
OTHER = pickled(value({"state_dict": {"head.weight": tensor("9")}}))


def twins() -> Iterator[Family]:
    """Two entries of one name, for a reader that ignores case, or that keeps the first or the last."""
    family = Refused("case-twins")
    for name in (
        "archive/DATA.PKL",
        "ARCHIVE/data.pkl",
        "Archive/Data.pkl",
        "archive/data.PKL",
        "archive/dat\u00e1.pkl".replace("\u00e1", "A"),
    ):
        for first in (True, False):
            where = "first" if first else "last"
            family.add(f"{name.replace('/', '-')}-{where}", file(checkpoint().adding(Entry(name, BAD), first=first)))
    for name in ("archive/DATA/0", "archive/Data/0", "archive/VERSION", "archive/ByteOrder"):
        for first in (True, False):
            where = "first" if first else "last"
            more = Entry(name, OTHER_FLOATS if name.endswith("0") else b"big")
            family.add(f"{name.replace('/', '-')}-{where}", file(checkpoint().adding(more, first=first)))
    # Letters that only some case foldings make equal.
    for number, name in enumerate(("archive/data.p\u212al", "archive/\u017fdata.pkl", "archive/data\u0130.pkl")):
        family.add(f"folded-{number}", file(checkpoint().adding(Entry(name, BAD))))
    yield family
    family = Refused("duplicate-names")
    for name, data in (
        (PICKLE, BAD),
        ("archive/data/0", OTHER_FLOATS),
        ("archive/version", b"1\n"),
        ("archive/byteorder", b"big"),
    ):
        for first in (True, False):
            family.add(
                f"{name.replace('/', '-')}-{'first' if first else 'last'}",
                file(checkpoint().adding(Entry(name, data), first=first)),
            )
    family.add("three-times", file(checkpoint().adding(Entry(PICKLE, BAD), Entry(PICKLE, BAD))))
    family.add("same-bytes-twice", file(checkpoint().adding(Entry(PICKLE, GOOD))))
    yield family
    family = Refused("names-of-entries")
    for number, name in enumerate(
        (
            *(
                "archive//data.pkl",
                "archive/./data.pkl",
                "./archive/data.pkl",
                "/archive/data.pkl",
                "archive/../archive/data.pkl",
            ),
            *(
                "archive\\data.pkl",
                "archive/data.pkl/",
                "archive/data.pkl\x00",
                "archive/data.pkl\x00.txt",
                "archive/data.pkl ",
            ),
            *(
                "archive/data.pkl\n",
                "other/data.pkl",
                "archive2/data.pkl",
                "data.pkl",
                "archive/sub/data.pkl",
                "C:archive/data.pkl",
            ),
            *(
                "archive/\u202edata.pkl",
                "archive/data.pkl\u200b",
                "archive/d\u0430ta.pkl",
                "\udcffarchive/data.pkl",
                "",
                "archive/",
            ),
        )
    ):
        family.add(f"{number:02}-beside", file(checkpoint().adding(Entry(name, BAD))))
    for number, folder in enumerate(("", "a/b", "..", "/", "archive\x00", "a\nb")):
        # torch names the folder after the file, which may be called almost anything.
        expect = Expect.SURVIVES if number in {0, 1, 5} else None
        family.add(f"folder-{number}", file(checkpoint(BAD, folder=folder)), expect)
    yield family


def ends() -> Iterator[Family]:
    """The end of the archive: several of them, in comments, and with numbers that lie."""
    other = bytes(checkpoint(BAD))
    family = Refused("end-records")
    healthy = checkpoint()
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
    for name, archive in {
        "empty-end-in-the-comment": healthy.ending(comment=end),
        "empty-end-behind": healthy.ending(after=end),
        "end-in-a-longer-comment": healthy.ending(comment=b"abc" + end + b"def"),
        "whole-archive-in-the-comment": healthy.ending(comment=other),
        "whole-archive-behind": healthy.ending(after=other),
        "comment": healthy.ending(comment=b"hello"),
        "comment-with-a-mark": healthy.ending(comment=b"PK\x05\x06"),
        "comment-of-64k": healthy.ending(comment=b"c" * 65535),
        "comment-too-long": healthy.ending(comment=b"abc", comment_length=2),
        "comment-too-short": healthy.ending(comment=b"abc", comment_length=4),
        "bytes-behind": healthy.ending(after=b"\0" * 8),
        "newline-behind": healthy.ending(after=b"\n"),
        "two-ends": healthy.ending(before=end),
        "end-between-zip64-and-end": healthy.ending(between=end),
        "bytes-between": healthy.ending(between=b"\0\0\0\0"),
        "bytes-before": healthy.ending(before=b"\0" * 16),
        "disk": healthy.ending(disk=1),
        "disk-of-the-directory": healthy.ending(directory_disk=1),
        "all-on-disk-65535": healthy.ending(disk=65535, directory_disk=65535),
        "count-less": healthy.ending(count=3, zip64=False),
        "count-more": healthy.ending(count=9, zip64=False),
        "count-here": healthy.ending(count_here=1, zip64=False),
        "count-none": healthy.ending(count=0, zip64=False),
        "size-less": healthy.ending(size=100, zip64=False),
        "size-more": healthy.ending(size=10_000, zip64=False),
        "start-later": healthy.ending(start=64, zip64=False),
        "start-far": healthy.ending(start=1 << 31, zip64=False),
    }.items():
        # A comment without a mark in it is read by nobody.
        family.add(name, file(archive), Expect.PASSES if name in {"comment", "comment-of-64k"} else None)
    yield family
    family = Refused("zip64")
    for name, archive in {
        "count-differs": healthy.ending(zip64_count=3),
        "count-huge": healthy.ending(zip64_count=1 << 40),
        "size-differs": healthy.ending(zip64_size=64),
        "start-differs": healthy.ending(zip64_start=0),
        "start-huge": healthy.ending(zip64_start=1 << 63),
        "length-lies": healthy.ending(zip64_length=1 << 50),
        "length-zero": healthy.ending(zip64_length=0),
        "locator-elsewhere": healthy.ending(locator_offset=0),
        "locator-far": healthy.ending(locator_offset=1 << 62),
        "locator-disks": healthy.ending(locator_disks=2),
        "classic-count-differs": healthy.ending(count=2, count_here=2),
        "classic-start-differs": healthy.ending(start=1),
        "classic-size-differs": healthy.ending(size=1),
        "size-in-an-extra": healthy.changed(
            "/data/0", size=FOUR, packed=FOUR, extra=struct.pack("<2H2Q", 1, 16, 16, 16)
        ),
        "size-in-an-extra-differs": healthy.changed(
            "/data/0", size=FOUR, packed=FOUR, extra=struct.pack("<2H2Q", 1, 16, 8, 8)
        ),
        "two-extras": healthy.changed(
            "/data/0", size=FOUR, packed=FOUR, extra=struct.pack("<2H2Q2H2Q", 1, 16, 16, 16, 1, 16, 8, 8)
        ),
        "extra-cut": healthy.changed("/data/0", size=FOUR, extra=struct.pack("<2HL", 1, 8, 8)),
        "extra-unneeded": healthy.changed("/data.pkl", extra=struct.pack("<2H2Q", 1, 16, 8, 8)),
        "offset-in-an-extra": healthy.changed(PICKLE, offset=FOUR, extra=struct.pack("<2HQ", 1, 8, 0)),
    }.items():
        # Sizes in the extra field are what zip64 is for: only those that disagree must be refused.
        family.add(
            name,
            file(archive),
            Expect.SURVIVES if name in {"size-in-an-extra", "offset-in-an-extra", "extra-unneeded"} else None,
        )
    yield family


def entries() -> Iterator[Family]:
    """Single fields of entries: attributes, flags, methods, overlaps, local headers that say something else."""
    healthy = checkpoint()
    family = Refused("attributes")
    for name, external in {
        "directory-bit": 0x10,
        "directory-bit-and-others": 0x31,
        "directory-bit-of-unix": 0o040755 << 16 | 0x10,
        "unix-directory": 0o040755 << 16,
        "symlink": 0o120777 << 16,
        "fifo": 0o010644 << 16,
        "device": 0o020644 << 16,
        "volume-label": 0x08,
    }.items():
        # Only the bit of DOS means something to torch's reader; modes of Unix are for programs that unpack.
        expect = None if "directory-bit" in name else Expect.SURVIVES
        for where in ("data/0", "data.pkl"):
            made = healthy.changed(f"/{where}", external=external, made_by=3 << 8)
            family.add(f"{name}-{where.replace('/', '-')}", file(made), expect)
    family.add("directory-bit-made-by-dos", file(healthy.changed("/data/0", external=0x10)))
    family.add("directory-by-name", file(healthy.adding(Entry("archive/data/", b""))), Expect.SURVIVES)
    yield family
    family = Refused("flags-and-methods")
    for name, fields in {
        "encrypted": {"flags": STREAMED | 1},
        "strongly-encrypted": {"flags": STREAMED | 0x41},
        "masked": {"flags": STREAMED | 0x2000},
        "patched": {"flags": STREAMED | 0x20},
        "method-unknown": {"method": 99},
        "method-bzip2": {"method": 12},
        "method-lzma": {"method": 14},
        "method-zstd": {"method": 93},
        "stored-called-deflated": {"method": 0, "local_method": 8},
        "deflated-called-stored": {"method": 8, "local_method": 0},
        "flags-differ": {"local_flags": STREAMED | 1},
        "disk": {"disk": 1},
        "stored-with-two-sizes": {"size": 8, "packed": 16},
        "size-too-big": {"size": 1 << 20, "packed": 1 << 20},
        "size-too-small": {"size": 4, "packed": 4},
        "crc-wrong": {"crc": 1},
    }.items():
        for where in ("data/0", "data.pkl"):
            # A record of a tensor whose checksum is wrong is damaged, and that is for `values` to say.
            expect = Expect.SURVIVES if name == "crc-wrong" and where == "data/0" else None
            family.add(f"{name}-{where.replace('/', '-')}", file(healthy.changed(f"/{where}", **fields)), expect)
    yield family
    family = Refused("local-headers")
    for name, fields in {
        "name": {"local_name": "archive/data.pkx"},
        "name-case": {"local_name": "archive/DATA.PKL"},
        "name-longer": {"local_name": "archive/data.pkl2"},
        "name-empty": {"local_name": ""},
        "size": {"local_size": 3, "local_flags": 0x0800},
        "crc": {"local_crc": 7, "local_flags": 0x0800},
        "method": {"local_method": 8},
        "flags": {"local_flags": 0},
        "magic": {"local_magic": b"PK\x03\x05"},
        "descriptor-lies": {"descriptor": struct.pack("<4s3L", b"PK\x07\x08", 1, 2, 3)},
        "no-descriptor": {"descriptor": b""},
        "long-descriptor": {"descriptor": struct.pack("<4sL2Q", b"PK\x07\x08", 1, 2, 3)},
        "extra-zip64": {"local_extra": struct.pack("<2H2Q", 1, 16, 1 << 40, 1 << 40)},
        "extra-unicode-name": {"local_extra": struct.pack("<2HBL", 0x7075, 21, 1, 0) + b"archive/DATA.PKL"},
        "not-there": {"local": False},
        "bytes-before": {"before": b"\0" * 64},
        "entry-before": {"before": b"PK\x03\x04" + b"\0" * 60},
        "offset-elsewhere": {"offset": 5},
        "offset-far": {"offset": 1 << 31},
        "offset-of-another": {"offset": healthy.offset_of("/version")},
    }.items():
        for where in ("data.pkl", "data/0"):
            # torch pads with an extra field of its own; one that says nothing about sizes need not be refused.
            family.add(f"{name}-{where.replace('/', '-')}", file(healthy.changed(f"/{where}", **fields)))
    yield family
    family = Refused("overlaps")
    inner = bytes(checkpoint(BAD))
    at = healthy.offset_of("/data/0")
    for name, archive in {
        "two-entries-one-place": healthy.adding(Entry("archive/data/1", FLOATS, offset=at, local=False)),
        "entry-inside-an-entry": _inside(healthy),
        "entry-in-the-directory": healthy.adding(
            Entry("archive/data/1", FLOATS, offset=len(bytes(healthy)) - 300, local=False)
        ),
        "archive-in-a-storage": healthy.changed("/data/0", data=inner[:16]),
        "second-archive-between": healthy.changed("/version", before=inner),
        "data-behind-the-entries": healthy.ending(before=b"").adding(
            Entry("archive/data/1", FLOATS, before=b"x" * 100)
        ),
    }.items():
        family.add(name, file(archive), Expect.SURVIVES if name == "archive-in-a-storage" else None)
    yield family
    family = Refused("data-around")
    for name, archive in {
        "in-front": replace(healthy, prefix=b"A" * 64),
        "in-front-shifted": replace(healthy, prefix=b"A" * 64, shifted=True),
        "archive-in-front-shifted": replace(healthy, prefix=inner, shifted=True),
        "magic-in-front-shifted": replace(healthy, prefix=b"PK\x03\x04" + b"\0" * 60, shifted=True),
        "zeros-in-front": replace(healthy, prefix=b"\0" * 4096),
        "shell-script-in-front": replace(healthy, prefix=b"#!/bin/sh\nexit\n", shifted=True),
    }.items():
        family.add(name, file(archive))
    yield family
    yield contents()


def _inside(healthy: Archive) -> Archive:
    """Put a whole local entry into the data of another one."""
    hidden = Entry("archive/data/1", FLOATS)
    local, _ = hidden.parts(0)
    carrier = Entry("archive/data/2", b"x" * 64 + local + b"x" * 64)
    made = healthy.adding(carrier)
    at = bytes(made).index(local)
    return made.adding(replace(hidden, offset=at, local=False))


def contents() -> Family:
    """Archives that are well-formed and hold what torch does not write, or lack what it reads."""
    healthy = checkpoint()
    family = Refused("what-is-in-it")
    for name, archive, expect in (
        ("no-pickle", healthy.without("data.pkl"), None),
        ("no-storage", healthy.without("data/0"), None),
        ("no-entries", Archive(()), None),
        ("storage-too-short", checkpoint(floats=FLOATS[:8]), None),
        ("storage-too-long", checkpoint(floats=FLOATS + FLOATS), None),
        ("pickle-deflated", healthy.changed("/data.pkl", method=8), Expect.SURVIVES),
        ("byteorder-big", healthy.changed("/byteorder", data=b"big"), Expect.SURVIVES),
        ("byteorder-unknown", healthy.changed("/byteorder", data=b"middle"), Expect.FAILS),
        ("byteorder-empty", healthy.changed("/byteorder", data=b""), Expect.FAILS),
        ("version-text", healthy.changed("/version", data=b"x"), Expect.SURVIVES),
        ("version-huge", healthy.changed("/version", data=b"9" * 5000), Expect.SURVIVES),
        ("storage-called-like-a-path", healthy.adding(Entry("archive/data/../../a", FLOATS)), None),
        ("unnamed-storage", healthy.adding(Entry("archive/data/7", FLOATS)), Expect.SURVIVES),
        ("unknown-entry", healthy.adding(Entry("archive/readme.txt", b"hello")), Expect.SURVIVES),
        ("pickle-of-another", checkpoint(OTHER), None),
        ("empty-pickle", checkpoint(b""), None),
        ("spanned-mark", Archive(healthy.entries, healthy.end, b"PK\x07\x08"), None),
    ):
        family.add(name, file(archive), expect)
    return family


def families() -> Iterator[Family]:
    """Give the families of this module."""
    for each in (twins, ends, entries):
        yield from each()
