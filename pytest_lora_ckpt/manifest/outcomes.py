"""Tensors compared with a manifest's digests, one after another: which match, in which dtype, and which differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pytest_lora_ckpt.manifest.digests import HOLDS
from pytest_lora_ckpt.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.manifest.digests import Digested
    from pytest_lora_ckpt.manifest.schema import Manifest, TensorEntry
    from pytest_lora_ckpt.results import Finding


@dataclass(frozen=True, slots=True)
class ManifestComparison:
    """A checkpoint or a model compared with a manifest.

    Attributes:
        same: Number of tensors that match the recorded ones bit for bit.
        cast: Number of tensors that have the recorded values in another dtype.
        differing: Number of tensors that have other values.
        narrowed: Keys of the tensors that have the recorded values rounded to a narrower dtype.
        base_same: How many of those that match, in whatever dtype, were not trained.
        not_compared: Why -> number of tensors whose values could not be compared.
        differences: Findings on what differs, the gravest first.
        notes: What is worth saying and not a difference.
    """

    same: int = 0
    cast: int = 0
    differing: int = 0
    not_compared: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    base_same: int = 0
    narrowed: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What was compared, in a sentence."""
        parts = [f"{count(self.same, 'tensor')} match the manifest"]
        if self.cast:
            parts.append(f"{self.cast} match in another dtype")
        if self.differing:
            parts.append(f"{self.differing} differ")
        parts += [f"{number} not compared ({why})" for why, number in sorted(self.not_compared.items())]
        return ", ".join(parts) + "."


def summarise(file: ManifestComparison, model: ManifestComparison | None) -> str:
    """Say in a sentence or two what was compared in a checkpoint, and in the model that was loaded from it.

    Example:
        >>> summarise(ManifestComparison(same=3), ManifestComparison(same=3))
        'All 3 tensors match the manifest, in the file and in the loaded model.'
    """
    parts = [file] if model is None else [file, model]
    if all(each.summary == file.summary and each.same and not (each.cast or each.not_compared) for each in parts):
        where = "in the file" if model is None else "in the file and in the loaded model"
        return f"All {count(file.same, 'tensor')} match the manifest, {where}."
    return f"Checkpoint: {file.summary}" + (f" Loaded model: {model.summary}" if model else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One tensor compared with its entry in the manifest.

    Attributes:
        kind: `"same"`, `"cast"`, `"differs"`, or `"unknown"`: it could not be compared.
        narrowed: Whether its values went through a narrower dtype than the recorded one.
        why: Why it could not be compared.
        digest: dtype and digest of what is there instead.
    """

    kind: Literal["same", "cast", "differs", "unknown"]
    narrowed: bool = False
    why: str = ""
    digest: tuple[str, str] = ("", "")


def recorded_digest(entry: TensorEntry, dtype: str) -> str | None:
    """Return what the manifest records of a tensor in a dtype, or None."""
    return entry.digest if dtype == entry.dtype else entry.casts.get(dtype)


class Outcomes:
    """The outcomes of a checkpoint or a model that is compared with a manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.by_key: dict[str, Outcome] = {}

    def judge(self, key: str, tensor: Digested) -> None:
        """Compare a tensor with what the manifest has under one of its keys."""
        self.by_key[key] = _outcome(self.manifest.tensors[key], tensor)

    def of(self, *kinds: str) -> list[str]:
        """List the keys with these outcomes, in the order in which they were compared."""
        return [key for key, outcome in self.by_key.items() if outcome.kind in kinds]

    def compared(self, keys: Iterable[str]) -> int:
        """Count those of these keys whose values were compared."""
        return sum(key in self.by_key and self.by_key[key].kind != "unknown" for key in keys)

    def comparison(self, differences: Iterable[Finding], notes: Iterable[str] = ()) -> ManifestComparison:
        """Put the counts together with what was made of them."""
        matching = self.of("same", "cast")
        return ManifestComparison(
            same=len(self.of("same")),
            cast=len(self.of("cast")),
            differing=len(self.of("differs")),
            not_compared=Counter(each.why for each in self.by_key.values() if each.kind == "unknown"),
            differences=tuple(differences),
            notes=tuple(notes),
            base_same=sum(not self.manifest.tensors[key].trained for key in matching),
            narrowed=tuple(sorted(key for key, each in self.by_key.items() if each.narrowed)),
        )


def _outcome(entry: TensorEntry, tensor: Digested) -> Outcome:
    # In the dtype of the two that can hold less.
    dtype = tensor.dtype
    if dtype not in {entry.dtype, *entry.casts} and entry.dtype in HOLDS.get(dtype, ()):
        dtype = entry.dtype
    recorded = recorded_digest(entry, dtype)
    if recorded is None:
        return Outcome("unknown", why=entry.why or f"{tensor.dtype} here, {entry.dtype} in the manifest")
    digest = tensor.digest(dtype)
    if digest is None:
        return Outcome("unknown", why="values not readable")
    if digest == recorded:
        return Outcome("same" if tensor.dtype == entry.dtype else "cast", tensor.dtype in entry.casts)
    # The recorded values may have been saved in bfloat16, and widened again.
    if any(tensor.digest(narrow) == known and tensor.fits(narrow) for narrow, known in entry.casts.items()):
        return Outcome("cast", narrowed=True)
    return Outcome("differs", digest=(dtype, digest))
