"""`Limits`: every bound on what a file may ask for. `Budget`: what one audit has spent of them.

A budget travels with the window (`window.budget`): a reader that has the window has the budget. What a reader makes
more of than the file has bytes, it spends.
"""

from __future__ import annotations

import mmap
import re
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pytest_lora_ckpt.checkpoint.errors import BrokenFileError, CheckpointError
from pytest_lora_ckpt.lora.patterns import PatternTime
from pytest_lora_ckpt.tensors import MOST_DIMENSIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_lora_ckpt.checkpoint.address import Place

HEAD = 4096
"""Bytes of the beginning of a file by which formats are recognised."""

MAX_SAFETENSORS_HEADER = 100_000_000
"""Bytes of a safetensors header: a rule of the format (`MAX_HEADER_SIZE` in safetensors/src/tensor.rs)."""

MAX_DIRECTORY = 1 << 28
"""Bytes of the directory of an archive: a record takes a hundred."""

MAX_CHECKSUMMED = 4
"""How many times the bytes of the tensors asked for may be read to check their record."""

MAX_ENTRIES = 5000
"""Entries of directories that are looked at for a suggestion."""

MAX_LEVELS = 3
"""Levels of directories that are looked at for a suggestion."""

_BYTES_A_SECOND = 4_000_000
_MEMORY_A_BYTE = 16
_PAGE = mmap.PAGESIZE
_LINE = re.compile(r"(?P<name>[a-z_]+)\s*=\s*(?P<number>[0-9][0-9_]{0,17})(?P<suffix>[kMG]?)")
_SUFFIXES = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3}


def _bound(default: int, unit: str, why: str) -> int:
    made: int = field(default=default, metadata={"unit": unit, "why": why})
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the files of one audit may ask for. A healthy checkpoint of a million keys stays far below each bound.

    `docs/limits.md` has them as a table; ini `lora_limits` and `audit(…, limits=…)` raise them. A bound holds for all
    files of an audit together, except where its unit says what one thing may have.

    Example:
        >>> Limits(keys=20_000_000).keys
        20000000
    """

    pickle_bytes: int = _bound(1 << 30, "bytes of one pickle", "A tensor takes 300: a million keys are 0.3 GB.")
    opcodes: int = _bound(300_000_000, "opcodes of pickles", "A tensor takes 40: a million keys are 40 million.")
    names: int = _bound(10_000, "classes and functions that pickles name", "Checkpoints name some 10 to 200.")
    made_bytes: int = _bound(
        1 << 28, "bytes that calls make", "A few opcodes can copy a text of any length, again and again."
    )
    elements: int = _bound(20_000_000, "elements that calls copy", "A few opcodes can copy a list of any length.")
    entries: int = _bound(4_000_000, "entries of archives", "A torch file has one for each storage.")
    inflated_bytes: int = _bound(
        1 << 30, "bytes unpacked", "A byte of a compressed archive can become a thousand; torch compresses none."
    )
    record_bytes: int = _bound(
        1 << 27, "bytes of one record, unpacked", "They are unpacked in memory; an adapter's tensors have some MB."
    )
    keys: int = _bound(2_000_000, "keys of one file", "The largest published models have some 100,000.")
    key_length: int = _bound(1000, "characters of one key", "Models have keys of 30 to 200.")
    key_segments: int = _bound(64, "segments of one key", "Models have keys of 3 to 20.")
    dimensions: int = _bound(MOST_DIMENSIONS, "dimensions of one tensor", "numpy has at most so many.")
    aliases: int = _bound(100_000, "keys that share a tensor", "Models share a few embeddings and layers.")
    overlapping_bytes: int = _bound(
        1 << 30,
        "bytes of one file's tensors that lie in each other, beyond four times the file",
        "Thousands of tensors in one storage of a few MB would be read one by one.",
    )
    config_bytes: int = _bound(10_000_000, "bytes of one config", "Configs have some kB; with rank_pattern some 100.")
    index_bytes: int = _bound(100_000_000, "bytes of one shard index", "A key takes a hundred.")
    manifest_bytes: int = _bound(100_000_000, "bytes of one manifest", "A model of 100,000 keys takes some 30 MB.")
    json_values: int = _bound(
        5_000_000, "values of JSON files", "A key of a manifest has some eight, and a value takes 60 bytes of memory."
    )
    json_nesting: int = _bound(100, "levels of one JSON file", "Configs have some five.")
    seconds: int = _bound(4, "seconds of CPU for reading, and one more for each 4 MB of index", "4 MB take some 0.3.")
    memory_bytes: int = _bound(
        350_000_000,
        "bytes that the process grows by while it reads, and 16 more for each byte of index",
        "A few bytes of a pickle make an object of 60.",
    )
    request_seconds: int = _bound(30, "seconds for one request to a server", "A server answers in less than one.")
    pattern_seconds: int = _bound(
        2, "seconds for matching patterns", "A regular expression can take longer than the universe is old."
    )


Bound = Literal[
    "pickle_bytes",
    "opcodes",
    "names",
    "made_bytes",
    "elements",
    "entries",
    "inflated_bytes",
    "record_bytes",
    "keys",
    "key_length",
    "key_segments",
    "dimensions",
    "aliases",
    "overlapping_bytes",
    "config_bytes",
    "index_bytes",
    "manifest_bytes",
    "json_values",
    "json_nesting",
    "seconds",
    "memory_bytes",
    "request_seconds",
    "pattern_seconds",
]
"""The names of the bounds: the fields of `Limits`."""


class HasShape(Protocol):
    """What is known of a tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102


