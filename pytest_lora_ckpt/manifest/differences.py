"""What differences mean: tensors exchanged, a further step, another base, damage; another config or base by name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.manifest.facts import plain_config
from pytest_lora_ckpt.manifest.outcomes import recorded_digest
from pytest_lora_ckpt.vocabulary.lora import PEFT_FIELDS
from pytest_lora_ckpt.wording import count, grouped, listed, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.manifest.outcomes import Outcomes
    from pytest_lora_ckpt.manifest.schema import Manifest
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
        lacks, adds = [one for one in before if one not in after], [one for one in after if one not in before]
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
