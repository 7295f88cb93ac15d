"""`compare_checkpoint`: a checkpoint held against the manifest of its training. Needs torch for casts only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.manifest.digests import FileTensor
from pytest_lora_ckpt.manifest.identity import base_differences, config_differences
from pytest_lora_ckpt.manifest.outcomes import Difference, Outcomes, sorted_keys, tell_exchanged, told_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.manifest.outcomes import ManifestComparison
    from pytest_lora_ckpt.manifest.schema import Manifest

# From this share of the trained tensors on, their differing means a further step, not damage: a few may never have had
# a gradient. Below this number of tensors nothing is concluded.
_ANOTHER_STEP = 0.9
_FEWEST = 8

# From this share of the base tensors on, the base is another model, not this one changed in places. Tensors that are
# like others (norms of ones, biases of zeros) do not count: any model may have them.
_ANOTHER_BASE = 0.5


def compare_checkpoint(manifest: Manifest, checkpoint: Checkpoint, *, base: bool = True) -> ManifestComparison:
    """Hold a checkpoint against a manifest: what is missing, has other values, stands in another's place.

    What the manifest has under another prefix, or the checkpoint without the adapter's name, is paired as `compare`
    does. An adapter in `lora_weights/` beside the checkpoint counts.

    Args:
        manifest: What was written at training time.
        checkpoint: An opened checkpoint, of any layout.
        base: Compare the values of base weights too: every byte of them is read, one tensor at a time. Otherwise only
            trained tensors are.
    """
    beside = checkpoint.adapter_companion
    parts = [checkpoint, *([beside] if beside else [])]
    outcomes = Outcomes(manifest)
    reshaped: dict[str, str] = {}
    strangers: list[str] = []
    met: set[str] = set()
    for part in parts:
        name = _adapter_name(manifest, part)
        remapping = infer_remapping(part, manifest, adapter_name=name)
        for key, place in sorted(remapping.mapping.items()):
            if place not in met:
                met.add(place)
                if base or manifest.tensors[place].trained:
                    outcomes.judge(place, FileTensor(part, key))
        reshaped |= {
            place: f"{list(part.keys[key].shape)} in place of {list(manifest.tensors[place].shape)}"
            for key, place in remapping.shape_mismatches.items()
        }
        placed = {*remapping.mapping, *remapping.shape_mismatches}
        aliases = part.keys.alias_of()
        strangers += [key for key in part.keys if placed.isdisjoint(aliases.get(key, (key,)))]
    if not met and not reshaped:
        told = f"None of the {len(checkpoint.keys)} tensors of the checkpoint has a place in the manifest"
        return outcomes.comparison([Difference("other-manifest", f"{told} ({manifest!r}).")])
    differences, notes = _identity(manifest, parts)
    opaque = sum(len(part.opaque_keys) for part in parts)
    if opaque:
        notes.append(f"{opaque} entries of the checkpoint are no plain tensors and were not compared.")
    if strangers:
        notes.append(f"The manifest does not know {len(strangers)} tensors of the checkpoint: {told_keys(strangers)}.")
    return outcomes.comparison(
        [
            *_missing(manifest, parts, met | reshaped.keys()),
            *_reshaped(reshaped),
            *value_differences(manifest, outcomes, "the checkpoint"),
            *differences,
        ],
        notes,
    )


def value_differences(manifest: Manifest, outcomes: Outcomes, where: str) -> list[Difference]:
    """Make of differing values what they mean: tensors exchanged, a further step, another base, or damage.

    Args:
        manifest: What was recorded.
        outcomes: What was found, all judged.
        where: What was compared, in words.
    """
    moved = outcomes.others()
    differences = tell_exchanged(moved)
    left = [key for key in outcomes.differing if outcomes.name(key) not in moved]
    trained = [key for key in left if manifest.tensors[key].trained]
    frozen = [key for key in left if not manifest.tensors[key].trained]
    compared = outcomes.judged(manifest.trained)
    if trained and len(trained) >= max(_FEWEST, _ANOTHER_STEP * compared):
        told = f"{len(trained)} of {compared} trained tensors have other values than the manifest"
        told += f": it was written at another step or run than {where}."
        differences.append(Difference("other-step", told, sorted_keys(trained)))
    elif trained:
        told = f"{len(trained)} of {compared} trained tensors in {where} have other values than at training"
        differences.append(Difference("values-differ", f"{told}: {told_keys(trained)}.", sorted_keys(trained)))
    if frozen:
        base = [key for key, entry in manifest.tensors.items() if not entry.trained]
        telling = outcomes.distinctive(base)
        told = f"{len(frozen)} of {outcomes.judged(base)} base tensors in {where} have other values than at training"
        share = len(telling.intersection(frozen)) / max(outcomes.judged(telling), 1)
        slug = "other-base" if share >= _ANOTHER_BASE else "base-changed"
        meaning = "it is another base model" if slug == "other-base" else told_keys(frozen)
        differences.append(Difference(slug, f"{told}: {meaning}.", sorted_keys(frozen)))
    return differences


def _adapter_name(manifest: Manifest, checkpoint: Checkpoint) -> str:
    """Choose the adapter that a checkpoint without adapter names is: by its directory, as PEFT saves several."""
    names = {key.adapter for key in parse_keys(manifest.tensors).values() if key.adapter}
    folder = checkpoint.path.name if checkpoint.path.is_dir() else checkpoint.path.parent.name
    if checkpoint.layout == "peft_adapter" and folder in names:
        return folder
    return next((name for name in manifest.active if name in names), "default")


def _missing(manifest: Manifest, parts: Iterable[Checkpoint], met: set[str]) -> list[Difference]:
    """Name the trained tensors that are not there.

    Where the adapter keys of the checkpoint bear no adapter's name, it is one adapter, and the others lie elsewhere.
    """
    parsed, aliases = parse_keys(manifest.tensors), manifest.keys.alias_of()
    held = {parsed[key].adapter for key in met}
    own = [key for part in parts for key in parse_keys(part.keys).values() if key.is_lora]
    alone = bool(own) and all(key.adapter is None for key in own)
    trained = [
        key
        for key in manifest.trained
        if aliases.get(key, (key,))[0] == key  # Each tensor once.
        and not (alone and parsed[key].adapter is not None and parsed[key].adapter not in held)
    ]
    missing = [key for key in trained if met.isdisjoint(aliases.get(key, (key,)))]
    if not missing:
        return []
    told = f"{len(missing)} of {len(trained)} trained tensors are not in the checkpoint: {told_keys(missing)}."
    return [Difference("trained-weights-missing", told, tuple(missing))]


def _reshaped(reshaped: Mapping[str, str]) -> list[Difference]:
    if not reshaped:
        return []
    key, told = next(iter(sorted(reshaped.items())))
    return [
        Difference(
            "values-differ", f"{len(reshaped)} tensors have other shapes: {key} is {told}.", sorted_keys(reshaped)
        )
    ]


def _identity(manifest: Manifest, parts: Iterable[Checkpoint]) -> tuple[list[Difference], list[str]]:
    differences: list[Difference] = []
    notes: list[str] = []
    for part in parts:
        if part.adapter_config is None:
            continue
        recorded: Mapping[str, Any] | None = manifest.adapters.get(_adapter_name(manifest, part))
        if recorded is None and len(manifest.adapters) == 1:
            recorded = next(iter(manifest.adapters.values()))
        if recorded is not None:
            differences += config_differences(recorded, part.adapter_config)
        else:
            notes.append("The manifest has no config to compare adapter_config.json with.")
        found, told = base_differences(manifest, part.adapter_config)
        differences += found
        notes += told
    return differences, notes
