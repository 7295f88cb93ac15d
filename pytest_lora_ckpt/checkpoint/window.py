"""`Window`: a stretch of bytes, whatever it lies in. All formats read from windows.

A file is opened in one way: a regular file only, never waiting for it, and every time the same one as the first time.
Its bytes are copied, not mapped: a map of a file that gets shorter ends the process.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import zlib
from dataclasses import dataclass, field
from io import FileIO
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, changed
from pytest_lora_ckpt.checkpoint.limits import Budget

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

_BIG = 1 << 24  # Bytes. From here on memory in huge pages costs less than memory that the allocator has.
# Opening a pipe or a device must not wait; where the path is a link has been looked at before.
_NEVER_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NOCTTY", 0)


class Window(Protocol):
    """A stretch of bytes. Windows are immutable and keep no file open.

    Reading from one raises `CheckpointError` where its file is another than when it was opened.

    Attributes:
        origin: What messages call it: the path of the file.
        length: How many bytes it has.
        budget: What readers spend, and what the audit's other files have spent.
        is_remote: Whether each stretch that is read for itself is a request over a network.
    """

    @property
    def origin(self) -> str: ...  # noqa: D102
    @property
    def length(self) -> int: ...  # noqa: D102
    @property
    def budget(self) -> Budget: ...  # noqa: D102
    @property
    def is_remote(self) -> bool: ...  # noqa: D102

    def expect(self, stretches: Iterable[tuple[int, int]]) -> None:
        """Be told what will be read, by offsets and lengths: over a network that takes fewer requests."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, or fewer where the window ends.

        Raises:
            BrokenFileError: They are compressed, and cannot be unpacked.
            OSError: The file cannot be read.
        """
        ...

    def read_each(self, stretches: Iterable[tuple[int, int]]) -> Generator[bytes, None, None]:
        """Read several stretches, each given by its offset and length; to be closed by who does not read them all.

        Raises:
            OSError: The file cannot be read.
        """
        ...

    def view(self, offset: int, length: int) -> memoryview:
        """Return `length` bytes as writable memory of the caller's own: writing into it changes nothing else.

        Raises:
            BrokenFileError: They are compressed, and cannot be unpacked.
            OSError: The file cannot be read.
            ValueError: There are fewer bytes.
        """
        ...


class Identity(NamedTuple):
    """Which file it is, and which state of it."""

    device: int
    inode: int
    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class FileWindow:
    """A whole file on this machine.

    Attributes:
        path: Where it lies, if that is not its origin. A link is not followed.
        identity: Which file it was when it was opened first; None to take any.
    """

    origin: str
    length: int
    budget: Budget = field(default_factory=Budget, repr=False, compare=False)
    path: str | None = None
    identity: Identity | None = None

    @property
    def is_remote(self) -> bool:
        """See `Window`."""
        return False

    def expect(self, stretches: Iterable[tuple[int, int]]) -> None:
        """See `Window`."""

    @classmethod
    def of(cls, origin: str, path: str, budget: Budget) -> FileWindow:
        """Return a file as a window onto the state in which it is now.

        Raises:
            OSError: It cannot be opened, or is no regular file.
        """
        with FileIO(path, opener=_never_waiting) as file:
            identity = _identity(file)
        return cls(origin, identity.size, budget, path, identity)

    def _open(self) -> FileIO:
        file = FileIO(self.path or self.origin, opener=_never_waiting)
        if self.identity not in {None, _identity(file)}:
            file.close()
            raise changed(self.origin, "the file as it was when it was opened", "other contents, or another file")
        return file

    def read(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        with self._open() as file:
            return _read(file.fileno(), offset, min(length, self.length - offset))

    def read_each(self, stretches: Iterable[tuple[int, int]]) -> Generator[bytes, None, None]:
        """See `Window`: the file is opened once for all."""
        with self._open() as file:
            descriptor = file.fileno()
            for offset, length in stretches:
                yield _read(descriptor, offset, min(length, self.length - offset))

    def stream(self, offset: int, length: int, buffer: memoryview) -> Generator[int, None, None]:
        """Read a stretch into a buffer, again and again until it is at its end; each time give how much there is."""
        with self._open() as file:
            file.seek(offset)
            while length > 0:
                size = filled = min(len(buffer), length)
                while filled and (number := file.readinto(buffer[size - filled : size])):
                    filled -= number
                if filled:
                    return
                yield size
                length -= size

    def view(self, offset: int, length: int) -> memoryview:
        """See `Window`."""
        with self._open() as file:
            view = _memory(length)
            file.seek(offset)
            filled = 0
            while filled < length:
                number = file.readinto(view[filled:])
                if not number:
                    raise ValueError("the file is shorter")
                filled += number
            return view


def _never_waiting(path: str, flags: int) -> int:
    """Open a regular file, and nothing else."""
    descriptor = os.open(path, flags | _NEVER_WAIT)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("no regular file, but a device, a pipe or a socket")
    return descriptor


def _identity(file: FileIO) -> Identity:
    found = os.fstat(file.fileno())
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """Read until there are so many bytes: one call gives 2 GB at most."""
    if length <= 0:
        return b""
    data = _read_at(descriptor, length, offset)
    while len(data) < length and (more := _read_at(descriptor, length - len(data), offset + len(data))):
        data += more
    return data


def _seek_and_read(descriptor: int, length: int, offset: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


_read_at = getattr(os, "pread", _seek_and_read)  # One call for two, where the system has it.


def _memory(length: int) -> memoryview:
    """Return memory that is nobody else's."""
    if length < _BIG or not hasattr(mmap, "MADV_HUGEPAGE"):
        return memoryview(bytearray(length))
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


