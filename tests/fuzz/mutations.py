"""Small real checkpoint files, and changes to them that know the format: each is one that some reader may not notice.

Nothing that they hold does any harm: numbers, texts, tensors.
"""

from __future__ import annotations

import io
import json
import pickletools
import struct
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch.utils.serialization import config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

SIZES = (0, 1, 2, 3, 4, 7, 8, 12, 16, 20, 22, 24, 30, 46, 64, 127, 128, 255, 256, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF)
HUGE = (0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0x100000000, (1 << 63) - 1, (1 << 64) - 1)


def contents(scale: float = 1.0) -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32) * scale
    return {
        "layers.0.q_proj.lora_A.weight": base[:12].clone().reshape(2, 6),
        "layers.0.q_proj.lora_B.weight": base[12:].clone().reshape(6, 2),
        "tied": base[4:10],
        "tied.too": base[4:10],
        "turned": base.reshape(4, 6).t(),
        "half": torch.arange(6, dtype=torch.bfloat16) * scale,
        "count": torch.tensor(7 * int(scale)),
        "empty": torch.zeros(0, 3),
    }


def saved(value: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


class Stream(io.BytesIO):
    """What cannot be written again: zipfile puts a record's sizes behind it."""

    def seek(self, offset: int, whence: int = 0) -> int:
        raise OSError("a stream")


def repacked(data: bytes, method: int, *, stream: bool = False, zip64: bool = False) -> bytes:
    target = Stream() if stream else io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=zip64) as record:
                record.write(old.read(name))
    return target.getvalue()


def seeds() -> dict[str, list[bytes]]:
    """Real files, by the ending that they are saved under."""
    plain = saved(contents())
    envelope = {"state_dict": contents(2), "epoch": 3, "hyper_parameters": {"lr": 0.5, "names": ["a", "b"]}}
    with config.patch({"save.storage_alignment": 1}):
        packed = saved(contents(3))
    checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    unchecked = saved(contents(4))
    torch.serialization.set_crc32_options(checksums)
    zips = [plain, saved(envelope), packed, unchecked]
    zips.append(repacked(plain, zipfile.ZIP_STORED))
    zips += [repacked(plain, 0, stream=True), repacked(plain, 0, zip64=True)]
    old = [saved(value, _use_new_zipfile_serialization=False) for value in (contents(), envelope)]
    safe = [
        safetensors.torch.save({key: value.contiguous().clone() for key, value in contents(scale).items()}, metadata)
        for scale, metadata in ((1.0, None), (2.0, {"format": "pt"}))
    ]
    return {"zip.pt": zips, "legacy.pt": old, "safetensors": safe}


@dataclass
class Record:
    """One record of an archive, with what its two headers say of it: they need not agree."""

    name: bytes
    raw: bytes
    method: int
    flags: int
    crc: int
    size: int
    local_extra: bytes = b""
    extra: bytes = b""
    comment: bytes = b""
    attributes: int = 0
    disk: int = 0
    local: dict[str, object] = field(default_factory=dict)
    central: dict[str, object] = field(default_factory=dict)
    before: bytes = b""
    behind: bytes | None = None

    def unpacked(self) -> bytes:
        return zlib.decompress(self.raw, -15) if self.method == zipfile.ZIP_DEFLATED else self.raw


@dataclass
class Archive:
    """An archive taken apart, and how it is put together."""

    records: list[Record]
    zip64: bool
    order: list[int] | None = None
    before: bytes = b""
    before_directory: bytes = b""
    behind_directory: bytes = b""
    comment: bytes = b""
    behind: bytes = b""
    end: dict[int, int] = field(default_factory=dict)
    end64: dict[int, int] = field(default_factory=dict)
    locator: dict[int, int] = field(default_factory=dict)
    counted: int = 0
    shift: int = 0


def taken_apart(data: bytes) -> Archive:
    records = []
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        for info in opened.infolist():
            name_length, extra_length = struct.unpack_from("<2H", data, info.header_offset + 26)
            extra_at = info.header_offset + 30 + name_length
            start = extra_at + extra_length
            records.append(
                Record(
                    name=data[info.header_offset + 30 : extra_at],
                    raw=data[start : start + info.compress_size],
                    method=info.compress_type,
                    flags=info.flag_bits,
                    crc=info.CRC,
                    size=info.file_size,
                    local_extra=data[extra_at:start],
                    attributes=info.external_attr,
                )
            )
    return Archive(records, b"PK\x06\x06" in data[-98:])


