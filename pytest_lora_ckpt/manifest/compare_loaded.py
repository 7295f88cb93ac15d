"""`compare_model`: a loaded model compared with the manifest of its training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.comparison.compare import infer_remapping
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.layers import merged_modules
from pytest_lora_ckpt.manifest.differences import value_differences
from pytest_lora_ckpt.manifest.digests import LiveTensor
from pytest_lora_ckpt.manifest.facts import module_scalings
from pytest_lora_ckpt.manifest.outcomes import Difference, Outcomes
from pytest_lora_ckpt.models import is_module
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.wording import count, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from pytest_lora_ckpt.keys import ParsedKey
    from pytest_lora_ckpt.manifest.outcomes import ManifestComparison
    from pytest_lora_ckpt.manifest.schema import Manifest

# Scalings are quotients of small numbers; a model in half precision may keep them rounded.
_ROUNDING = 1e-3


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
    if not isinstance(model, LoadedModel) and not is_module(model):
        raise TypeError(f"compare_model() takes a torch.nn.Module, and was given {type_name(model)}.")
    loaded, outcomes = LoadedModel.of(model), Outcomes(manifest)
    mapping = infer_remapping(manifest, loaded.keys, adapter_name=loaded.active_adapter or "default").mapping
    if not mapping:
        message = f"None of the {len(loaded.keys)} tensors of the model is in the manifest ({manifest!r})."
        return outcomes.comparison([Difference("other-manifest", message)])
    for key, place in sorted(mapping.items()):
        outcomes.judge(key, LiveTensor(loaded.state[place]))
    parsed = manifest.keys.derived(parse_keys)
    has_lora = any(key.is_lora for key in loaded.parsed.values())
    foldable = _foldable(manifest, loaded, mapping, has_lora=has_lora)
    merged = [key for key in outcomes.of("differs") if key in foldable]
    for key in merged:
        del outcomes.by_key[key]
    notes, differences = [], value_differences(outcomes, "the model")
    if has_lora:
        differences += _scalings(manifest, loaded, {key: mapping[key] for key in mapping if parsed[key].is_lora})
    still = [key for key in outcomes.of("same", "cast") if key in foldable and parsed[key].parameter == "weight"]
    if merged:
        rest = f", and not into {count(len(still), 'other')}." if still else "."
        notes.append(f"{count(len(merged), 'adapted weight')} not compared: the adapter is merged into them{rest}")
    elif still and not has_lora:
        message = f"The model has no LoRA layers, and all {len(still)} weights that were adapted still match the base"
        differences.append(
            Difference("adapter-not-loaded", f"{message}: the adapter is not in it.", tuple(sorted(still)))
        )
    return outcomes.comparison(differences, notes)


def _foldable(manifest: Manifest, loaded: LoadedModel, mapping: Mapping[str, str], *, has_lora: bool) -> set[str]:
    """Keys of the manifest whose weights have the adapter merged into them, or may have it without LoRA layers."""
    recorded = manifest.keys.derived(parse_keys)
    parsed, aliases = (loaded.parsed, loaded.aliases) if has_lora else (recorded, manifest.keys.alias_of())
    adapted = frozenset(key.module_path for key in recorded.values() if key.is_lora)
    modules = merged_modules(loaded.module) if has_lora else adapted
    names = {key: place if has_lora else key for key, place in mapping.items() if not recorded[key].is_adapter}
    return {
        key
        for key, name in names.items()
        # The update of an embedding is also that of the head that is tied to it.
        if not modules.isdisjoint(parsed[one].module_path for one in aliases.get(name, (name,)))
    }


def _scalings(manifest: Manifest, loaded: LoadedModel, mapping: Mapping[str, str]) -> list[Difference]:
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
    return [Difference("scaling-differs", message, tuple(sorted(keys)))]


def _module(key: ParsedKey) -> str:
    """Return the path of the module that holds an adapter's factor."""
    return ".".join(key.segments[: key.roles.index("lora")])
