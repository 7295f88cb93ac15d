"""adapter_config.json that is not the one of the training. The weights file stays as it was, byte for byte."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.faults import selecting
from pytest_lora_ckpt.faults.draft import Draft, NotApplicable, require
from pytest_lora_ckpt.faults.fault import ADAPTERS, fault
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG

if TYPE_CHECKING:
    from pathlib import Path


@fault(ADAPTERS, "manifest")
def alpha_changed(draft: Draft) -> None:
    """lora_alpha was set to another value after training: every tensor loads, at another strength."""
    alpha = _number(draft, "lora_alpha")
    draft.config["lora_alpha"] = alpha // 8 if alpha >= 8 and alpha % 8 == 0 else alpha / 8  # noqa: PLR2004


@fault(ADAPTERS, "manifest")
def alpha_pattern_lost(draft: Draft) -> None:
    """alpha_pattern got lost when the config was written by hand: some modules have another strength."""
    require(draft.config.get("alpha_pattern"), "its config has no alpha_pattern")
    draft.config["alpha_pattern"] = {}


@fault(ADAPTERS, "manifest")
def rslora_changed(draft: Draft) -> None:
    """use_rslora was lost, or set: the strength is alpha / r where it was alpha / sqrt(r), or the other way round."""
    draft.config["use_rslora"] = not draft.config.get("use_rslora", False)


@fault(ADAPTERS, "manifest")
def other_base_name(draft: Draft) -> None:
    """The config names another base model: PEFT and hubs fetch it, and the names and shapes fit."""
    name = draft.config.get("base_model_name_or_path")
    draft.config["base_model_name_or_path"] = f"{name or 'base'}-instruct"


@fault(ADAPTERS, "file")
def dora_flag_lost(draft: Draft) -> None:
    """use_dora was lost (the config of an older PEFT): the magnitude vectors are in the file and are not loaded."""
    require(draft.config.get("use_dora"), "its config has no use_dora")
    draft.config["use_dora"] = False


@fault(ADAPTERS, "file")
def dora_flag_added(draft: Draft) -> None:
    """use_dora was set for an adapter trained without it: the magnitudes are made up from the base weights."""
    require(not draft.config.get("use_dora"), "its config has use_dora already")
    draft.config["use_dora"] = True


@fault(ADAPTERS, "file", "https://github.com/huggingface/peft/issues/554")
def rank_in_config(draft: Draft) -> None:
    """The config is of a run with another rank: loading stops, or ignores what does not fit."""
    draft.config["r"] = int(_number(draft, "r")) * 2


@fault(ADAPTERS, "file")
def rank_pattern_lost(draft: Draft) -> None:
    """rank_pattern got lost: the modules that have a rank of their own do not fit, or are ignored."""
    require(draft.config.get("rank_pattern"), "its config has no rank_pattern")
    draft.config["rank_pattern"] = {}


@fault(ADAPTERS, "file")
def targets_narrowed(draft: Draft) -> None:
    """target_modules names fewer modules than were trained: the adapters of the others are dropped without a word."""
    targets = _targets(draft)
    require(len(targets) > 1, "its target_modules names only one module")
    used = [name for name in targets if any(pair.module.endswith(name) for pair in draft.pairs)]
    require(used, "its target_modules names no adapted module")
    draft.config["target_modules"] = [name for name in targets if name != used[-1]]


@fault(ADAPTERS, "file")
def targets_widened(draft: Draft) -> None:
    """target_modules names a module that was not trained: PEFT makes an adapter for it that nothing fills."""
    targets = _targets(draft)
    require("lm_head" not in targets, "its target_modules names lm_head already")
    draft.config["target_modules"] = [*targets, "lm_head"]


@fault(ADAPTERS, "file")
def layers_narrowed(draft: Draft) -> None:
    """layers_to_transform is that of another experiment: the adapters of all other layers are dropped."""
    numbers = list(selecting.lora_layers(draft, least=2))
    require(draft.config.get("layers_to_transform") is None, "its config has layers_to_transform already")
    # PEFT takes layers_to_transform with a list of names only (`LoraConfig.__post_init__`).
    _targets(draft)
    draft.config["layers_to_transform"] = numbers[:1]


@fault(ADAPTERS, "file", "https://github.com/unslothai/unsloth/issues/918")
def modules_to_save_not_in_config(draft: Draft) -> None:
    """A head was trained and saved, and modules_to_save does not name it: it is written over the base's or dropped."""
    require(draft.config.get("modules_to_save"), "its config has no modules_to_save")
    draft.config["modules_to_save"] = None


@fault(ADAPTERS, "file")
def modules_to_save_added(draft: Draft) -> None:
    """modules_to_save names a module that was not trained: its tensors are sought and not found."""
    saved = draft.config.get("modules_to_save") or []
    held = {segment for key in draft.keys for segment in key.split(".")}
    name = next((name for name in ("lm_head", "score", "embed_tokens") if name not in held), None)
    require(name, "it holds every module that could be named")
    draft.config["modules_to_save"] = [*saved, name]


@fault(ADAPTERS, "file")
def bias_flag_lost(draft: Draft) -> None:
    """The config says bias 'none' and the file holds trained biases: they are written over the base's or dropped."""
    require(draft.config.get("bias", "none") != "none", "its config has bias 'none'")
    draft.config["bias"] = "none"


@fault(ADAPTERS, "file")
def peft_type_changed(draft: Draft) -> None:
    """The config is of an adapter of another kind: its parameters have other names than those in the file."""
    require(draft.config.get("peft_type") == "LORA", "its config is not for LoRA")
    draft.config["peft_type"] = "LOHA"


@fault(ADAPTERS, "file")
def config_missing(draft: Draft) -> None:
    """Only the weights file was copied: adapter_config.json is missing."""
    draft.patches.append(lambda weights: (weights.parent / ADAPTER_CONFIG).unlink())


@fault(ADAPTERS, "file")
def config_truncated(draft: Draft) -> None:
    """The disk was full when adapter_config.json was written: the JSON stops in the middle."""

    def halve(weights: Path) -> None:
        path = weights.parent / ADAPTER_CONFIG
        os.truncate(path, path.stat().st_size // 2)

    draft.patches.append(halve)


def _number(draft: Draft, name: str) -> float:
    value: Any = draft.config.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise NotApplicable(f"its config has no number in {name}")
    return value


def _targets(draft: Draft) -> list[str]:
    targets = draft.config.get("target_modules")
    if not isinstance(targets, list) or not targets:
        raise NotApplicable("its target_modules is not a list of names")
    return targets
