"""Tensors missing from the file: factors, magnitudes, trained copies, layers, components, a part of the file."""

from __future__ import annotations

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import Draft, NotApplicable, require
from pytest_lora_ckpt.faults.fault import ADAPTERS, LAYOUTS, STATE_DICTS, fault


@fault(LAYOUTS, "file")
def one_lora_b_missing(draft: Draft) -> None:
    """One factor was lost on the way (a shard not written, a narrow filter): PEFT leaves that module without effect."""
    draft.drop([draft.pairs[-1].up], "lora_B")


@fault(LAYOUTS, "file")
def all_lora_b_missing(draft: Draft) -> None:
    """A filter on the names kept lora_A alone: every lora_B starts at zero after loading."""
    draft.drop([pair.up for pair in draft.pairs], "lora_B")


@fault(LAYOUTS, "file")
def one_lora_a_missing(draft: Draft) -> None:
    """The other factor was lost: a trained lora_B meets a random lora_A."""
    draft.drop([draft.pairs[-1].down], "lora_A")


@fault(LAYOUTS, "model")
def one_module_missing(draft: Draft) -> None:
    """Of one layer one module's adapter is not there, and its like in all other layers is."""
    # Leave out one pair of the middle layer, of a module that is adapted in every layer.
    layers = selecting.lora_layers(draft, least=3)
    everywhere = set.intersection(*({pair.leaf for pair in pairs} for pairs in layers.values()))
    pairs = [pair for pair in layers[selecting.middle(layers)] if pair.leaf in everywhere]
    if len(everywhere) < 2:  # noqa: PLR2004  # Otherwise the whole layer would be missing.
        raise NotApplicable("fewer than two modules have LoRA in every layer")
    draft.drop(pairs[0].keys, "LoRA in every layer")


@fault(LAYOUTS, "model")
def one_layer_missing(draft: Draft) -> None:
    """The adapter of a whole layer is not there: one pipeline stage or one shard did not write its part."""
    layers = selecting.lora_layers(draft, least=3)
    draft.drop(selecting.keys_of(layers[selecting.middle(layers)]), "LoRA in three layers")


@fault(LAYOUTS, "model", "https://github.com/black-forest-labs/flux/issues/473")
def one_target_missing(draft: Draft) -> None:
    """The adapters of one target module are in no layer: a conversion did not know its name."""
    leaf = draft.pairs[-1].leaf
    require(len({pair.leaf for pair in draft.pairs}) > 1, "it has a single target module")
    draft.drop(selecting.keys_of(pair for pair in draft.pairs if pair.leaf == leaf), "LoRA of two target modules")


@fault(STATE_DICTS, "model")
def no_lora(draft: Draft) -> None:
    """The saving hook left the adapter out, to be saved elsewhere: only the wrapped base weights are there."""
    _require_no_directory(draft)
    draft.drop(selecting.lora_keys(draft), "LoRA and base weights")


@fault(STATE_DICTS, "model")
def no_lora_unwrapped(draft: Draft) -> None:
    """Saved from the base model and not from the PeftModel around it: plain names, and no trace of an adapter."""
    # Leave out LoRA, and PEFT's levels from the keys.
    _require_no_directory(draft)
    selecting.adapted_weights(draft)
    draft.drop(selecting.lora_keys(draft), "LoRA and base weights")
    draft.rename(lambda key: key.replace("base_model.model.", "", 1).replace(".base_layer.", "."))


@fault(LAYOUTS, "file", "https://github.com/tloen/alpaca-lora/issues/293")
def no_tensors(draft: Draft) -> None:
    """The state dict was filtered twice and came out empty: a file of a hundred bytes, loaded without a complaint."""
    draft.entries.clear()


@fault(LAYOUTS, "model")
def one_magnitude_missing(draft: Draft) -> None:
    """One DoRA magnitude vector was lost: that module keeps the base model's magnitude."""
    magnitudes = draft.where(lambda own: own.lora == "lora_magnitude_vector")
    require(len(magnitudes) != 1, "it holds only one magnitude vector: see dora-lost")
    draft.drop(magnitudes[-1:], "DoRA magnitude vector")


@fault(LAYOUTS, "model")
def dora_lost(draft: Draft) -> None:
    """A converter knew LoRA and not DoRA: the factors are there and all magnitude vectors are gone."""
    draft.drop(draft.where(lambda own: own.lora == "lora_magnitude_vector"), "DoRA magnitude vector")


@fault(ADAPTERS, "file", "https://github.com/huggingface/peft/issues/2450")
def modules_to_save_missing(draft: Draft) -> None:
    """A module that was trained whole is not in the adapter's file, though its config names it."""
    for name in draft.config.get("modules_to_save") or []:
        if keys := [key for key, parsed in draft.parsed.items() if parsed.modules[-1:] == (name,)]:
            draft.drop(keys, "module of modules_to_save")
            return
    raise NotApplicable("the file holds no module that modules_to_save names")