class _Copied:
    """What windows have in common that give out copies of bytes in memory."""

    __slots__ = ()

    @property
    def is_remote(self) -> bool:
        """See `Window`."""
        return False

    def expect(self, stretches: Iterable[tuple[int, int]]) -> None:
        """See `Window`."""

    def read_each(self: Window, stretches: Iterable[tuple[int, int]]) -> Generator[bytes, None, None]:
        """See `Window`."""
        return (self.read(offset, length) for offset, length in stretches)

    def view(self: Window, offset: int, length: int) -> memoryview:
        """See `Window`."""
        data = self.read(offset, length)
        if len(data) != length:
            raise ValueError("the stretch is shorter")
        return memoryview(bytearray(data))


@dataclass(frozen=True, slots=True)
class MemoryWindow(_Copied):
    """Bytes in memory."""

    origin: str
    data: bytes = field(repr=False)
    budget: Budget = field(default_factory=Budget, repr=False, compare=False)

    @property
    def length(self) -> int:
        """See `Window`."""
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        return self.data[offset : offset + length]


class _Inside:
    """What windows have in common that lie in another one."""

    __slots__ = ()

    window: Window

    @property
    def origin(self) -> str:
        """See `Window`."""
        return self.window.origin

    @property
    def budget(self) -> Budget:
        """See `Window`."""
        return self.window.budget


@dataclass(frozen=True, slots=True)
class PartWindow(_Inside):
    """A part of another window: a zip archive inside a file, a record inside an archive.

    Example:
        >>> part = PartWindow(MemoryWindow("a.pt", b"0123456789"), 2, 5)
        >>> part.read(1, 3), part.read(3, 9), part.view(0, 5).tobytes()
        (b'345', b'56', b'23456')
    """

    window: Window
    start: int
    length: int

    @property
    def is_remote(self) -> bool:
        """See `Window`."""
        return self.window.is_remote

    def expect(self, stretches: Iterable[tuple[int, int]]) -> None:
        """See `Window`."""
        self.window.expect((self.start + at, max(0, min(length, self.length - at))) for at, length in stretches)

    def read(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        return self.window.read(self.start + offset, max(0, min(length, self.length - offset)))

    def read_each(self, stretches: Iterable[tuple[int, int]]) -> Generator[bytes, None, None]:
        """See `Window`."""
        return self.window.read_each(
            (self.start + at, max(0, min(length, self.length - at))) for at, length in stretches
        )

    def view(self, offset: int, length: int) -> memoryview:
        """See `Window`."""
        if offset + length > self.length:
            raise ValueError("the stretch is shorter")
        return self.window.view(self.start + offset, length)


@dataclass(frozen=True, slots=True)
class DeflatedWindow(_Inside, _Copied):
    """The bytes that another window holds compressed (RFC 1951)."""

    window: Window
    length: int

    def read(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        end = min(offset + length, self.length)
        self.budget.check("record_bytes", self.length)
        self.budget.spend("inflated_bytes", end)
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = unpacker.decompress(self.window.read(0, self.window.length), end or 1)
            if end == self.length:
                more = unpacker.decompress(unpacker.unconsumed_tail, 1)
                if len(data) != end or more or not unpacker.eof or unpacker.unused_data:
                    raise BrokenFileError(f"it does not unpack to {end} bytes")
        except zlib.error as error:
            raise BrokenFileError(f"it cannot be unpacked: {error}") from error
        return data[offset:end]


@dataclass(frozen=True, slots=True)
class StridedWindow(_Inside, _Copied):
    """The elements of a strided tensor in order, out of a window from its first element to its last.

    Example:
        >>> StridedWindow(MemoryWindow("a.pt", b"abcdef"), (3, 2), (1, 3), 1).read(0, 6)
        b'adbecf'
    """

    window: Window
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    item_size: int

    @property
    def length(self) -> int:
        """See `Window`."""
        return math.prod(self.shape) * self.item_size

    def read(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        import numpy as np  # Few tensors are strided.

        self.budget.check("record_bytes", self.length)  # A stride of 0 makes many elements of one.
        elements = np.frombuffer(self.window.read(0, self.window.length), f"V{self.item_size}")
        strides = [step * self.item_size for step in self.stride]
        ordered = np.lib.stride_tricks.as_strided(elements, self.shape, strides, writeable=False)
        return ordered.tobytes()[offset : offset + length]
