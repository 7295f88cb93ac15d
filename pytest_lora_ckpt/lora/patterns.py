"""Regular expressions that come from a file, matched within a time limit."""

from __future__ import annotations

import math
import re
import time
import warnings
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import regex

# Seconds of CPU for all matches of one config; 100,000 honest ones take 0.1.
_BUDGET = 2.0
_LONGEST_PATTERN = 10_000
_LONGEST_PATH = 10_000
# `regex` writes out what is repeated a fixed number of times, so that nested counts could fill the memory.
_MOST_COPIES = 100_000
_COUNT = re.compile(r"\{(\d{1,9})")
# Recursion and calls of a group, which `regex` has and `re` has not.
_NOT_IN_RE = re.compile(r"\(\?(?:R|&|P>|[+-]?\d)")


class PatternError(ValueError):
    """A pattern that is not a regular expression, or that takes too long."""


class Patterns:
    r"""Match the regular expressions of one config; what cannot be matched is recorded by the field it stands in.

    PEFT matches with `re`, which has no time limit; the library `regex` has one, and reads the same patterns.

    Attributes:
        failures: Field -> why one of its patterns could not be matched.

    Example:
        >>> patterns = Patterns()
        >>> patterns.matches("target_modules", r".*\.q_proj", "layers.0.q_proj")
        True
    """

    def __init__(self, seconds: float = _BUDGET) -> None:
        self.failures: dict[str, str] = {}
        self._left = seconds
        self._compiled: dict[str, regex.Pattern[str] | None] = {}

    def matches(self, field: str, pattern: str, path: str) -> bool:
        """Return whether a pattern takes the whole path.

        Raises:
            PatternError: It does not compile, or the time for the patterns of this config is used up.
        """
        return self.match(field, pattern, path) is not None

    def match(self, field: str, pattern: str, path: str) -> regex.Match[str] | None:
        """Return the match of a pattern with the whole path, or None.

        Raises:
            PatternError: It does not compile, or the time for the patterns of this config is used up.
        """
        if pattern not in self._compiled:
            self._compiled[pattern] = _compile(pattern)
        compiled = self._compiled[pattern]
        if compiled is None:
            self._fail(field, "does not compile")
        if self._left <= 0:
            self._fail(field, "takes too long to match")
        if len(path) > _LONGEST_PATH:
            return None
        start = time.process_time()
        try:
            return compiled.fullmatch(path, timeout=self._left)
        except (TimeoutError, MemoryError):
            self._left = 0.0
            self._fail(field, "takes too long to match")
        finally:
            self._left -= time.process_time() - start

    def _fail(self, field: str, why: str) -> NoReturn:
        self.failures.setdefault(field, why)
        raise PatternError(f"{field} {why}")


def _compile(pattern: str) -> regex.Pattern[str] | None:
    copies = math.prod(max(int(count), 1) for count in _COUNT.findall(pattern))
    if len(pattern) > _LONGEST_PATTERN or copies > _MOST_COPIES or _NOT_IN_RE.search(pattern):
        return None
    import regex  # 60 ms that only those pay whose config has a pattern.

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Such as that flags should stand at the beginning.
            return regex.compile(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError):
        return None
