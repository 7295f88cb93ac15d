"""The archive's directory, as Python's own `zipfile` reads it."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.formats.zip_index import read_index
from pytest_lora_ckpt.checkpoint.window import MemoryWindow


def archive(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> MemoryWindow:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        for name, data in records.items():
            opened.writestr(name, data)
        opened.comment = comment
    return MemoryWindow("memory", buffer.getvalue())


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text("abcé/", min_size=1, max_size=6), st.binary(max_size=50), max_size=6),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.binary(max_size=20),
)
def test_as_zipfile(records: dict[str, bytes], compression: int, comment: bytes) -> None:
    window = archive(records, compression, comment)
    index = read_index(window)
    assert list(index.records) == list(records)
    for name, data in records.items():
        assert index.read(name, 1000) == data
        record = index.records[name]
        if not record.deflated:
            start = index.data_offset(name)
            assert window.data[start : start + record.size] == data


@pytest.mark.parametrize("comment", [b"PK\x05\x06", b"PK\x05\x06" + bytes(30), b"x" * 0xFFFF])
def test_a_comment_like_the_end_of_an_archive(comment: bytes) -> None:
    assert list(read_index(archive({"a": b"x"}, comment=comment)).records) == ["a"]


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
