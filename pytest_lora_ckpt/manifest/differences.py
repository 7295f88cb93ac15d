"""A manifest compared: which tensors match, in which dtype, and what the differences mean.

Tensors exchanged, a further step, another base, damage; another config or base model by name.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.manifest.digests import HOLDS
from pytest_lora_ckpt.manifest.facts import plain_config
from pytest_lora_ckpt.vocabulary.lora import PEFT_FIELDS
from pytest_lora_ckpt.wording import count, grouped, listed, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.manifest.digests import Digested
    from pytest_lora_ckpt.manifest.schema import Manifest, TensorEntry
    from pytest_lora_ckpt.results import Finding

# From this share of the trained tensors on, their differing means a further step, not damage: a few may never have had
# a gradient. Below this number of tensors nothing is concluded.
_ANOTHER_STEP = 0.9
_FEWEST = 8

# From this share of the base tensors on, the base is another model, not this one changed in places. Tensors that are
# like others (norms of ones, biases of zeros) do not count: any model may have them.
_ANOTHER_BASE = 0.5

_SHOWN = 3

# Decide nothing once the tensors are trained: how they began, and which head PEFT put on.
_LEFT_OUT = {"init_lora_weights", "task_type", "peft_type"}
_NAMED = 8  # Modules in one sentence.

# A model in the cache of the hub: `models--ORG--NAME/snapshots/COMMIT`.
_CACHED = re.compile(r"models--(?P<name>[^/\\]+)[/\\]snapshots[/\\](?P<commit>[0-9a-f]{40})")


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


def value_differences(outcomes: Outcomes, where: str) -> list[Finding]:
    """Explain the values that differ; `where` says in words what was compared."""
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
        differences.append(finding("other-step", message, trained))
    elif trained:
        differences.append(finding("values-differ", f"{fact}: {grouped(trained)}.", trained))
    if frozen:
        base = [key for key, entry in manifest.tensors.items() if not entry.trained]
        telling = {key for key in base if index.is_unique(key)}
        share = len(telling.intersection(frozen)) / max(outcomes.compared(telling), 1)
        slug = "other-base" if share >= _ANOTHER_BASE else "base-changed"
        meaning = "it is another base model" if slug == "other-base" else grouped(frozen)
        fact = f"{len(frozen)} of {outcomes.compared(base)} base tensors in {where} differ from training"
        differences.append(finding(slug, f"{fact}: {meaning}.", frozen))
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


def exchanged(moved: Mapping[str, str]) -> list[Finding]:
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
    shown = [f"{text} ({count(number, 'tensor')})" for text, number in counts.most_common(_SHOWN)]
    more = f"; and {len(counts) - _SHOWN} more like it" if len(counts) > _SHOWN else ""
    message = f"Tensors are in the place of others: {'; '.join(shown)}{more}."
    return [finding("exchanged-tensors", message, moved)]


def _both(first: str, second: str, between: str) -> str:
    """Name two keys by the one segment in which they differ, if it is one."""
    ours, theirs = printable(first).split("."), printable(second).split(".")
    at = [place for place, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    if len(ours) != len(theirs) or len(at) != 1 or not at[0]:
        return f"{'.'.join(ours)}{between}{'.'.join(theirs)}"
    return f"{'.'.join(ours[: at[0]])} {ours[at[0]]}{between}{theirs[at[0]]}"


def config_differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[Finding]:
    """Name the fields in which the config beside a checkpoint differs from that of training.

    A field that is absent has PEFT's default: None, false or empty.

    Example:
        >>> config_differences({"r": 8, "lora_alpha": 16}, {"r": 8, "lora_alpha": 32})[0].message
        'adapter_config.json differs from training: lora_alpha is 32 and was 16.'
    """
    before, after = plain_config(recorded), plain_config(now)
    changes = [
        _change(name, before.get(name), after.get(name))
        for name in PEFT_FIELDS
        if name not in _LEFT_OUT and _settled(name, before.get(name)) != _settled(name, after.get(name))
    ]
    if not changes:
        return []
    return [finding("config-differs", f"adapter_config.json differs from training: {'; '.join(changes)}.")]


def base_differences(manifest: Manifest, config: Mapping[str, Any]) -> tuple[list[Finding], list[str]]:
    """Compare the base model that an adapter's config names with that of training; return differences and notes.

    A path of one machine says little about another, so two paths, or a path and a name, give a note only.
    """
    then, now = manifest.base.name, config.get("base_model_name_or_path")
    if not isinstance(now, str) or not now or not then:
        return [], []
    names = _hub_name(then), _hub_name(now)
    if names[0] != names[1]:
        fact = f"adapter_config.json names the base model {_short(now)}, and training had {_short(then)}"
        if any(map(_is_path, names)):
            return [], [f"{fact}: the names do not show whether they are one model."]
        return [finding("other-base", f"{fact}.")], []
    before, revision = manifest.base.revision, config.get("revision")
    if before and isinstance(revision, str) and revision not in {"", before}:
        fact = f"adapter_config.json names revision {_short(revision)} of the base model {_short(now)}"
        return [finding("other-base", f"{fact}, and training had {_short(before)}.")], []
    return [], []


def _settled(name: str, value: Any) -> Any:
    """Return one value for all spellings of a setting."""
    if value and not isinstance(value, bool | list) and name in {"layers_to_transform", "layers_pattern"}:
        return [value]
    return None if not value or value == "none" else value


def _change(name: str, before: Any, after: Any) -> str:
    if isinstance(before, list) and isinstance(after, list):
        then, now = ({repr(one) for one in values} for values in (before, after))
        lacks, adds = [one for one in before if repr(one) not in now], [one for one in after if repr(one) not in then]
        parts = [f"{what} {listed(rest, most=_NAMED)}" for what, rest in (("lacks", lacks), ("adds", adds)) if rest]
        if parts:
            return f"{name} {' and '.join(parts)}"
    return f"{name} is {_short(after)} and was {_short(before)}"


def _short(value: Any) -> str:
    return printable(f"{value!r:.120}")


def _hub_name(name: str) -> str:
    found = _CACHED.search(name)
    return found["name"].replace("--", "/") if found else name.rstrip("/\\")


def _is_path(name: str) -> bool:
    """Tell a path from `org/name` and `name` of the hub."""
    return name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1
