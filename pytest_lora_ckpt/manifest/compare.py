"""A checkpoint, or a model loaded from it, compared with the manifest of its training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.layers import active_adapters, merged_modules
from pytest_lora_ckpt.manifest.differences import Outcomes, base_differences, config_differences, value_differences
from pytest_lora_ckpt.manifest.digests import Digested
from pytest_lora_ckpt.manifest.facts import module_scalings
from pytest_lora_ckpt.models import is_module
from pytest_lora_ckpt.wording import count, grouped, listed, printable, type_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.keys import ParsedKey
    from pytest_lora_ckpt.manifest.differences import ManifestComparison
    from pytest_lora_ckpt.manifest.schema import Manifest
    from pytest_lora_ckpt.proof.loaded_model import LoadedModel
    from pytest_lora_ckpt.results import Finding

# Scalings are quotients of small numbers; a model in half precision may keep them rounded.
_ROUNDING = 1e-3


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
    parts = [checkpoint, *(each.checkpoint for each in checkpoint.trained if each.checkpoint)]
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
                    outcomes.judge(place, Digested.of_file(part, key))
        differing = set(outcomes.of("differs"))
        reshaped |= {
            place: f"{list(part.keys[key].shape)} in place of {list(manifest.tensors[place].shape)}"
            for key, place in remapping.shape_mismatches.items()
        }
        placed = {*remapping.mapping, *remapping.shape_mismatches}
        placed |= part.keys.also_named(placed.__contains__)
        unknown += [key for key in part.keys if key not in placed]
    if not met and not reshaped:
        message = f"None of the {len(checkpoint.keys)} tensors of the checkpoint is in the manifest ({manifest!r})."
        return outcomes.comparison([finding("other-manifest", message)])
    differences = _missing(manifest, parts, met | reshaped.keys())
    if reshaped:
        key, shapes = min(reshaped.items())
        message = f"{count(len(reshaped), 'tensor')} with another shape: {printable(key)} is {shapes}."
        differences.append(finding("values-differ", message, reshaped))
    others, notes = _identity(manifest, parts)
    differences += [*value_differences(outcomes, "the checkpoint"), *others]
    if opaque := sum(len(part.opaque_keys) for part in parts):
        notes.append(f"{count(opaque, 'entry', 'entries')} of the checkpoint are not plain tensors: not compared.")
    if unknown:
        notes.append(f"{count(len(unknown), 'tensor')} of the checkpoint not in the manifest: {grouped(unknown)}.")
    return outcomes.comparison(differences, notes)


def compare_model(manifest: Manifest, model: torch.nn.Module | LoadedModel) -> ManifestComparison:
    """Compare a loaded model with a manifest: is the base the one of training, are the adapter's values and scaling?

    Where the adapter is merged into the weights, those weights cannot be the recorded ones: they are left out, and a
    note says so. A model without LoRA whose weights all still match the base has no adapter in it, merged or not.

    Args:
        manifest: What was written at training time.
        model: The loaded model, with PEFT's wrapping or without.

    Raises:
        TypeError: `model` is not an `nn.Module`.
    """
    from pytest_lora_ckpt.proof.loaded_model import LoadedModel  # torch, only here.

    if not isinstance(model, LoadedModel) and not is_module(model):
        raise TypeError(f"compare_model() takes a torch.nn.Module, and was given {type_name(model)}.")
    loaded, outcomes = LoadedModel.of(model), Outcomes(manifest)
    mapping = infer_remapping(manifest, loaded.keys, adapter_name=loaded.active_adapter or "default").mapping
    if not mapping:
        message = f"None of the {len(loaded.keys)} tensors of the model is in the manifest ({manifest!r})."
        return outcomes.comparison([finding("other-manifest", message)])
    for key, place in sorted(mapping.items()):
        outcomes.judge(key, Digested.of_model(loaded.state[place]))
    parsed = manifest.keys.derived(parse_keys)
    has_lora = any(key.is_lora for key in loaded.parsed.values())
    foldable = _foldable(manifest, loaded, mapping, has_lora=has_lora)
    merged = [key for key in outcomes.of("differs") if key in foldable]
    for key in merged:
        del outcomes.by_key[key]
    notes: list[str] = []
    # Of a module that was trained whole the copy is at work: its original may be made anew, such as rows for new words.
    base = [key for key in outcomes.of("differs") if not manifest.tensors[key].trained]
    if base and all("original_module" in parsed[key].roles for key in base):
        for key in base:
            del outcomes.by_key[key]
        notes.append(f"{count(len(base), 'base weight')} not compared: trained copies are in their place.")
    differences = value_differences(outcomes, "the model")
    if has_lora:
        differences += _not_at_work(manifest, loaded)
        differences += _scalings(manifest, loaded, {key: mapping[key] for key in mapping if parsed[key].is_lora})
    still = [key for key in outcomes.of("same", "cast") if key in foldable and parsed[key].parameter == "weight"]
    if merged:
        rest = f", and not into {count(len(still), 'other')}." if still else "."
        notes.append(f"{count(len(merged), 'adapted weight')} not compared: the adapter is merged into them{rest}")
    elif still and not has_lora:
        message = f"The model has no LoRA layers, and all {len(still)} weights that were adapted still match the base"
        message += ": the adapter is not in it."
        differences.append(finding("adapter-not-loaded", message, still))
    return outcomes.comparison(differences, notes)


def _adapter_name(manifest: Manifest, checkpoint: Checkpoint) -> str:
    """Return the adapter that a checkpoint without adapter names is: by its directory, as PEFT saves several."""
    names = {key.adapter for key in manifest.keys.derived(parse_keys).values() if key.adapter}
    folder = checkpoint.folder.name
    if checkpoint.layout == "peft_adapter" and folder in names:
        return folder
    return next((name for name in manifest.active if name in names), "default")


def _missing(manifest: Manifest, parts: Iterable[Checkpoint], met: set[str]) -> list[Finding]:
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
    return [finding("trained-weights-missing", message, tuple(missing))]


def _identity(manifest: Manifest, parts: Iterable[Checkpoint]) -> tuple[list[Finding], list[str]]:
    differences: list[Finding] = []
    notes: list[str] = []
    for part in parts:
        if part.adapter_config is None:
            continue
        alone = [*manifest.adapters.values()] if len(manifest.adapters) == 1 else [None]
        recorded = manifest.adapters.get(_adapter_name(manifest, part), alone[0])
        if recorded is not None:
            differences += config_differences(recorded, part.adapter_config)
        else:
            notes.append("The manifest has no config to compare adapter_config.json with.")
        others, remarks = base_differences(manifest, part.adapter_config)
        differences += others
        notes += remarks
    return differences, notes


def _foldable(manifest: Manifest, loaded: LoadedModel, mapping: Mapping[str, str], *, has_lora: bool) -> set[str]:
    """Keys of the manifest whose weights have the adapter merged into them, or may have it without LoRA layers."""
    recorded = manifest.keys.derived(parse_keys)
    parsed, keys = (loaded.parsed, loaded.keys) if has_lora else (recorded, manifest.keys)
    adapted = frozenset(key.module_path for key in recorded.values() if key.is_lora)
    modules = merged_modules(loaded.module) if has_lora else adapted
    names = {key: place if has_lora else key for key, place in mapping.items() if not recorded[key].is_adapter}
    # The update of an embedding is also that of the head that is tied to it.
    tied = keys.also_named(lambda name: parsed[name].module_path in modules)
    return {key for key, name in names.items() if name in tied or parsed[name].module_path in modules}


def _not_at_work(manifest: Manifest, loaded: LoadedModel) -> list[Finding]:
    """Report adapters of the training that are not at work; they are counted, since names may have changed."""
    then, now = manifest.active, active_adapters(loaded.module)
    if not now or len(now) >= len(then) or merged_modules(loaded.module):
        return []
    message = f"{len(then)} adapters were at work in training ({listed(then)}), and {len(now)} in the model"
    return [finding("adapter-inactive", f"{message} ({listed(now)}).")]


def _scalings(manifest: Manifest, loaded: LoadedModel, mapping: Mapping[str, str]) -> list[Finding]:
    """Compare the scaling of every adapted module with the recorded one."""
    parsed, here = manifest.keys.derived(parse_keys), loaded.parsed
    now = module_scalings(loaded.layers)
    seen: dict[tuple[str, str], tuple[float, float]] = {}
    keys: list[str] = []
    for key, place in mapping.items():
        then_name, now_name = parsed[key].adapter or "default", here[place].adapter or "default"
        recorded = manifest.scalings.get(then_name)
        module = _module(parsed[key])
        then = recorded.get(module) if not isinstance(recorded, (float, type(None))) else recorded
        in_force = now.get(now_name, {}).get(_module(here[place]))
        if then is None or in_force is None or abs(then - in_force) <= _ROUNDING * abs(then):
            continue
        keys.append(key)
        seen[module, then_name] = (then, in_force)
    if not seen:
        return []
    values = sorted(set(seen.values()))
    then, in_force = values[0]
    message = f"The adapter is scaled by {in_force:.4g} in {count(len(seen), 'module')}, and was scaled by {then:.4g} "
    message += "at training" + (", for example." if len(values) > 1 else ".")
    return [finding("scaling-differs", message, keys)]


def _module(key: ParsedKey) -> str:
    """Return the path of the module that holds an adapter's factor."""
    return ".".join(key.segments[: key.roles.index("lora")])