class OverLimitError(BrokenFileError):
    """A file asks for more than its audit may spend.

    Attributes:
        bound: The limit, a field of `Limits`.
        asked: How much it would be with what was asked for.
        allowed: The limit's value.
    """

    def __init__(self, bound: Bound, asked: int, allowed: int) -> None:
        self.bound, self.asked, self.allowed = bound, asked, allowed
        self.unit = _UNITS[bound]
        super().__init__(f"more than {allowed:,} {self.unit}: {asked:,} or more")


class Budget:
    """What the files of one audit have spent: made once, and carried by every window.

    Args:
        limits: The bounds.

    Attributes:
        limits: The bounds.
        spent: What is spent of each.
        pattern_time: The time that is left for patterns.

    Example:
        >>> budget = Budget(Limits(elements=100))
        >>> budget.spend("elements", 60)
        >>> budget.spend("elements", 60)
        Traceback (most recent call last):
        ...
        pytest_lora_ckpt.checkpoint.limits.OverLimitError: more than 100 elements that calls copy: 120 or more
    """

    __slots__ = ("_before", "_index_bytes", "_seconds", "_since", "limits", "pattern_time", "spent")

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.spent: Counter[Bound] = Counter()
        self.pattern_time = PatternTime(self.limits.pattern_seconds)
        self._index_bytes = 0
        self._before = 0
        self._seconds = 0.0
        self._since: float | None = None

    def spend(self, bound: Bound, amount: int) -> None:
        """Count what is about to be made, of what all files share.

        Raises:
            OverLimitError: It is more than is left, or the time is over.
        """
        self.spent[bound] += amount
        self.check(bound, self.spent[bound])
        self.check_time()

    def check(self, bound: Bound, amount: int) -> None:
        """Compare one thing with its bound.

        Raises:
            OverLimitError: It is more.
        """
        allowed: int = getattr(self.limits, bound)
        if amount > allowed:
            raise OverLimitError(bound, amount, allowed)

    def check_time(self) -> None:
        """Look at the clock, which runs inside `reading` only.

        Raises:
            OverLimitError: The time is over.
        """
        if self._since is None:
            return
        used = self._seconds + time.thread_time() - self._since
        allowed = self.limits.seconds + self._index_bytes // _BYTES_A_SECOND
        if used > allowed:
            raise OverLimitError("seconds", int(used) + 1, allowed)

    def check_memory(self) -> None:
        """Look at the memory, inside `reading` only, and on systems that say it in a file.

        Raises:
            OverLimitError: The process has grown too large.
        """
        if self._since is None:
            return
        grown, most = _resident() - self._before, self.limits.memory_bytes + _MEMORY_A_BYTE * self._index_bytes
        if grown > most:
            raise OverLimitError("memory_bytes", grown, most)

    def grant(self, index_bytes: int) -> None:
        """Allow more time: these bytes of an index, a header or a pickle are about to be read."""
        self._index_bytes += index_bytes

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let the clock run: what the project's own code takes in between does not count."""
        if self._since is not None:
            yield
            return
        self._since, self._before = time.thread_time(), _resident()
        try:
            yield
        finally:
            self._seconds += time.thread_time() - self._since
            self._since = None


def check_keys(keys: Mapping[str, HasShape], budget: Budget) -> None:
    """Compare the keys of one file with the limits.

    Raises:
        OverLimitError: They are too many, or one of them is too long.
    """
    budget.check("keys", len(keys))
    budget.check("key_length", max(map(len, keys), default=0))
    budget.check("key_segments", max((key.count(".") for key in keys), default=0) + 1)
    budget.check("dimensions", max((len(info.shape) for info in keys.values()), default=0))


def _resident() -> int:
    """Return the memory that this process has, in bytes; 0 where the system does not say."""
    try:
        with Path("/proc/self/statm").open("rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


_UNITS: dict[str, str] = {each.name: each.metadata["unit"] for each in fields(Limits)}


def parse_limits(lines: Iterable[str]) -> Limits:
    """Read limits, one a line: `name = number`; k, M and G stand for thousands, millions and thousands of millions.

    Raises:
        ValueError: A line is something else; the message says which limits there are.

    Example:
        >>> limits = parse_limits(["keys = 20M", "seconds = 1_000"])
        >>> limits.keys, limits.seconds
        (20000000, 1000)
    """
    given: dict[str, int] = {}
    for line in filter(None, map(str.strip, lines)):
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"a limit is written `name = number`, such as `keys = 20M`, not {line!r}.")
        name = found["name"]
        if name not in _UNITS:
            raise ValueError(f"there is no limit {name!r}; there are {', '.join(_UNITS)}.")
        if name in given:
            raise ValueError(f"the limit {name!r} comes twice.")
        given[name] = int(found["number"].replace("_", "")) * _SUFFIXES[found["suffix"]]
    return Limits(**given)


def over_limit(path: str | Place, error: OverLimitError) -> CheckpointError:
    """Return the error for a file that asks for too much: which limit, how much, and how to raise it."""
    return CheckpointError(
        "over-limit",
        path,
        expected=f"at most {error.allowed:,} {error.unit}, the limit `{error.bound}`",
        found=f"{error.asked:,} or more: real checkpoints need less, and such a file can be made to stop its reader",
        remedy="Ask whoever made the file. If you trust it, raise the limit in the ini file, under `lora_limits`:"
        f" `{error.bound} = {_round(error.asked)}`.",
    )


def _round(number: int) -> int:
    """Round up to one digit and zeros."""
    unit = int(10 ** (len(str(number)) - 1))
    return -(-number // unit) * unit
