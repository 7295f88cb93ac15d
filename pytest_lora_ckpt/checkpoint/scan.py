"""Every pickle in a file, whatever holds it: a zip, a tar, a compressed stream, an array of objects, or nothing.

This reads what no format reads: files that lie with a checkpoint, and those that no format can read.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError
from pytest_lora_ckpt.checkpoint.formats.torch_legacy import accepts as is_legacy
from pytest_lora_ckpt.checkpoint.formats.zip_index import read_index
from pytest_lora_ckpt.checkpoint.limits import HEAD, OverLimitError
from pytest_lora_ckpt.checkpoint.pickle.scan import STORAGE_RECORD, scan_between, scan_pickles
from pytest_lora_ckpt.checkpoint.window import MemoryWindow, PartWindow
from pytest_lora_ckpt.vocabulary.files import PICKLE_ENDINGS, TORCH_TAR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_lora_ckpt.checkpoint.pickle.globals import Global
    from pytest_lora_ckpt.checkpoint.window import Window

_DEPTH = 4  # Archives in archives.
_FIRST = 1 << 20  # Bytes of a pickle that are read first: most end in them.
_CHUNK = 1 << 20  # Bytes that are unpacked at once.
_BLOCK = 512  # Bytes of a block of a tar archive.
_DIRECTORY = 1 << 20  # Bytes at the end of an archive in which its directory is looked for.
_TORCH_RECORD = b"data.pkl"
_HEADER = b"\x80"
_OBJECTS = re.compile(rb"'descr':[^}]*?'[|<>=]?O")
_NUMPY = b"\x93NUMPY"
_TAR = b"ustar"
_ZIP = b"PK\x03\x04"


class FileScan(NamedTuple):
    """What the pickles in a file ask for, and why they were not read to the end; empty where they were."""

    globals: tuple[Global, ...] = ()
    unread: str = ""


def scan_file(window: Window, name: str) -> FileScan:
    """Return what the pickles in a file ask for.

    Args:
        window: The file.
        name: What to call it.

    Raises:
        OSError: It cannot be read.
    """
    try:
        found = _scan(window, "", name, 0)
    except OverLimitError as error:
        found = FileScan(error.globals, str(error))
    except BrokenFileError as error:
        found = FileScan(error.globals, str(error) if _may_be_loaded(window, name, error) else "")
    return FileScan(tuple(each.within(name) for each in found.globals), found.unread)


def _may_be_loaded(window: Window, name: str, error: BrokenFileError) -> bool:
    """Whether somebody else may read an archive that is not read here: torch is not as strict.

    Nobody loads a checkpoint from an archive of logs or images, nor one whose end is gone.
    """
    if error.truncated:
        return False
    ends = window.read(0, HEAD) + window.read(max(window.length - _DIRECTORY, 0), _DIRECTORY)
    return name.lower().endswith(PICKLE_ENDINGS) or _TORCH_RECORD in ends.lower()


def _scan(window: Window, entry: str, name: str, depth: int) -> FileScan:
    """Look at how a stretch begins, and read the pickles in it."""
    head = window.read(0, HEAD)
    if depth < _DEPTH and (read := _archive(head)) is not None:
        return read(window, entry, name, depth)
    if head.startswith(_NUMPY):
        return _numpy(window, entry, head)
    if head.startswith(_HEADER) or is_legacy(head, name):
        return _pickles(window, entry, name)
    # Protocols 0 and 1 have no header: it may be anything.
    found = _pickles(window, entry, name) if name.lower().endswith(PICKLE_ENDINGS) else FileScan()
    return found if found.globals else FileScan()


def _archive(head: bytes) -> Callable[[Window, str, str, int], FileScan] | None:
    """Return what reads an archive or a compressed stream that begins so; None for anything else."""
    if head.startswith(_ZIP):
        return _zip
    if head[257:262] == _TAR:
        return _tar
    return _unpacked if head.startswith(_PACKED) else None


def _numpy(window: Window, entry: str, head: bytes) -> FileScan:
    """Read the pickle of an array of objects (numpy/lib/format.py); arrays of numbers have none."""
    if not _OBJECTS.search(head):
        return FileScan()
    size = 2 if head[6:7] == b"\1" else 4
    start = 8 + size + int.from_bytes(head[8 : 8 + size], "little")
    return _pickles(PartWindow(window, start, max(window.length - start, 0)), entry, ".npy")


def _pickles(window: Window, entry: str, name: str) -> FileScan:
    """Read pickles. Nothing says how long they are, so more is read as long as they seem cut off."""
    size, most = _FIRST, min(window.length, window.budget.limits.pickle_bytes)
    while True:
        scan = scan_pickles(window.read(0, size), entry, window.budget)
        error = None if scan.is_legacy else scan.error
        if error is None or not error.truncated or size >= most:
            break
        size = min(8 * size, most)
    # Where it is cut off, whoever loads it gets no further. What follows a pickle and is none is not loaded. A file of
    # another kind may begin as a pickle does: one of 256 that begin with a length.
    rest = window.read(scan.position, 1) == _HEADER
    is_pickle = scan.pickles or scan.globals or name.lower().endswith(PICKLE_ENDINGS)
    broken = error is not None and not error.truncated and (rest or not scan.pickles)
    unread = str(error) if broken and is_pickle else ""
    return FileScan(scan.globals, unread)


def _all(scans: list[FileScan]) -> FileScan:
    found: list[Global] = []
    unread: list[str] = []
    for scan in scans:
        found += scan.globals
        unread += [scan.unread] if scan.unread else []
    return FileScan(tuple(found), "; ".join(unread[:3]))


def _zip(window: Window, entry: str, name: str, depth: int) -> FileScan:  # noqa: ARG001 - As the others.
    """Read the records of a zip archive that may hold pickles: the storages of tensors do not."""
    archive = read_index(window)
    scans = []
    for record, where in archive.records.items():
        if not STORAGE_RECORD.search(record):
            held, start = archive.record(record)
            part = PartWindow(held, start, where.size)
            if _may_hold(part, record):
                scans.append(_scan(part, f"{entry}: {record}" if entry else record, record, depth + 1))
    return _all(scans)


def _may_hold(part: Window, name: str) -> bool:
    return name.lower().endswith((*PICKLE_ENDINGS, ".npy")) or part.read(0, 1) == _HEADER


def _tar(window: Window, entry: str, name: str, depth: int) -> FileScan:  # noqa: ARG001 - As the others.
    """Read the members of a tar archive; of one of torch's, also the pickles between the bytes of tensors."""
    scans: list[FileScan] = []
    position = 0
    while len(block := window.read(position, _BLOCK)) == _BLOCK and block[0]:
        member = block[:100].partition(b"\0")[0].decode("utf-8", "replace")
        size = _member_size(block[124:136])
        window.budget.spend("entries", 1)
        part = PartWindow(window, position + _BLOCK, min(size, max(window.length - position - _BLOCK, 0)))
        inside = f"{entry}: {member}" if entry else member
        scans.append(
            FileScan(scan_between(part.read(0, part.length), inside, window.budget))
            if member.strip("./") in TORCH_TAR
            else _scan(part, inside, member, depth + 1)
        )
        position += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return _all(scans)