@fault(STATE_DICTS, "model", "https://github.com/huggingface/sentence-transformers/issues/3980")
def trained_copy_missing(draft: Draft) -> None:
    """The trained copy of a module of modules_to_save is gone, and its untrained original is there and is loaded."""
    draft.drop(draft.where(lambda own: own.in_modules_to_save), "trained copy in modules_to_save")


@fault(STATE_DICTS, "model", "https://github.com/haotian-liu/LLaVA/issues/808")
def projector_missing(draft: Draft) -> None:
    """The trained projector lies in a second file that nobody loads: images are noise to the language model."""
    require(not _keeps_only_what_was_trained(draft), "it keeps only what was trained: see trained-projector-missing")
    _drop_bridge(draft)


@fault(STATE_DICTS, "manifest")
def trained_projector_missing(draft: Draft) -> None:
    """The hook that keeps the trained tensors looked for `lora_` alone: the projector's training is lost."""
    require(_keeps_only_what_was_trained(draft), "it holds the base weights too: see projector-missing")
    _drop_bridge(draft)


@fault(ADAPTERS, "model")
def biases_missing(draft: Draft) -> None:
    """The biases were trained with the adapter (bias='all') and are not in its file."""
    require(draft.config.get("bias", "none") != "none", "its config has bias 'none': no bias was trained")
    draft.drop(draft.where(lambda own: own.parameter == "bias" and not own.is_adapter), "bias")


@fault(LAYOUTS, "file", "https://github.com/huggingface/peft/issues/1328")
def size_0(draft: Draft) -> None:
    """DeepSpeed's ZeRO-3 did not gather the parameters before saving: every adapter tensor has size 0."""
    draft.change(selecting.lora_keys(draft), lambda tensor: tensor.new_empty(0), "LoRA")


@fault(LAYOUTS, "file", "https://github.com/huggingface/peft/issues/2450")
def trained_copy_size_0(draft: Draft) -> None:
    """ZeRO-3 gathered the adapter and not modules_to_save: the trained copy has size 0."""
    named = set(draft.config.get("modules_to_save") or [])
    whole = draft.where(lambda own: own.in_modules_to_save or not named.isdisjoint(own.modules))
    copies = [key for key in whole if not draft.parsed[key].is_lora]
    draft.change(copies, lambda tensor: tensor.new_empty(0), "trained copy in modules_to_save")


@fault(STATE_DICTS, "model")
def component_missing(draft: Draft) -> None:
    """A component is not in the file: the vision encoder was frozen and left out, and nobody loads it elsewhere."""
    # Leave out the largest component that has no LoRA and no part between two others.
    adapted = _adapted(draft)
    parts = selecting.components(draft, least=2)
    candidates = [keys for name, keys in parts.items() if name not in adapted and not selecting.BRIDGES.search(name)]
    require(candidates, "all its components have LoRA, or are named like a projector")
    largest: list[str] = max(candidates, key=len)
    draft.drop(largest, "two components")


@fault(STATE_DICTS, "model")
def wrong_stage(draft: Draft) -> None:
    """The path is that of an earlier stage's checkpoint, in which the language model and its adapter are not yet."""
    adapted = _adapted(draft)
    components = selecting.components(draft, least=2)
    require(adapted, "it holds no LoRA: it comes from an early stage itself")
    draft.drop([key for name in adapted for key in components[name]], "component without LoRA")


@fault(LAYOUTS, "model")
def last_shard_missing(draft: Draft) -> None:
    """The second of two shards was not merged in: the last half of the keys is not there."""
    keys = list(draft.keys)
    draft.drop(keys[(len(keys) + 1) // 2 :], "two keys")


def _adapted(draft: Draft) -> set[str]:
    return {parsed.component for parsed in draft.parsed.values() if parsed.is_lora}


def _drop_bridge(draft: Draft) -> None:
    parts = selecting.components(draft, least=2)
    bridge = next((keys for name, keys in parts.items() if selecting.BRIDGES.search(name)), [])
    require(bridge, "none of its components is named like a projector or a resampler")
    draft.drop(bridge, "projector")


def _keeps_only_what_was_trained(draft: Draft) -> bool:
    try:
        selecting.adapted_weights(draft)
    except NotApplicable:
        return draft.has_lora
    return False


def _require_no_directory(draft: Draft) -> None:
    if (beside := draft.checkpoint.adapter_beside) is not None:
        raise NotApplicable(f"the adapter is also in {beside.path.name}/ next to it")
