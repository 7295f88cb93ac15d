"""Tensors held against a manifest's digests: which are the same, cast, different, or another one's. Plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pytest_lora_ckpt.manifest.digests import HOLDS
from pytest_lora_ckpt.wording import group_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.manifest.schema import Manifest, TensorEntry

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in which a checkpoint or a model is not what the manifest says.

    Attributes:
        slug: Of the cause.
        message: The fact, in a sentence, with the counts.
        keys: The manifest's keys that it is about, sorted.
    """

    slug: str
    message: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ManifestComparison:
    """A checkpoint or a model held against a manifest.

    Attributes:
        same: Number of tensors that are the recorded ones, bit by bit.
        cast: Number of tensors that have the recorded values in another dtype.
        differing: Number of tensors that have other values.
        narrowed: Keys of the tensors that have the recorded values rounded to a narrower dtype.
        base_same: How many of those that are the recorded ones, or cast, training did not change.
        not_compared: Why -> number of tensors whose values could not be compared.
        differences: What is not as recorded, the gravest first.
        notes: What is worth saying and no difference.
    """

    same: int = 0
    cast: int = 0
    differing: int = 0
    not_compared: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    base_same: int = 0
    narrowed: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether nothing differs; what could not be compared is in `not_compared`."""
        return not self.differences

    @property
    def summary(self) -> str:
        """Say in a sentence what was compared."""
        told = [f"{self.same} tensors as recorded"]
        if self.cast:
            told.append(f"{self.cast} the same in another dtype")
        if self.differing:
            told.append(f"{self.differing} with other values")
        told += [f"{count} not compared ({why})" for why, count in sorted(self.not_compared.items())]
        return ", ".join(told) + "."


class Found(Protocol):
    """A tensor that was found: in a file, or in a live model."""

    dtype: str

    def digest(self, dtype: str) -> str | None:
        """Return its digest after a cast to a dtype, or None."""
        ...

    def fits(self, dtype: str) -> bool:
        """Tell whether a dtype holds all its values without rounding."""
        ...


class Outcomes:
    """Judges one tensor after another.

    Args:
        manifest: What they are held against.
    """

    def __init__(self, manifest: Manifest) -> None:
        """See the class."""
        self._manifest = manifest
        self._aliases = manifest.keys.alias_of()
        self._owners: dict[str, dict[str, set[str]]] = {}
        self.same: list[str] = []
        self.cast: list[str] = []
        self.differing: dict[str, tuple[str, str]] = {}
        """Key -> dtype and digest of what was found in its place."""
        self.unknown: dict[str, str] = {}
        self.narrowed: list[str] = []

    def judge(self, key: str, found: Found) -> None:
        """Compare a tensor with what the manifest has under a key of it."""
        entry = self._manifest.tensors[key]
        dtype = _common_dtype(entry, found.dtype)
        recorded = None if dtype is None else _recorded(entry, dtype)
        if dtype is None or recorded is None:
            self.unknown[key] = entry.why or f"{found.dtype} here, {entry.dtype} in the manifest"
            return
        digest = found.digest(dtype)
        if digest is None:
            self.unknown[key] = "no values at hand"
        elif digest != recorded and self._is_rounded(entry, found):
            self.cast.append(key)
            self.narrowed.append(key)
        elif digest != recorded:
            self.differing[key] = (dtype, digest)
        else:
            (self.same if found.dtype == entry.dtype else self.cast).append(key)
            if found.dtype in entry.casts:
                self.narrowed.append(key)

    def take_over(self, others: Outcomes) -> None:
        """Count what was judged apart, but for what differs."""
        self.same += others.same
        self.cast += others.cast
        self.unknown |= others.unknown

    def _is_rounded(self, entry: TensorEntry, found: Found) -> bool:
        """Whether the recorded values went through a narrower dtype on their way: saved in bfloat16, and widened."""
        return any(found.digest(dtype) == known and found.fits(dtype) for dtype, known in entry.casts.items())

    def judged(self, keys: Iterable[str]) -> int:
        """Count those of these keys whose values were compared."""
        compared = {*self.same, *self.cast, *self.differing}
        return sum(key in compared for key in keys)

    def distinctive(self, keys: Iterable[str]) -> set[str]:
        """Return those of these keys whose recorded values no other tensor has."""
        entries = self._manifest.tensors
        return {
            key
            for key in keys
            if (digest := entries[key].digest) is not None and len(self._index(entries[key].dtype)[digest]) == 1
        }

    def others(self) -> dict[str, str]:
        """Return the tensors in whose place another one of the manifest was found -> that one, by their `name`.

        Values that several tensors have (zeros, ones) name none of them.
        """
        moved: dict[str, str] = {}
        for key, (dtype, digest) in self.differing.items():
            owners = self._index(dtype).get(digest, set())
            if len(owners) == 1 and (owner := next(iter(owners))) != self.name(key):
                moved[self.name(key)] = owner
        return moved

    def comparison(self, differences: Iterable[Difference], notes: Iterable[str] = ()) -> ManifestComparison:
        """Put the counts beside what was made of them."""
        return ManifestComparison(
            len(self.same),
            len(self.cast),
            len(self.differing),
            Counter(self.unknown.values()),
            tuple(differences),
            tuple(notes),
            sum(not self._manifest.tensors[key].trained for key in (*self.same, *self.cast)),
            tuple(sorted(self.narrowed)),
        )

    def _index(self, dtype: str) -> dict[str, set[str]]:
        """Digest in a dtype -> the tensors that have it, each by the first of its names."""
        if dtype not in self._owners:
            index = self._owners[dtype] = {}
            for key, entry in self._manifest.tensors.items():
                if (digest := _recorded(entry, dtype)) is not None:
                    index.setdefault(digest, set()).add(self.name(key))
        return self._owners[dtype]

    def name(self, key: str) -> str:
        """Return the first of a tensor's names."""
        return self._aliases.get(key, (key,))[0]


