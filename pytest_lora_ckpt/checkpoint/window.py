"""`Window`: a stretch of bytes, whatever it lies in. All formats read from windows."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from io import FileIO
from mmap import ACCESS_COPY, ALLOCATIONGRANULARITY, mmap
from typing import Protocol

from pytest_lora_ckpt.checkpoint.limits import Budget

_SMALL = 1 << 17  # Bytes. Up to here a copy takes less time than the page faults of a map.


class Window(Protocol):
    """A stretch of bytes. Windows are immutable and keep no file open.

    Attributes:
        origin: What messages call it: the path of the file.
        length: How many bytes it has.
        budget: What readers spend, and what the audit's other files have spent.
    """

    @property
    def origin(self) -> str: ...  # noqa: D102
    @property
    def length(self) -> int: ...  # noqa: D102
    @property
    def budget(self) -> Budget: ...  # noqa: D102

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, or fewer where the window ends.

        Raises:
            OSError: The file cannot be read.
        """
        ...

    def view(self, offset: int, length: int) -> memoryview:
        """Return `length` bytes as writable memory of the caller's own: writing into it changes nothing else.

        Raises:
            OSError: The file cannot be read.
            ValueError: There are fewer bytes.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileWindow:
    """A whole file on this machine."""

    origin: str
    length: int
    budget: Budget = field(default_factory=Budget, repr=False, compare=False)

    def read(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        with FileIO(self.origin) as file:
            file.seek(offset)
            return file.read(length)

    def view(self, offset: int, length: int) -> memoryview:
        """See `Window`: a copy where it is small, else a copy-on-write map."""
        with FileIO(self.origin) as file:
            if length <= _SMALL:
                data = bytearray(length)
                file.seek(offset)
                if file.readinto(data) != length:
                    raise ValueError("the file is shorter")
                return memoryview(data)
            start = offset - offset % ALLOCATIONGRANULARITY
            whole = memoryview(mmap(file.fileno(), offset - start + length, offset=start, access=ACCESS_COPY))
            return whole[offset - start :]


@dataclass(frozen=True, slots=True)
class MemoryWindow:
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

    def view(self, offset: int, length: int) -> memoryview:
        """See `Window`."""
        return memoryview(bytearray(_whole(self.read(offset, length), length)))


@dataclass(frozen=True, slots=True)
class PartWindow:
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
    def origin(self) -> str:
        """See `Window`."""
        return self.window.origin

    @property
    def budget(self) -> Budget:
        """See `Window`."""
        return self.window.budget

    def read(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        return self.window.read(self.start + offset, max(0, min(length, self.length - offset)))

    def view(self, offset: int, length: int) -> memoryview:
        """See `Window`."""
        if offset + length > self.length:
            raise ValueError("the stretch is shorter")
        return self.window.view(self.start + offset, length)


@dataclass(frozen=True, slots=True)
class DeflatedWindow:
    """The bytes that another window holds compressed (RFC 1951)."""

    packed: Window
    length: int

    @property
    def origin(self) -> str:
        """See `Window`."""
        return self.packed.origin

    @property
    def budget(self) -> Budget:
        """See `Window`."""
        return self.packed.budget

    def read(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        self.budget.spend("inflated_bytes", min(offset + length, self.length))
        packed = self.packed.read(0, self.packed.length)
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, min(offset + length, self.length) or 1)
        except zlib.error as error:
            raise ValueError(f"it cannot be unpacked: {error}") from error
        return data[offset : offset + length]

    def view(self, offset: int, length: int) -> memoryview:
        """See `Window`."""
        return memoryview(bytearray(_whole(self.read(offset, length), length)))


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise ValueError("the stretch is shorter")
    return data