def put_together(archive: Archive) -> bytes:
    out = bytearray(archive.before)
    entries = []
    for record in archive.records:
        out += record.before
        header = len(out)
        behind = bool(record.flags & 8)
        said = {
            "magic": b"PK\x03\x04",
            "version": 0,
            "flags": record.flags,
            "method": record.method,
            "crc": 0 if behind else record.crc,
            "packed": 0 if behind else len(record.raw),
            "size": 0 if behind else record.size,
            "name": record.name,
            "extra": record.local_extra,
            **record.local,
        }
        out += struct.pack(
            "<4s5H3L2H",
            *(said[name] for name in ("magic", "version", "flags", "method")),
            *(0, 33),
            *(said[name] for name in ("crc", "packed", "size")),
            *(len(said[name]) for name in ("name", "extra")),  # type: ignore[arg-type]
        )
        out += said["name"] + said["extra"] + record.raw  # type: ignore[operator]
        descriptor = struct.pack("<4s3L", b"PK\x07\x08", record.crc, len(record.raw), record.size) if behind else b""
        out += descriptor if record.behind is None else record.behind
        fields = {
            "magic": b"PK\x01\x02",
            "version": 0,
            "flags": record.flags,
            "method": record.method,
            "crc": record.crc,
            "packed": len(record.raw),
            "size": record.size,
            "header": header + archive.shift,
            "name": record.name,
            "extra": record.extra,
            **record.central,
        }
        entries.append(
            struct.pack(
                "<4s6H3L5H2L",
                *(fields[name] for name in ("magic", "version", "version", "flags", "method")),
                *(0, 33),
                *(fields[name] for name in ("crc", "packed", "size")),
                *(len(fields["name"]), len(fields["extra"]), len(record.comment)),  # type: ignore[arg-type]
                *(record.disk, 0, record.attributes, fields["header"]),
            )
            + fields["name"]
            + fields["extra"]
            + record.comment
        )
    out += archive.before_directory
    start = len(out) + archive.shift
    if archive.order is not None:
        entries = [entries[index % len(entries)] for index in archive.order] if entries else []
    directory = b"".join(entries)
    out += directory + archive.behind_directory
    count = len(entries) + archive.counted
    if archive.zip64:
        numbers = {0: 44, 1: 0x2D, 2: 0, 3: 0, 4: count, 5: count, 6: len(directory), 7: start, **archive.end64}
        locator = {0: 0, 1: len(out) + archive.shift, 2: 1, **archive.locator}
        out += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", numbers[0], numbers[1], 0, *(numbers[i] for i in range(2, 8)))
        out += struct.pack("<4sLQL", b"PK\x06\x07", locator[0], locator[1], locator[2])
    numbers = {0: 0, 1: 0, 2: count, 3: count, 4: len(directory), 5: start, 6: len(archive.comment), **archive.end}
    masks = (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFF)
    out += struct.pack("<4s4H2LH", b"PK\x05\x06", *(numbers[i] & mask for i, mask in enumerate(masks)))
    return bytes(out) + archive.comment + archive.behind


def other_pickle(random: Random, data: bytes) -> bytes:  # noqa: PLR0911 - A list of changes.
    """A pickle that differs from this one in what it says, and not in how."""
    marks = [(code, argument, at) for code, argument, at in pickletools.genops(data) if at is not None]
    places = [
        (at, following)
        for (code, _, at), (_, _, following) in pairwise(marks)
        if code.name not in {"PROTO", "STOP", "FRAME"} and following is not None
    ]
    kind = random.randrange(7)
    texts = [(at, end) for at, end in places if data[at : at + 1] in (b"X", b"\x8c")]
    numbers = [(at, end) for at, end in places if data[at : at + 1] in (b"K", b"M", b"J")]
    if kind == 0 and len(numbers) > 1:
        (at, end), _ = random.choice(numbers), None
        number = random.choice([*SIZES[:10], *range(8)])
        return data[:at] + b"J" + struct.pack("<i", number) + data[end:]
    if kind == 1 and len(texts) > 1:
        (a, b), (c, d) = sorted(random.sample(texts, 2))
        return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]
    if kind == 2:
        names = [b"FloatStorage", b"LongStorage", b"IntStorage", b"BFloat16Storage", b"DoubleStorage", b"HalfStorage"]
        present = [name for name in names if name in data]
        return data.replace(random.choice(present), random.choice(names), 1) if present else data
    if kind == 3 and len(places) > 1:
        (a, b), (c, d) = sorted(random.sample(places, 2))
        return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]
    if kind == 4 and places:
        at, end = random.choice(places)
        return data[:at] + random.choice([b"", data[at:end] * 2, b"0", b"2", b"N", b"(", b"t", b"}"]) + data[end:]
    if kind == 5:
        return data + random.choice([b".", data, b"\x80\x02}.", bytes(8)])
    return flipped(random, data)