def tell_exchanged(moved: Mapping[str, str]) -> list[Difference]:
    """Say which tensors stand in each other's place, layer by layer.

    Example:
        >>> moved = {"h.0.q": "h.1.q", "h.1.q": "h.0.q", "h.0.v": "h.1.v", "h.1.v": "h.0.v"}
        >>> tell_exchanged(moved)[0].message
        'Tensors stand in the place of others: h 0 and 1 are exchanged (4 tensors).'
    """
    if not moved:
        return []
    counts: Counter[str] = Counter()
    for key, owner in moved.items():
        if moved.get(owner) == key:
            counts[f"{_both(*sorted((key, owner)))} are exchanged"] += 1
        else:
            counts[f"{_both(key, owner, ' holds ')}"] += 1
    return [
        Difference("exchanged-tensors", f"Tensors stand in the place of others: {_told(counts)}.", sorted_keys(moved))
    ]


def told_keys(keys: Iterable[str]) -> str:
    """Name keys in a few brace patterns."""
    return ", ".join(f"{pattern} ({count})" for pattern, count in group_keys(keys, limit=_SHOWN))


def sorted_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the keys as a `Difference` has them."""
    return tuple(sorted(keys))


def _both(first: str, second: str, between: str = " and ") -> str:
    """Name two keys by the one segment in which they differ, if it is one."""
    ours, theirs = first.split("."), second.split(".")
    at = [place for place, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    if len(ours) != len(theirs) or len(at) != 1 or not at[0]:
        return f"{first}{between}{second}"
    return f"{'.'.join(ours[: at[0]])} {ours[at[0]]}{between}{theirs[at[0]]}"


def _told(counts: Counter[str]) -> str:
    shown = [f"{text} ({count} tensor{'s' * (count != 1)})" for text, count in counts.most_common(_SHOWN)]
    rest = len(counts) - _SHOWN
    return "; ".join(shown) + (f"; and {rest} more like it" if rest > 0 else "")


def _common_dtype(entry: TensorEntry, found: str) -> str | None:
    """Return the dtype in which the two can be compared: the one that can hold less."""
    if found == entry.dtype or found in entry.casts:
        return found
    return entry.dtype if entry.dtype in HOLDS.get(found, ()) else None


def _recorded(entry: TensorEntry, dtype: str) -> str | None:
    return entry.digest if dtype == entry.dtype else entry.casts.get(dtype)
