"""Tensors missing from the file: factors, magnitudes, trained copies, layers, components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import NotApplicable
from pytest_lora_ckpt.faults.edits import emptied
from pytest_lora_ckpt.faults.fault import ADAPTERS, LAYOUTS, STATE_DICTS, fault

if TYPE_CHECKING:
    from pytest_lora_ckpt.faults.draft import Draft


@fault(
    "one-lora-b-missing",
    "One factor was lost on the way (a shard not written, a narrow filter): PEFT leaves that module without effect.",
    layouts=LAYOUTS,
    seen="file",
)
def one_lora_b_missing(draft: Draft) -> None:
    """Leave out the last lora_B."""
    draft.drop([draft.pairs[-1].up], "lora_B")


@fault(
    "all-lora-b-missing",
    "A filter on the names kept lora_A alone: every lora_B starts at zero after loading.",
    layouts=LAYOUTS,
    seen="file",
)
def all_lora_b_missing(draft: Draft) -> None:
    """Leave out every lora_B."""
    draft.drop([pair.up for pair in draft.pairs], "lora_B")


@fault(
    "one-lora-a-missing",
    "The other factor was lost: a trained lora_B meets a random lora_A.",
    layouts=LAYOUTS,
    seen="file",
)
def one_lora_a_missing(draft: Draft) -> None:
    """Leave out the last lora_A."""
    draft.drop([draft.pairs[-1].down], "lora_A")


@fault(
    "one-module-missing",
    "Of one layer one module's adapter is not there, and its like in all other layers is.",
    layouts=LAYOUTS,
    seen="model",
)
def one_module_missing(draft: Draft) -> None:
    """Leave out one pair of the middle layer, of a module that is adapted in every layer."""
    layers = selecting.lora_layers(draft, least=3)
    everywhere = set.intersection(*({pair.leaf for pair in pairs} for pairs in layers.values()))
    pairs = [pair for pair in layers[selecting.middle(layers)] if pair.leaf in everywhere]
    if len(everywhere) < 2:  # noqa: PLR2004  # Otherwise the whole layer would be missing.
        raise NotApplicable("fewer than two modules have LoRA in every layer")
    draft.drop(pairs[0].keys, "LoRA in every layer")


@fault(
    "one-layer-missing",
    "The adapter of a whole layer is not there: one pipeline stage or one shard did not write its part.",
    layouts=LAYOUTS,
    seen="model",
)
def one_layer_missing(draft: Draft) -> None:
    """Leave out the adapter of the middle layer."""
    layers = selecting.lora_layers(draft, least=3)
    draft.drop([key for pair in layers[selecting.middle(layers)] for key in pair.keys], "LoRA in three layers")


@fault(
    "one-target-missing",
    "The adapters of one target module are in no layer: a conversion did not know its name.",
    layouts=LAYOUTS,
    seen="model",
    reference="https://github.com/black-forest-labs/flux/issues/473",
)
def one_target_missing(draft: Draft) -> None:
    """Leave out all pairs of the last target module."""
    leaf = draft.pairs[-1].leaf
    keys = [key for pair in draft.pairs if pair.leaf == leaf for key in pair.keys]
    if len({pair.leaf for pair in draft.pairs}) == 1:
        raise NotApplicable("it has a single target module")
    draft.drop(keys, "LoRA of two target modules")


@fault(
    "no-lora",
    "The saving hook left the adapter out, to be saved elsewhere: only the wrapped base weights are there.",
    layouts=STATE_DICTS,
    seen="model",
)
def no_lora(draft: Draft) -> None:
    """Leave out every LoRA parameter."""
    _require_no_directory(draft)
    draft.drop(selecting.lora_keys(draft), "LoRA and base weights")


@fault(
    "no-lora-unwrapped",
    "Saved from the base model and not from the PeftModel around it: plain names, and no trace of an adapter.",
    layouts=STATE_DICTS,
    seen="model",
)
def no_lora_unwrapped(draft: Draft) -> None:
    """Leave out LoRA, and PEFT's levels from the keys."""
    _require_no_directory(draft)
    selecting.adapted_weights(draft)
    draft.drop(selecting.lora_keys(draft), "LoRA and base weights")
    draft.rename(lambda key: key.replace("base_model.model.", "", 1).replace(".base_layer.", "."))


@fault(
    "no-tensors",
    "The state dict was filtered twice and came out empty: a file of some hundred bytes, loaded without a complaint.",
    layouts=LAYOUTS,
    seen="file",
    reference="https://github.com/tloen/alpaca-lora/issues/293",
)
def no_tensors(draft: Draft) -> None:
    """Leave out everything."""
    draft.entries.clear()


@fault(
    "one-magnitude-missing",
    "One DoRA magnitude vector was lost: that module keeps the base model's magnitude.",
    layouts=LAYOUTS,
    seen="model",
)
def one_magnitude_missing(draft: Draft) -> None:
    """Leave out the last magnitude vector, of two or more."""
    magnitudes = _magnitudes(draft)
    if len(magnitudes) == 1:
        raise NotApplicable("it holds only one magnitude vector: see dora-lost")
    draft.drop(magnitudes[-1:], "DoRA magnitude vector")