def flipped(random: Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if out:
            at = random.randrange(len(out))
            out[at] = random.choice((out[at] ^ (1 << random.randrange(8)), random.randrange(256), 0, 0xFF))
    return bytes(out)


def cut_or_moved(random: Random, data: bytes) -> bytes:
    a, b, c = sorted(random.randrange(len(data) + 1) for _ in range(3))
    kind = random.randrange(5)
    if kind == 0:
        return data[:a] + data[b:]
    if kind == 1:
        return data[:b]
    if kind == 2:
        return data[:a] + random.randbytes(random.choice(SIZES[:16])) + data[a:]
    if kind == 3:
        return data[:a] + data[b:c] + data[a:b] + data[c:]
    return data[:b] + data[a:b] + data[b:]


def renamed(random: Random, name: bytes) -> bytes:
    folder, _, rest = name.partition(b"/")
    return random.choice(
        [
            folder + b"/" + rest.swapcase(),
            folder.swapcase() + b"/" + rest,
            b"other/" + rest,
            rest,
            name + b"\0",
            name + b"/",
            b"/" + name,
            folder + b"/./" + rest,
            folder + b"/../" + name,
            folder + b"\\" + rest,
            folder + b"//" + rest,
            name + b" ",
            folder + b"/constants.pkl",
            folder + b"/.data/version",
            folder + b"/data/" + str(random.randrange(12)).encode(),
        ]
    )


def with_pickle(random: Random, record: Record) -> Record:
    """The pickle with other contents, and all sizes and checksums right."""
    data = other_pickle(random, record.unpacked())
    raw = data
    if record.method == zipfile.ZIP_DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        raw = packer.compress(data) + packer.flush()
    return replace(record, raw=raw, crc=zlib.crc32(data), size=len(data))


def changed_archive(random: Random, archive: Archive) -> None:  # noqa: C901, PLR0912, PLR0915 - A list of changes.
    records = archive.records
    at = random.randrange(len(records)) if records else 0
    if not records:
        return
    if random.random() < 0.3:
        at = next((i for i, record in enumerate(records) if record.name.endswith(b"data.pkl")), at)
    record = records[at]
    number = random.choice((*SIZES, *HUGE[:3], record.size, len(record.raw), record.size + 1, max(record.size - 1, 0)))
    match random.randrange(25):
        case 24:
            small = [i for i, each in enumerate(records) if b"/data" not in each.name and each.method == 0]
            raw = random.choice((b"big", b"little\n", b"", b"0", b"2", b"3\n", b"10", b"99", b"x", b"1" * 20))
            if small:
                i = random.choice(small)
                records[i] = replace(records[i], raw=raw, crc=zlib.crc32(raw), size=len(raw))
        case 0:
            records[at] = replace(record, name=renamed(random, record.name))
        case 1:
            twin = replace(record, name=random.choice([record.name, renamed(random, record.name)]))
            if twin.name.lower().endswith(b"data.pkl"):
                twin = with_pickle(random, replace(record, name=twin.name))
            elif twin.method == 0:
                raw = flipped(random, twin.raw)
                twin = replace(twin, raw=raw, crc=zlib.crc32(raw))
            records.insert(random.randrange(len(records) + 1), twin)
        case 2:
            del records[at]
        case 3:
            random.shuffle(records)
        case 4:
            archive.order = random.choice(
                [
                    [random.randrange(len(records)) for _ in records],
                    random.sample(range(len(records)), len(records)),
                    list(range(len(records) - 1)),
                    [*range(len(records)), at],
                ]
            )
        case 5 | 6 | 7:
            where = random.choice((record.local, record.central))
            where[random.choice(("packed", "size", "crc"))] = number & 0xFFFFFFFF
            if random.random() < 0.4:
                where[random.choice(("packed", "size"))] = number & 0xFFFFFFFF
        case 8:
            random.choice((record.local, record.central))["flags"] = record.flags ^ (1 << random.randrange(16))
        case 9:
            record.flags ^= 1 << random.randrange(16)
        case 10:
            random.choice((record.local, record.central))["method"] = random.choice((0, 8, 9, 12, 14, 99))
        case 11:
            record.attributes = random.choice((0x10, 0x30, 0x41ED0010, 1 << random.randrange(32)))
        case 12:
            random.choice((record.local, record.central))["name"] = renamed(random, record.name)
        case 13:
            other = random.choice(records)
            record.central["header"] = random.choice((number, other.size)) & 0xFFFFFFFF
        case 14:
            junk = random.choice((b"\0", b"PK\x05\x06" + bytes(18), random.randbytes(number % 300), bytes(16)))
            setattr(*random.choice([(record, "before"), (archive, "before"), (archive, "before_directory")]), junk)
        case 15:
            archive.behind_directory = random.choice((bytes(1), bytes(number % 200), b"PK\x05\x05\0\0", b"PK\x06\x06"))
        case 16:
            archive.comment = random.choice((b"x", b"PK\x05\x06", bytes(30), b"PK\x05\x06" + bytes(18), bytes(22)))
        case 17:
            archive.behind = random.choice((b"\n", bytes(22), b"PK\x05\x06" + bytes(18), random.randbytes(5)))
        case 18:
            archive.end[random.randrange(7)] = number & 0xFFFFFFFF
        case 19:
            archive.zip64 = not archive.zip64 if random.random() < 0.5 else True
            random.choice((archive.end64, archive.locator))[random.randrange(3)] = number & 0xFFFFFFFF
            if random.random() < 0.5:
                archive.end64[random.randrange(8)] = random.choice((number, archive.end64.get(0, 44)))
        case 20:
            extra = struct.pack("<2H", 1, random.choice((0, 8, 16, 24))) + struct.pack(
                "<3Q", *(random.choice((number, record.size, len(record.raw), 0)) for _ in range(3))
            )
            extra = random.choice(
                (extra, extra[:12], extra[:20], b"up\x09\0\1" + bytes(4) + record.name[:4], b"\1\0\0")
            )
            if random.random() < 0.5:
                record.extra = extra
                for name in random.sample(("packed", "size", "header"), random.randrange(3)):
                    record.central[name] = 0xFFFFFFFF
            else:
                record.local_extra = random.choice((extra, extra + record.local_extra))
                for name in random.sample(("packed", "size"), random.randrange(3)):
                    record.local[name] = 0xFFFFFFFF
        case 21:
            descriptor = struct.pack("<4s3L", b"PK\x07\x08", record.crc, len(record.raw), record.size)
            record.behind = random.choice(
                (
                    b"",
                    descriptor,
                    descriptor[4:],
                    flipped(random, descriptor),
                    struct.pack("<4sL2Q", b"PK\x07\x08", record.crc, len(record.raw), record.size),
                )
            )
        case 22:
            packer = zlib.compressobj(random.choice((0, 1, 9)), wbits=-15)
            raw = packer.compress(record.unpacked()) + packer.flush()
            raw = random.choice((raw, raw + b"x", raw[:-1], flipped(random, raw)))
            records[at] = replace(record, raw=raw, method=8)
        case 23:
            archive.shift = random.choice((1, 16, 64, -1, -16)) if random.random() < 0.5 else 0
            archive.before = bytes(abs(archive.shift)) if random.random() < 0.7 else b""
            archive.counted = random.choice((-1, 1, 0))


def changed_zip(random: Random, data: bytes) -> bytes:
    kind = random.random()
    if kind < 0.08:
        return flipped(random, data)
    if kind < 0.14:
        return cut_or_moved(random, data)
    if kind < 0.2:
        marks = [b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x03\x04", b"PK\x07\x08"]
        places = [at for mark in marks for at in occurrences(data, mark)]
        at = random.choice(places) + random.randrange(4, 50)
        return data[:at] + random.choice((b"\0", b"\xff" * 2, b"\xff" * 4, b"\1", random.randbytes(1))) + data[at + 1 :]
    if kind < 0.24:
        other = put_together(taken_apart(data))
        return random.choice(
            (data + other, data[: len(data) // 2] + other, other + data[random.randrange(len(data)) :])
        )
    archive = taken_apart(data)
    if kind < 0.45:
        archive.records = [
            with_pickle(random, record) if record.name.endswith(b"data.pkl") else record for record in archive.records
        ]
        return put_together(archive)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        changed_archive(random, archive)
    return put_together(archive)


def occurrences(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


def changed_legacy(random: Random, data: bytes) -> bytes:
    kind = random.random()
    if kind < 0.15:
        return cut_or_moved(random, data)
    if kind < 0.3:
        return flipped(random, data)
    buffer = io.BytesIO(data)
    parts = []
    for _ in range(5):
        begin = buffer.tell()
        for _ in pickletools.genops(buffer):
            pass
        parts.append(data[begin : buffer.tell()])
    rest = data[buffer.tell() :]
    at = random.choice((0, 1, 2, 3, 3, 3, 3, 3, 4, 4))
    parts[at] = other_pickle(random, parts[at])
    if random.random() < 0.2:
        rest = random.choice((flipped(random, rest), cut_or_moved(random, rest), rest + bytes(9)))
    return b"".join(parts) + rest


def changed_safetensors(random: Random, data: bytes) -> bytes:
    kind = random.random()
    if kind < 0.1:
        return cut_or_moved(random, data)
    if kind < 0.2:
        return flipped(random, data)
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    text = changed_header(random, header)
    if random.random() < 0.3:
        text = changed_header(random, text)
    if random.random() < 0.1:
        rest = random.choice((rest + b"\0", rest[:-1], flipped(random, rest)))
    return (len(text) + random.choice((0,) * 12 + (1, -1, 8))).to_bytes(8, "little") + text + rest


def changed_header(random: Random, header: bytes) -> bytes:  # noqa: C901, PLR0911 - A list of changes.
    """A header of JSON, changed as a text: what a JSON library would write is not the point."""

    def pick(options: list[tuple[bytes, bytes]]) -> bytes:
        usable = [(old, new) for old, new in options if old in header]
        if not usable:
            return header
        old, new = random.choice(usable)
        places = list(occurrences(header, old))
        at = random.choice(places)
        return header[:at] + new + header[at + len(old) :]

    match random.randrange(8):
        case 0:
            return random.choice((b" ", b"\n", b"\xef\xbb\xbf", b"\t")) + header
        case 1:
            return header + random.choice((b" ", b"\0", b"\n", b"x", b"{}"))
        case 2:
            return pick(
                [(b"[0", b"[-0"), (b"0,", b"0.0,"), (b"2", b"2e0"), (b"[", b"[ "), (b",", b" , "), (b"2", b"02")]
            )
        case 3:
            return pick(
                [(b'"tied"', b'"ti\\u0065d"'), (b'"tied"', b'"\\ud800"'), (b'"half"', b'"tied"'), (b"F32", b"f32")]
            )
        case 4:
            return pick(
                [(b'"F32"', b'"I32"'), (b'"F32"', b'"F32","dtype":"I32"'), (b'"I64"', b'"F64"'), (b'"BF16"', b'"F16"')]
            )
        case 5:
            return pick(
                [
                    (b'"shape":', b'"shape":[1],"shape":'),
                    (b'"dtype"', b'"x":1,"dtype"'),
                    (b"data_offsets", b"Data_offsets"),
                ]
            )
        case 6:
            try:
                items = list(json.loads(header).items())
            except ValueError:
                return header
            random.shuffle(items)
            items.append(random.choice(items))
            entries = (f"{json.dumps(name)}:{json.dumps(value)}" for name, value in items)
            return ("{" + ",".join(entries) + "}").encode()
        case _:
            digits = [at for at, byte in enumerate(header) if chr(byte).isdigit()]
            at = random.choice(digits)
            return (
                header[:at]
                + random.choice((b"0", b"1", b"2", b"7", b"24", b"18446744073709551616", b""))
                + header[at + 1 :]
            )


CHANGES: dict[str, Callable[[Random, bytes], bytes]] = {
    "zip.pt": changed_zip,
    "legacy.pt": changed_legacy,
    "safetensors": changed_safetensors,
}
SHARES = ("zip.pt",) * 14 + ("legacy.pt",) * 3 + ("safetensors",) * 3


def mutation(random: Random, files: dict[str, list[bytes]]) -> tuple[str, bytes]:
    """One changed file, and the ending that it is saved under."""
    kind = random.choice(SHARES)
    data = random.choice(files[kind])
    for _ in range(3):
        try:
            changed = CHANGES[kind](random, data)
        except (struct.error, ValueError, IndexError, KeyError, zlib.error, zipfile.BadZipFile):
            continue  # Numbers that no field holds, or nothing left to change.
        if changed != data:
            return kind, changed
    return kind, flipped(random, data)