def _member_size(field: bytes) -> int:
    """Read the size of a member: octal digits, or a number with the highest bit set where those do not suffice."""
    if field[0] == 0x80:  # noqa: PLR2004 - As GNU tar writes it.
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    if not re.fullmatch(rb"[0-7]+", digits):
        raise BrokenFileError("the header of a member of a tar archive is damaged")
    return int(digits, 8)


class _Unpacker(Protocol):
    """What unpacks one stream, as in `bz2` and `lzma`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Zlib:
    """The same for `zlib` and gzip: it keeps what it has not unpacked yet."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 32)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_UNPACKERS: tuple[tuple[tuple[bytes, ...], Callable[[], _Unpacker]], ...] = (
    ((b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"), _Zlib),
    ((b"BZh",), bz2.BZ2Decompressor),
    ((b"\xfd7zXZ\0", b"\x5d\0\0"), lzma.LZMADecompressor),
)
"""How a compressed stream begins -> what unpacks it."""

_PACKED = tuple(sign for signs, _ in _UNPACKERS for sign in signs)


def _unpacked(window: Window, entry: str, name: str, depth: int) -> FileScan:
    """Unpack a stream that holds something to look at; what it holds until it breaks is what a loader gets, too."""
    inner = name.rpartition(".")[0] or name
    made = bytearray()
    try:
        for chunk in _chunks(window):
            window.budget.spend("inflated_bytes", len(chunk))
            made += chunk
            if not _is_of_interest(bytes(made[:HEAD]), inner):
                return FileScan()
    except (zlib.error, lzma.LZMAError, OSError, EOFError):
        pass
    return _scan(MemoryWindow(window.origin, bytes(made), window.budget), entry, inner, depth + 1)


def _chunks(window: Window) -> Iterator[bytes]:
    """Unpack a stream, and those that follow it, piece by piece."""
    head = window.read(0, HEAD)
    make = next(make for signs, make in _UNPACKERS if head.startswith(signs))
    unpacker, position, left = make(), 0, b""
    while True:
        if not left and unpacker.needs_input:
            left = window.read(position, _CHUNK)
            position += len(left)
            if not left:
                return
        if made := unpacker.decompress(left, _CHUNK):
            yield made
        left = b""
        if unpacker.eof:
            unpacker, left = make(), unpacker.unused_data


def _is_of_interest(head: bytes, name: str) -> bool:
    begins = head.startswith((_ZIP, _NUMPY, _HEADER, *_PACKED)) or head[257:262] == _TAR or is_legacy(head, name)
    return begins or name.lower().endswith(PICKLE_ENDINGS)
