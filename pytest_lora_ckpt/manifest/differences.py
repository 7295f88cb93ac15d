"""What differing values mean: tensors exchanged, a further step, another base, or damage."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from pytest_lora_ckpt.manifest.outcomes import Difference, recorded_digest
from pytest_lora_ckpt.wording import grouped, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.manifest.outcomes import Outcomes
    from pytest_lora_ckpt.manifest.schema import Manifest

# From this share of the trained tensors on, their differing means a further step, not damage: a few may never have had
# a gradient. Below this number of tensors nothing is concluded.
_ANOTHER_STEP = 0.9
_FEWEST = 8

# From this share of the base tensors on, the base is another model, not this one changed in places. Tensors that are
# like others (norms of ones, biases of zeros) do not count: any model may have them.
_ANOTHER_BASE = 0.5

_SHOWN = 3


def value_differences(outcomes: Outcomes, where: str) -> list[Difference]:
    """Explain the values that differ.

    Args:
        outcomes: All that was compared.
        where: What was compared, in words.
    """
    manifest, index = outcomes.manifest, _Index(outcomes.manifest)
    moved = {}
    for key in outcomes.of("differs"):
        owner = index.owner(*outcomes.by_key[key].digest)
        if owner is not None and owner != index.name(key):
            moved[index.name(key)] = owner
    left = [key for key in outcomes.of("differs") if index.name(key) not in moved]
    trained = [key for key in left if manifest.tensors[key].trained]
    frozen = [key for key in left if not manifest.tensors[key].trained]
    differences = exchanged(moved)
    compared = outcomes.compared(manifest.trained)
    fact = f"{len(trained)} of {compared} trained tensors in {where} differ from training"
    if trained and len(trained) >= max(_FEWEST, _ANOTHER_STEP * compared):
        message = f"{fact}: the manifest was written at another step, or in another run."
        differences.append(Difference("other-step", message, tuple(sorted(trained))))
    elif trained:
        differences.append(Difference("values-differ", f"{fact}: {grouped(trained)}.", tuple(sorted(trained))))
    if frozen:
        base = [key for key, entry in manifest.tensors.items() if not entry.trained]
        telling = {key for key in base if index.is_unique(key)}
        share = len(telling.intersection(frozen)) / max(outcomes.compared(telling), 1)
        slug = "other-base" if share >= _ANOTHER_BASE else "base-changed"
        meaning = "it is another base model" if slug == "other-base" else grouped(frozen)
        fact = f"{len(frozen)} of {outcomes.compared(base)} base tensors in {where} differ from training"
        differences.append(Difference(slug, f"{fact}: {meaning}.", tuple(sorted(frozen))))
    return differences


class _Index:
    """The tensors of a manifest by their values, each by the first of its names."""

    def __init__(self, manifest: Manifest) -> None:
        self._tensors, self._aliases = manifest.tensors, manifest.keys.alias_of()
        self._owners: dict[str, dict[str, set[str]]] = {}

    def name(self, key: str) -> str:
        return self._aliases.get(key, (key,))[0]

    def owner(self, dtype: str, digest: str) -> str | None:
        """The tensor that has this digest. Values that several have (zeros, ones) belong to none of them."""
        if dtype not in self._owners:
            owners = self._owners[dtype] = defaultdict(set)
            for key, entry in self._tensors.items():
                if (known := recorded_digest(entry, dtype)) is not None:
                    owners[known].add(self.name(key))
        names = self._owners[dtype].get(digest, ())
        return next(iter(names)) if len(names) == 1 else None

    def is_unique(self, key: str) -> bool:
        entry = self._tensors[key]
        return entry.digest is not None and self.owner(entry.dtype, entry.digest) is not None


def exchanged(moved: Mapping[str, str]) -> list[Difference]:
    """Say which tensors are in each other's place, layer by layer.

    Args:
        moved: Tensor -> the one that is in its place.

    Example:
        >>> moved = {"h.0.q": "h.1.q", "h.1.q": "h.0.q", "h.0.v": "h.1.v", "h.1.v": "h.0.v"}
        >>> exchanged(moved)[0].message
        'Tensors are in the place of others: h 0 and 1 are exchanged (4 tensors).'
    """
    if not moved:
        return []
    counts: Counter[str] = Counter()
    for key, owner in moved.items():
        if moved.get(owner) == key:
            counts[f"{_both(min(key, owner), max(key, owner), ' and ')} are exchanged"] += 1
        else:
            counts[_both(key, owner, " holds ")] += 1
    shown = [f"{text} ({number} tensor{'s' * (number != 1)})" for text, number in counts.most_common(_SHOWN)]
    more = f"; and {len(counts) - _SHOWN} more like it" if len(counts) > _SHOWN else ""
    message = f"Tensors are in the place of others: {'; '.join(shown)}{more}."
    return [Difference("exchanged-tensors", message, tuple(sorted(moved)))]


def _both(first: str, second: str, between: str) -> str:
    """Name two keys by the one segment in which they differ, if it is one."""
    ours, theirs = printable(first).split("."), printable(second).split(".")
    at = [place for place, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    if len(ours) != len(theirs) or len(at) != 1 or not at[0]:
        return f"{'.'.join(ours)}{between}{'.'.join(theirs)}"
    return f"{'.'.join(ours[: at[0]])} {ours[at[0]]}{between}{theirs[at[0]]}"
