"""`RemoteWindow`: a remote file as a window. What was read of it is kept for a while: each request costs."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.remote import errors
from pytest_lora_ckpt.checkpoint.remote.requests import at_once

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.remote.server import Found, Server

_AHEAD = 1 << 14  # Bytes that are read at least.
_GAP = 1 << 15  # Bytes that are read in vain, where that saves a request.
_BLOCK = 1 << 21  # Bytes of one request.
_BLOCKS = 8  # Requests at once for one file.
_STEP = 1 << 24  # Bytes that are put together at once.
_KEPT = 1 << 25  # Bytes that are kept of all files.


class Blocks:
    """The bytes that were read of all files, the oldest of which are let go."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._starts: dict[str, list[int]] = {}
        self._size = 0

    def add(self, address: str, start: int, data: bytes) -> None:
        """Keep bytes of a file, which were not there."""
        if (address, start) in self._kept:
            return
        self._kept[address, start] = data
        starts = self._starts.setdefault(address, [])
        starts.insert(bisect_right(starts, start), start)
        self._size += len(data)
        while self._size > _KEPT and len(self._kept) > 1:
            (old, at), gone = self._kept.popitem(last=False)
            self._starts[old].remove(at)
            self._size -= len(gone)

    def parts(self, address: str, start: int, stop: int) -> Generator[tuple[int, int, bytes | None], None, None]:
        """Split a stretch into what is there, with its bytes, and what is not."""
        starts = self._starts.get(address, [])
        for at in starts[max(0, bisect_right(starts, start) - 1) :]:
            data = self._kept[address, at]
            if at >= stop:
                break
            if at + len(data) <= start:
                continue
            if at > start:
                yield start, at, None
                start = at
            end = min(stop, at + len(data))
            yield start, end, data[start - at : end - at]
            start = end
        if start < stop:
            yield start, stop, None


@dataclass(frozen=True, slots=True, eq=False)
class RemoteWindow:
    """A whole remote file.

    Attributes:
        found: What is known of it.
        server: Where it lies.
        blocks: What was read of it.
        planned: The stretches that will be read, from where to where, each of which is a request.
        runs: The same, those side by side as one.
    """

    origin: str
    found: Found = field(repr=False)
    server: Server = field(repr=False)
    blocks: Blocks = field(repr=False)
    budget: Budget = field(repr=False)
    planned: list[tuple[int, int]] = field(default_factory=list, repr=False)
    runs: list[tuple[int, int]] = field(default_factory=list, repr=False)

    is_remote = True

    @property
    def length(self) -> int:
        """See `Window`."""
        return self.found.size

    def read(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        return bytes(self._read(offset, min(offset + length, self.length)))

    def read_each(self, stretches: Iterable[tuple[int, int]]) -> Generator[bytes, None, None]:
        """See `Window`."""
        wanted = list(stretches)
        self.expect(wanted)
        return (self.read(offset, length) for offset, length in wanted)

    def view(self, offset: int, length: int) -> memoryview:
        """See `Window`."""
        if offset + length > self.length:
            raise ValueError("the file is shorter")
        return memoryview(self._read(offset, offset + length))

    def expect(self, stretches: Iterable[tuple[int, int]]) -> None:
        """See `Window`: what lies close together is one request."""
        joined: list[tuple[int, int]] = []
        for start, stop in sorted((at, min(at + length, self.length)) for at, length in stretches):
            if joined and start - joined[-1][1] <= _GAP:
                joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
            elif start < stop:
                joined.append((start, stop))
        if all(self._is_planned(*each) for each in joined):
            return  # A part of what is being read: the plan goes further.
        self.runs[:] = joined
        # Each is a request at most.
        self.planned[:] = [(at, min(at + _BLOCK, stop)) for start, stop in joined for at in range(start, stop, _BLOCK)]

    def _is_planned(self, start: int, stop: int) -> bool:
        at = bisect_right(self.runs, (start, self.length)) - 1
        return at >= 0 and stop <= self.runs[at][1]

    def _read(self, start: int, stop: int) -> bytearray:
        whole = bytearray(max(stop - start, 0))
        for at in range(start, stop, _STEP):
            end = min(at + _STEP, stop)
            parts = list(self.blocks.parts(self.origin, at, end))
            found = [(begin, data) for begin, _, data in parts if data is not None]
            if len(found) < len(parts):
                found += self._fetch(at, end)
            for begin, data in found:
                low, high = max(begin, at), min(begin + len(data), end)
                if low < high:
                    whole[low - start : high - start] = data[low - begin : high - begin]
        return whole

    def _fetch(self, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Read what is not there of a stretch, and with it what is to be read next."""
        at = max(0, bisect_right(self.planned, (start, self.length)) - 1)
        ahead = [each for each in self.planned[at : at + _BLOCKS] if each[1] > start]
        stretches = [(start, stop)]
        if ahead and ahead[0][0] <= start:
            stretches = [*ahead, (max(start, ahead[-1][1]), stop)]
        elif stop - start < _AHEAD:
            stretches = [(start, min(start + _AHEAD, self.length))]
        gaps = (
            (begin, end)
            for each in stretches
            for begin, end, data in self.blocks.parts(self.origin, *each)
            if data is None
        )
        wanted = [(begin, min(begin + _BLOCK, end)) for gap, end in gaps for begin in range(gap, end, _BLOCK)]
        seconds = self.budget.limits.request_seconds
        try:
            made = at_once([partial(self.server.read, self.origin, self.found, *each) for each in wanted], seconds + 1)
        except TimeoutError:
            raise errors.timed_out(self.origin, seconds) from None
        found = [(begin, data) for (begin, _), data in zip(wanted, made, strict=True)]
        for begin, data in found:
            self.blocks.add(self.origin, begin, data)
        return found
