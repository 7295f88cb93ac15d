"""The archive's directory, as Python's own `zipfile` reads it."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt.checkpoint.errors import AmbiguousArchiveError, BrokenFileError
from pytest_lora_ckpt.checkpoint.formats.zip_index import read_index
from pytest_lora_ckpt.checkpoint.window import MemoryWindow


def archive(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> MemoryWindow:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        for name, data in records.items():
            opened.writestr(name, data)
        opened.comment = comment
    return MemoryWindow("memory", buffer.getvalue())


NAMES = st.lists(st.text("abcéA", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=50)), max_size=6, unique_by=lambda pair: pair[0].lower()),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.binary(max_size=20).filter(lambda comment: b"PK\x05\x06" not in comment),
)
def test_as_zipfile(records: list[tuple[str, bytes]], compression: int, comment: bytes) -> None:
    window = archive(dict(records), compression, comment)
    index = read_index(window)
    assert list(index.records) == list(dict(records))
    for name, data in records:
        assert index.read(name, 1000) == data
        record = index.records[name]
        if not record.deflated:
            assert window.data[record.start : record.start + record.size] == data


@pytest.mark.parametrize("written", ["to a stream", "with sizes of eight bytes", "both"])
def test_headers_written_before_the_sizes_are_known(written: str) -> None:
    buffer = io.BytesIO() if written == "with sizes of eight bytes" else Stream()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name in ("a", "b"):
            with opened.open(name, "w", force_zip64=written != "to a stream") as record:
                record.write(b"x" * 30)
    index = read_index(MemoryWindow("memory", buffer.getvalue()))
    assert {name: index.read(name, 100) for name in index.records} == {"a": b"x" * 30, "b": b"x" * 30}


def test_a_comment_that_holds_no_end_record() -> None:
    assert list(read_index(archive({"a": b"x"}, comment=b"x" * 0xFFFF)).records) == ["a"]


def test_the_fields_of_archives_over_four_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    # zipfile writes zip64 fields as soon as its limit is passed, so a low limit makes a small file of that kind.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    records = {"a": b"x" * 30, "b": b"y" * 30, "c": b"z"}
    window = archive(records)
    assert b"PK\x06\x06" in window.data
    index = read_index(window)
    assert {name: index.read(name, 100) for name in index.records} == records


def test_a_record_over_the_bound_is_not_read() -> None:
    window = archive({"a": bytes(1000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(BrokenFileError, match="at most 999"):
        read_index(window).read("a", 999)


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_packings_are_refused(compression: int) -> None:
    with pytest.raises(BrokenFileError, match="unknown method"):
        read_index(archive({"a": b"x" * 100}, compression))


def test_every_cut_is_an_error() -> None:
    whole = archive({"a": b"x" * 10, "b": b""}).data
    for length in range(len(whole)):
        with pytest.raises(BrokenFileError):
            read_index(MemoryWindow("memory", whole[:length]))


def test_bytes_like_an_end_record_in_a_record_are_none() -> None:
    assert list(read_index(archive({"a": b"PK\x05\x06" * 20, "b": b"PK\x06\x07" * 20})).records) == ["a", "b"]


def struct_at(data: bytes, mark: bytes, offset: int, value: bytes, number: int = 0) -> bytes:
    """Write a value into the `number`-th structure that begins with a mark."""
    at = -1
    for _ in range(number + 1):
        at = data.index(mark, at + 1)
    return data[: at + offset] + value + data[at + offset + len(value) :]


LOCAL, ENTRY, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
WHOLE = archive({"a/x": b"first", "a/y": b"second"}).data
DIRECTORY, LAST = WHOLE.index(ENTRY), WHOLE.index(END)


def moved(data: bytes, by: int) -> bytes:
    """Let the end record say that the directory begins so many bytes later."""
    start = int.from_bytes(data[data.rindex(END) + 16 :][:4], "little") + by
    return data[: data.rindex(END) + 16] + start.to_bytes(4, "little") + data[data.rindex(END) + 20 :]


def hidden_end() -> bytes:
    """An archive whose first record holds another end record, with the rest of the file as its comment."""
    inside = END + bytes(16)
    data = archive({"a/x": inside + b"\0\0", "a/y": b"second"}).data
    at = data.index(END)
    behind = len(data) - at - 22
    return data[: at + 20] + behind.to_bytes(2, "little") + data[at + 22 :]


class Stream(io.BytesIO):
    """What cannot be written again: zipfile puts a record's sizes behind it."""

    def seek(self, offset: int, whence: int = 0) -> int:
        raise OSError("a stream")


def streamed() -> bytes:
    buffer = Stream()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name in ("a/x", "a/y"):
            opened.writestr(name, b"first")
    return buffer.getvalue()


