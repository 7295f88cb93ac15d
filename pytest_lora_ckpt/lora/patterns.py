"""Regular expressions that come from a file, matched within a time limit."""

from __future__ import annotations

import math
import re
import time
import warnings
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import regex

_LONGEST_PATTERN = 10_000
_LONGEST_PATH = 10_000
# `regex` writes out what is repeated a fixed number of times, so that nested counts could fill the memory.
_MOST_COPIES = 100_000
_COUNT = re.compile(r"\{(\d{1,9})")
# Recursion and calls of a group, which `regex` has and `re` has not.
_NOT_IN_RE = re.compile(r"\(\?(?:R|&|P>|[+-]?\d)")
# Seconds that one comparison of a name with the end of a path takes, more or less.
_STEP = 2e-7


class PatternError(ValueError):
    """A pattern that is not a regular expression, or that takes too long."""


class PatternTime:
    """The time that one audit has for the patterns and long lists of names in its files: all configs share it.

    Attributes:
        left: Seconds of CPU that are left; 100,000 honest matches take 0.1.
    """

    __slots__ = ("left",)

    def __init__(self, seconds: float = 2.0) -> None:
        self.left = seconds


class Patterns:
    r"""Match the regular expressions of one config; what cannot be matched is recorded by the field it stands in.

    PEFT matches with `re`, which has no time limit; the library `regex` has one, and reads the same patterns.

    Args:
        time: The time for all patterns of the audit.

    Attributes:
        failures: Field -> why one of its patterns could not be matched.

    Example:
        >>> patterns = Patterns()
        >>> patterns.matches("target_modules", r".*\.q_proj", "layers.0.q_proj")
        True
    """

    def __init__(self, time: PatternTime | None = None) -> None:
        self.failures: dict[str, str] = {}
        self.time = time or PatternTime()
        self._compiled: dict[str, regex.Pattern[str] | None] = {}

    def matches(self, field: str, pattern: str, path: str) -> bool:
        """Return whether a pattern takes the whole path.

        Raises:
            PatternError: It does not compile, or the time for the patterns of this audit is used up.
        """
        return self.match(field, pattern, path) is not None

    def match(self, field: str, pattern: str, path: str) -> regex.Match[str] | None:
        """Return the match of a pattern with the whole path, or None.

        Raises:
            PatternError: It does not compile, or the time for the patterns of this audit is used up.
        """
        self.spend(field, 0)
        start = time.thread_time()
        try:
            if pattern not in self._compiled:
                self._compiled[pattern] = _compile(pattern)
            compiled = self._compiled[pattern]
            if compiled is None:
                self._fail(field, "does not compile")
            return compiled.fullmatch(path, timeout=self.time.left) if len(path) <= _LONGEST_PATH else None
        except (TimeoutError, MemoryError):
            self.time.left = 0.0
            self._fail(field, "takes too long to match")
        finally:
            self.time.left -= time.thread_time() - start

    def spend(self, field: str, steps: int) -> None:
        """Take the time of simple comparisons from that of the patterns, by their number: a clock costs more.

        Raises:
            PatternError: The time for the patterns of this audit is used up.
        """
        self.time.left -= steps * _STEP
        if self.time.left <= 0:
            self._fail(field, "takes too long to match")

    def _fail(self, field: str, why: str) -> NoReturn:
        self.failures.setdefault(field, why)
        raise PatternError(f"{field} {why}")


def _compile(pattern: str) -> regex.Pattern[str] | None:
    copies = math.prod(max(int(count), 1) for count in _COUNT.findall(pattern[:_LONGEST_PATTERN]))
    if len(pattern) > _LONGEST_PATTERN or copies > _MOST_COPIES or _NOT_IN_RE.search(pattern):
        return None
    import regex  # 60 ms that only those pay whose config has a pattern.

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Such as that flags should stand at the beginning.
            return regex.compile(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError):
        return None
