"""`compare_checkpoint`: a checkpoint compared with the manifest of its training. Needs torch for casts only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.manifest.differences import value_differences
from pytest_lora_ckpt.manifest.digests import FileTensor
from pytest_lora_ckpt.manifest.identity import base_differences, config_differences
from pytest_lora_ckpt.manifest.outcomes import Difference, Outcomes
from pytest_lora_ckpt.wording import count, grouped, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.manifest.outcomes import ManifestComparison
    from pytest_lora_ckpt.manifest.schema import Manifest


def compare_checkpoint(manifest: Manifest, checkpoint: Checkpoint, *, base: bool = True) -> ManifestComparison:
    """Compare a checkpoint with a manifest: what is missing, has other values, is in another tensor's place.

    Keys are paired as `compare` does, by another prefix or without the adapter's name. An adapter in `lora_weights/`
    next to the checkpoint counts, and so does what else was trained.

    Args:
        manifest: What was written at training time.
        checkpoint: An opened checkpoint, of any layout.
        base: Compare the values of base weights too: every byte of them is read, one tensor at a time. Otherwise only
            trained tensors are.
    """
    beside, further = checkpoint.adapter_companion, (each.checkpoint for each in checkpoint.further)
    parts = [checkpoint, *([beside] if beside else []), *(part for part in further if part)]
    outcomes = Outcomes(manifest)
    reshaped: dict[str, str] = {}
    unknown: list[str] = []
    met: set[str] = set()
    differing: set[str] = set()
    for part in parts:
        remapping = infer_remapping(part, manifest, adapter_name=_adapter_name(manifest, part))
        for key, place in sorted(remapping.mapping.items()):
            # Of two files with the same tensor, such as one of an earlier stage, the loader takes one.
            if place not in met or (place in differing and part is not checkpoint):
                met.add(place)
                if base or manifest.tensors[place].trained:
                    outcomes.judge(place, FileTensor(part, key))
        differing = set(outcomes.of("differs"))
        reshaped |= {
            place: f"{list(part.keys[key].shape)} in place of {list(manifest.tensors[place].shape)}"
            for key, place in remapping.shape_mismatches.items()
        }
        placed = {*remapping.mapping, *remapping.shape_mismatches}
        aliases = part.keys.alias_of()
        unknown += [key for key in part.keys if placed.isdisjoint(aliases.get(key, (key,)))]
    if not met and not reshaped:
        message = f"None of the {len(checkpoint.keys)} tensors of the checkpoint is in the manifest ({manifest!r})."
        return outcomes.comparison([Difference("other-manifest", message)])
    differences, notes = _identity(manifest, parts)
    if opaque := sum(len(part.opaque_keys) for part in parts):
        notes.append(f"{count(opaque, 'entry', 'entries')} of the checkpoint are not plain tensors: not compared.")
    if unknown:
        notes.append(f"{count(len(unknown), 'tensor')} of the checkpoint not in the manifest: {grouped(unknown)}.")
    return outcomes.comparison(
        [
            *_missing(manifest, parts, met | reshaped.keys()),
            *_reshaped(reshaped),
            *value_differences(outcomes, "the checkpoint"),
            *differences,
        ],
        notes,
    )


def _adapter_name(manifest: Manifest, checkpoint: Checkpoint) -> str:
    """Return the adapter that a checkpoint without adapter names is: by its directory, as PEFT saves several."""
    names = {key.adapter for key in manifest.keys.derived(parse_keys).values() if key.adapter}
    folder = checkpoint.path.name if checkpoint.path.is_dir() else checkpoint.path.parent.name
    if checkpoint.layout == "peft_adapter" and folder in names:
        return folder
    return next((name for name in manifest.active if name in names), "default")


def _missing(manifest: Manifest, parts: Iterable[Checkpoint], met: set[str]) -> list[Difference]:
    """Report the trained tensors that are missing.

    Where the adapter keys of the checkpoint have no adapter's name, it is one adapter, and the others are elsewhere.
    """
    parsed, aliases = manifest.keys.derived(parse_keys), manifest.keys.alias_of()
    held = {parsed[key].adapter for key in met}
    own = [key for part in parts for key in part.keys.derived(parse_keys).values() if key.is_lora]
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
    message = f"{len(missing)} of {len(trained)} trained tensors are missing from the checkpoint: {grouped(missing)}."
    return [Difference("trained-weights-missing", message, tuple(missing))]


def _reshaped(reshaped: Mapping[str, str]) -> list[Difference]:
    if not reshaped:
        return []
    key, shapes = min(reshaped.items())
    message = f"{count(len(reshaped), 'tensor')} with another shape: {printable(key)} is {shapes}."
    return [Difference("values-differ", message, tuple(sorted(reshaped)))]


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
        others, remarks = base_differences(manifest, part.adapter_config)
        differences += others
        notes += remarks
    return differences, notes