BEHIND = b"PK\x07\x08"
DIRECTORY_OF_STREAM = streamed().index(ENTRY)

AMBIGUOUS = {
    "another checksum behind a record": (lambda: struct_at(streamed(), BEHIND, 4, b"\xff"), "sizes behind record a/x"),
    "another size behind a record": (lambda: struct_at(streamed(), BEHIND, 12, b"\xff"), "sizes behind record a/x"),
    "another size behind the last": (lambda: struct_at(streamed(), BEHIND, 12, b"\xff", 1), "sizes behind record a/y"),
    "no mark behind a record": (lambda: struct_at(streamed(), BEHIND, 0, b"XX"), "sizes behind record a/x"),
    "no sizes behind a record that should have them": (
        lambda: moved(streamed().replace(streamed()[DIRECTORY_OF_STREAM - 16 : DIRECTORY_OF_STREAM], b"", 1), -16),
        "sizes behind record",
    ),
    "a comment that holds an end record": (
        lambda: archive({"a": b"x"}, comment=END + bytes(30)).data,
        "another can hide",
    ),
    "a comment that holds its mark": (lambda: archive({"a": b"x"}, comment=END).data, "another can hide"),
    "bytes behind the end": (lambda: WHOLE + b"\n", "1 byte behind its end record"),
    "a second archive behind it": (lambda: WHOLE + WHOLE, "belong to no record|between its directory"),
    "an archive before it": (lambda: moved(WHOLE + WHOLE, len(WHOLE)), "belong to no record|over it"),
    "an end record inside a record": (hidden_end, "two end records"),
    "bytes before the first": (lambda: b"junk" + WHOLE, "between its directory|no header"),
    "bytes before the directory": (lambda: moved(WHOLE[:DIRECTORY] + b"junk" + WHOLE[DIRECTORY:], 4), "4 bytes before"),
    "bytes behind the directory": (lambda: WHOLE[:LAST] + b"junk" + WHOLE[LAST:], "4 bytes between its directory"),
    "a directory longer than its entries": (lambda: struct_at(WHOLE, END, 8, b"\1\0\1\0"), "behind the last entry"),
    "one disk of several": (lambda: struct_at(WHOLE, END, 4, b"\1\0"), "disk"),
    "fewer entries on this disk": (lambda: struct_at(WHOLE, END, 8, b"\1\0"), "disk"),
    "a record on another disk": (lambda: struct_at(WHOLE, ENTRY, 34, b"\1\0"), "another disk"),
    "a patch": (lambda: struct_at(WHOLE, ENTRY, 8, b"\x20"), "patched"),
    "a masked header": (lambda: struct_at(WHOLE, ENTRY, 9, b"\x20"), "masked"),
    "a folder with data": (lambda: struct_at(WHOLE, ENTRY, 38, b"\x10"), "folder"),
    "the same record twice": (lambda: struct_at(WHOLE, ENTRY, 42, bytes(4), 1), "over it"),
    "another name in the header": (lambda: struct_at(WHOLE, LOCAL, 30, b"b"), "another name"),
    "another packing in the header": (lambda: struct_at(WHOLE, LOCAL, 8, b"\x08"), "another name or packing"),
    "other flags in the header": (lambda: struct_at(WHOLE, LOCAL, 7, b"\x08"), "another name or packing"),
    "another checksum in the header": (lambda: struct_at(WHOLE, LOCAL, 14, b"\xff"), "other sizes"),
    "another size in the header": (lambda: struct_at(WHOLE, LOCAL, 22, b"\x04"), "other sizes"),
    "a longer name in the header": (lambda: struct_at(WHOLE, LOCAL, 26, b"\x04"), "another name"),
    "names that differ in case": (lambda: archive({"a/x": b"1", "a/X": b"2"}).data, "two records"),
    "half an extra field": (lambda: with_extra(b"\1\0\0"), "extra fields"),
    "an extra field that is longer than all": (lambda: with_extra(b"\x07\0\x09\0abcd"), "extra fields"),
    "padding that is cut short": (lambda: put_in_header(b"FBx"), "extra fields"),
    "padding of another length": (lambda: put_in_header(b"FB\x09\0abcd"), "extra fields"),
    "an end further away than a comment is long": (lambda: WHOLE + bytes(69_000), "69000 bytes behind"),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_what_two_readers_could_read_differently_is_refused(kind: str) -> None:
    make, words = AMBIGUOUS[kind]
    with pytest.raises(AmbiguousArchiveError, match=words):
        read_index(MemoryWindow("memory", make()))


@pytest.mark.parametrize("name", ["../x", "a/../x", "a/./x", "/a/x", "a//x", "C:x", "a\\x", "a\0x"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    written = name.replace("\\", "?").replace("\0", "?")
    data = archive({written: b"x"}).data.replace(written.encode(), name.encode())
    with pytest.raises(AmbiguousArchiveError, match="readers differ"):
        read_index(MemoryWindow("memory", data))


def test_a_second_name_in_the_extra_fields_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        info = zipfile.ZipInfo("a/x")
        info.extra = b"\x75\x70\x08\x00\x01" + zlib.crc32(b"a/x").to_bytes(4, "little") + b"a/y"
        opened.writestr(info, b"x")
    with pytest.raises(AmbiguousArchiveError, match="second name"):
        read_index(MemoryWindow("memory", buffer.getvalue()))


@pytest.mark.parametrize("field", range(4, 12))
def test_a_zip64_end_that_contradicts_the_other_is_refused(field: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    data = archive({"a": b"x", "b": b"y"}).data
    at = {4: 16, 5: 20, 6: 24, 7: 32, 8: 40, 9: 48, 10: 4, 11: 12}[field]
    spoilt = struct_at(data, b"PK\x06\x06", at, (data[data.index(b"PK\x06\x06") + at] ^ 1).to_bytes(1, "little"))
    if field == 11:  # Which version wrote it is nobody's concern.
        assert len(read_index(MemoryWindow("memory", spoilt)).records) == 2
        return
    with pytest.raises(AmbiguousArchiveError):
        read_index(MemoryWindow("memory", spoilt))


def test_a_record_that_unpacks_to_more_or_less_is_damaged() -> None:
    data = archive({"a": b"x" * 100}, zipfile.ZIP_DEFLATED).data
    for size in (99, 101):
        spoilt = struct_at(struct_at(data, ENTRY, 24, bytes([size])), LOCAL, 22, bytes([size]))
        with pytest.raises(BrokenFileError, match="unpack"):
            read_index(MemoryWindow("memory", spoilt)).read("a", 1000)


def with_extra(extra: bytes) -> bytes:
    """An archive whose one record has these bytes among its extra fields, in the directory alone."""
    data = archive({"a/x": b"x"}).data
    at, last = data.index(ENTRY), data.index(END)
    directory = data[at : at + 30] + len(extra).to_bytes(2, "little") + data[at + 32 : last] + extra
    end = data[last : last + 12] + len(directory).to_bytes(4, "little") + data[last + 16 :]
    return data[:at] + directory + end


def put_in_header(extra: bytes) -> bytes:
    """An archive whose one record has these extra fields, in its own header alone."""
    data = archive({"a/x": b"x"}).data
    return moved(data[:28] + len(extra).to_bytes(2, "little") + data[30:33] + extra + data[33:], len(extra))


def zip64_end_elsewhere() -> bytes:
    data = put_in(archive({"a/x": b"x"}).data)
    at = data.index(b"PK\x06\x07") + 8
    return data[:at] + (data[at] - 1).to_bytes(1, "little") + data[at + 1 :]


def put_in(data: bytes) -> bytes:
    """The same archive with the end records of zip64."""
    start, end = data.index(ENTRY), data.index(END)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, end - start, start)
    return data[:end] + end64 + struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1) + data[end:]


BROKEN = {
    "no header where one should be": (lambda: struct_at(WHOLE, LOCAL, 0, b"XX", 1), "no header of record a/y"),
    "a directory too short for its entries": (
        lambda: struct_at(WHOLE, END, 8, b"\0\x10\0\x10"),
        "bytes for 4096 records",
    ),
    "a zip64 end elsewhere": (zip64_end_elsewhere, "not where its end says"),
    "a big record without a size": (lambda: struct_at(WHOLE, ENTRY, 24, b"\xff" * 4), "without its size"),
    "a big record with half a size": (
        lambda: struct_at(with_extra(b"\1\0\4\0abcd"), ENTRY, 24, b"\xff" * 4),
        "its size",
    ),
    "a size that it does not need": (lambda: with_extra(b"\1\0\x08\0" + bytes(8)), "without its size"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_no_reader_can_follow_is_broken(kind: str) -> None:
    make, words = BROKEN[kind]
    with pytest.raises(BrokenFileError, match=words):
        read_index(MemoryWindow("memory", make()))


def test_zip64_end_records_and_other_extra_fields_are_read() -> None:
    assert list(read_index(MemoryWindow("memory", put_in(archive({"a/x": b"x"}).data))).records) == ["a/x"]
    assert list(read_index(MemoryWindow("memory", with_extra(b"UT\x05\0" + bytes(5)))).records) == ["a/x"]