@fault(
    "dora-lost",
    "A converter knew LoRA and not DoRA: the factors are there and all magnitude vectors are gone.",
    layouts=LAYOUTS,
    seen="model",
)
def dora_lost(draft: Draft) -> None:
    """Leave out every magnitude vector."""
    draft.drop(_magnitudes(draft), "DoRA magnitude vector")


@fault(
    "modules-to-save-missing",
    "A module that was trained whole is not in the adapter's file, though its config names it.",
    layouts=ADAPTERS,
    seen="file",
    reference="https://github.com/huggingface/peft/issues/2450",
)
def modules_to_save_missing(draft: Draft) -> None:
    """Leave out the tensors of one module of modules_to_save."""
    for name in draft.config.get("modules_to_save") or []:
        if keys := [key for key, parsed in draft.parsed.items() if parsed.modules[-1:] == (name,)]:
            draft.drop(keys, "module of modules_to_save")
            return
    raise NotApplicable("the file holds no module that modules_to_save names")


@fault(
    "trained-copy-missing",
    "The trained copy of a module of modules_to_save is gone, and its untrained original is there and is loaded.",
    layouts=STATE_DICTS,
    seen="model",
    reference="https://github.com/huggingface/sentence-transformers/issues/3980",
)
def trained_copy_missing(draft: Draft) -> None:
    """Leave out what lies in modules_to_save."""
    copies = [key for key, parsed in draft.parsed.items() if parsed.in_modules_to_save]
    draft.drop(copies, "trained copy in modules_to_save")


@fault(
    "projector-missing",
    "The trained projector lies in a second file that nobody loads: images are noise to the language model.",
    layouts=STATE_DICTS,
    seen="model",
    reference="https://github.com/haotian-liu/LLaVA/issues/808",
)
def projector_missing(draft: Draft) -> None:
    """Leave out the component between vision and language, of a file that holds the base weights too."""
    if _keeps_only_what_was_trained(draft):
        raise NotApplicable("it keeps only what was trained: see trained-projector-missing")
    _drop_bridge(draft)


@fault(
    "trained-projector-missing",
    "The hook that keeps the trained tensors looked for `lora_` alone: the projector's training is lost.",
    layouts=STATE_DICTS,
    seen="manifest",
)
def trained_projector_missing(draft: Draft) -> None:
    """Leave out the component between vision and language, of a file that keeps only what was trained."""
    if not _keeps_only_what_was_trained(draft):
        raise NotApplicable("it holds the base weights too: see projector-missing")
    _drop_bridge(draft)


@fault(
    "biases-missing",
    "The biases were trained with the adapter (bias='all') and are not in its file.",
    layouts=ADAPTERS,
    seen="model",
)
def biases_missing(draft: Draft) -> None:
    """Leave out the biases."""
    if draft.config.get("bias", "none") == "none":
        raise NotApplicable("its config has bias 'none': no bias was trained")
    biases = [key for key, parsed in draft.parsed.items() if parsed.parameter == "bias" and not parsed.is_adapter]
    draft.drop(biases, "bias")


@fault(
    "size-0",
    "DeepSpeed's ZeRO-3 did not gather the parameters before saving: every adapter tensor has size 0.",
    layouts=LAYOUTS,
    seen="file",
    reference="https://github.com/huggingface/peft/issues/1328",
)
def size_0(draft: Draft) -> None:
    """Empty every LoRA tensor."""
    draft.change(selecting.lora_keys(draft), emptied, "LoRA")


@fault(
    "trained-copy-size-0",
    "ZeRO-3 gathered the adapter and not modules_to_save: the trained copy has size 0.",
    layouts=LAYOUTS,
    seen="file",
    reference="https://github.com/huggingface/peft/issues/2450",
)
def trained_copy_size_0(draft: Draft) -> None:
    """Empty what is trained whole."""
    named = set(draft.config.get("modules_to_save") or [])
    copies = [key for key, own in draft.parsed.items() if own.in_modules_to_save or named.intersection(own.modules)]
    draft.change([key for key in copies if not draft.parsed[key].is_lora], emptied, "trained copy in modules_to_save")


def _drop_bridge(draft: Draft) -> None:
    for name, keys in selecting.components(draft, least=2).items():
        if selecting.BRIDGES.search(name):
            draft.drop(keys, "projector")
            return
    raise NotApplicable("none of its components is named like a projector or a resampler")


def _keeps_only_what_was_trained(draft: Draft) -> bool:
    try:
        selecting.adapted_weights(draft)
    except NotApplicable:
        return draft.has_lora
    return False


def _require_no_directory(draft: Draft) -> None:
    if draft.checkpoint.adapter_companion is not None:
        raise NotApplicable(f"the adapter is also in {draft.checkpoint.adapter_companion.path.name}/ next to it")


def _magnitudes(draft: Draft) -> list[str]:
    keys = [key for key, parsed in draft.parsed.items() if parsed.lora == "lora_magnitude_vector"]
    if not keys:
        raise NotApplicable(f"{draft.name} holds no DoRA magnitude vector")
    return keys
