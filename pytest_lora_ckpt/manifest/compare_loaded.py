"""`compare_model`: a loaded model held against the manifest of its training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.layers import merged_modules
from pytest_lora_ckpt.manifest.compare_file import value_differences
from pytest_lora_ckpt.manifest.digests import LiveTensor
from pytest_lora_ckpt.manifest.facts import module_scalings
from pytest_lora_ckpt.manifest.outcomes import Difference, Outcomes, sorted_keys
from pytest_lora_ckpt.models import describe, is_module
from pytest_lora_ckpt.proof.loaded_model import LoadedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from pytest_lora_ckpt.keys import ParsedKey
    from pytest_lora_ckpt.manifest.outcomes import ManifestComparison
    from pytest_lora_ckpt.manifest.schema import Manifest

# Scalings are quotients of small numbers; a model in half precision may keep them rounded.
_ROUNDING = 1e-3


def compare_model(manifest: Manifest, model: torch.nn.Module | LoadedModel) -> ManifestComparison:
    """Hold a loaded model against a manifest: is the base the one of training, are the adapter's values and scaling?

    Where the adapter is merged into the weights, those weights cannot be the recorded ones: they are left out, and a
    note says so. A model without LoRA whose weights all still are the base's has no adapter in it, merged or not.

    Args:
        manifest: What was written at training time.
        model: The loaded model, with PEFT's wrapping or without.

    Raises:
        TypeError: `model` is no `nn.Module`.
    """
    if not isinstance(model, LoadedModel) and not is_module(model):
        raise TypeError(f"compare_model() takes a torch.nn.Module, and was given {describe(model)}.")
    loaded = LoadedModel.of(model)
    keys, here = loaded.keys, loaded.parsed
    places = infer_remapping(manifest, keys, adapter_name=loaded.active_adapter or "default").mapping
    parsed = manifest.keys.derived(parse_keys)
    if not places:
        told = f"None of the {len(keys)} tensors of the model is in the manifest ({manifest!r})."
        return Outcomes(manifest).comparison([Difference("other-manifest", told)])
    adapted = {key.module_path for key in parsed.values() if key.is_lora}
    has_lora = any(key.is_lora for key in here.values())
    merged = merged_modules(loaded.module) if has_lora else adapted
    outcomes, updated = Outcomes(manifest), Outcomes(manifest)
    aliases = loaded.aliases if has_lora else manifest.keys.alias_of()
    for key, place in sorted(places.items()):
        name, names = (place, here) if has_lora else (key, parsed)
        # The update of an embedding is also that of the head that is tied to it.
        paths = {names[one].module_path for one in aliases.get(name, (name,))}
        folded = not paths.isdisjoint(merged) and not parsed[key].is_adapter
        (updated if folded else outcomes).judge(key, LiveTensor(loaded.state[place]))
    differences = value_differences(manifest, outcomes, "the model")
    if has_lora:
        differences += _scalings(manifest, loaded, {key: places[key] for key in places if parsed[key].is_lora}, parsed)
    still = [key for key in (*updated.same, *updated.cast) if parsed[key].parameter == "weight"]
    notes: list[str] = []
    if updated.differing:
        told = f"{len(updated.differing)} adapted weights were left out: the adapter is merged into them"
        notes.append(told + (f", and not into {len(still)} others." if still else "."))
    elif still and not has_lora:
        told = f"The model has no LoRA layers, and all {len(still)} weights that were adapted still are the base's"
        differences.append(Difference("adapter-not-loaded", f"{told}: the adapter is not in it.", sorted_keys(still)))
    outcomes.take_over(updated)
    return outcomes.comparison(differences, notes)


def _scalings(
    manifest: Manifest, loaded: LoadedModel, places: Mapping[str, str], parsed: Mapping[str, ParsedKey]
) -> list[Difference]:
    """Compare the factor of every adapted module with the recorded one."""
    now, here = module_scalings(loaded.module), loaded.parsed
    seen: dict[tuple[str, str], tuple[float, float]] = {}
    keys: list[str] = []
    for key, place in places.items():
        then_name, now_name = parsed[key].adapter or "default", here[place].adapter or "default"
        recorded = manifest.scalings.get(then_name)
        module = _module(parsed[key])
        then = recorded.get(module) if not isinstance(recorded, (float, type(None))) else recorded
        found = now.get(now_name, {}).get(_module(here[place]))
        if then is None or found is None or abs(then - found) <= _ROUNDING * abs(then):
            continue
        keys.append(key)
        seen[module, then_name] = (then, found)
    if not seen:
        return []
    values = sorted(set(seen.values()))
    then, found = values[0]
    told = f"The adapter of {len(seen)} modules is scaled by {found:.4g} and was scaled by {then:.4g} at training"
    return [Difference("scaling-differs", told + (", for example." if len(values) > 1 else "."), sorted_keys(keys))]


def _module(key: ParsedKey) -> str:
    """Return the path of the module that holds an adapter's factor."""
    return ".".join(key.segments[: key.roles.index("lora")])
