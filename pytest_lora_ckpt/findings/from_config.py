"""adapter_config.json against the tensors: what PEFT would drop, or apply with the wrong scale, without a word."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.findings.causes import finding
from pytest_lora_ckpt.findings.from_intruders import is_embedding
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.pairs import LoraPair, lora_pairs
from pytest_lora_ckpt.lora.targets import is_left_out, is_saved, is_target, matches, modules_around

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet


# For these tasks PEFT itself adds `classifier` and `score` to modules_to_save, of which a model has one
# (`PeftModelForSequenceClassification` and `PeftModelForTokenClassification` in peft/peft_model.py).
_HEAD_TASKS = ("SEQ_CLS", "TOKEN_CLS")
_HEADS = frozenset({"classifier", "score"})

# Kinds of adapters none of whose parameters is called lora_A (`adapter_layer_names` in peft/tuners/*/layer.py).
_OTHER_KINDS = frozenset(
    {"LOHA", "LOKR", "IA3", "OFT", "BOFT", "HRA", "VERA", "FOURIERFT", "VBLORA", "BONE", "MISS", "RANDLORA", "SHIRA"}
    | {"C3A", "ROAD", "LN_TUNING", "TRAINABLE_TOKENS", "PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"}
)


def is_lora(config: Mapping[str, Any] | None) -> bool:
    """Tell whether a PEFT config is one of LoRA, or says nothing of its kind.

    Example:
        >>> is_lora({"peft_type": "LORA"}), is_lora({"peft_type": "IA3"}), is_lora(None)
        (True, False, True)
    """
    return (config or {}).get("peft_type") in {"LORA", None}


def config_findings(config: Mapping[str, Any], keys: KeySet) -> list[Finding]:
    """Hold the fields of a PEFT LoRA config against the tensors of its adapter.

    Checked: `peft_type`, `r` with `rank_pattern`, `use_dora`, `target_modules` with `exclude_modules` and
    `layers_to_transform`, `modules_to_save`, `bias` where it is `"none"`. What a state dict cannot show (`lora_alpha`,
    `use_rslora`) is not; nor whether biases are lost, for a base model without any (Llama) has none to save.

    Args:
        config: The content of `adapter_config.json`.
        keys: The adapter's keys.
    """
    pairs = [pair for pair in lora_pairs(keys) if pair.down or pair.up]
    if not is_lora(config):
        kind = config.get("peft_type")
        if kind in _OTHER_KINDS and pairs:
            told = f"adapter_config.json has peft_type {kind!r}, and the file holds LoRA ({len(pairs)} modules)."
            return [finding("config-type-wrong", told, [key for pair in pairs for key in pair.keys])]
        return [finding("config-type", f"adapter_config.json has peft_type {kind!r}: its fields were not checked.")]
    return [
        *_rank(config, pairs),
        *_dora(config, keys),
        *_targets(config, pairs),
        *_modules_to_save(config, keys),
        *_bias(config, keys),
    ]


def _rank(config: Mapping[str, Any], pairs: list[LoraPair]) -> Iterator[Finding]:
    rank, pattern = config.get("r"), config.get("rank_pattern") or {}
    if not isinstance(rank, int):
        return
    # For a parameter that stacks experts, PEFT stacks their factors: r rows for each expert.
    stacked = [str(name).rpartition(".")[0] for name in config.get("target_parameters") or []]
    odd = [
        pair
        for pair in pairs
        if pair.rank
        and pair.rank != _expected_rank(pair.module, rank, pattern)
        and not (pair.rank % max(rank, 1) == 0 and any(is_target(pair.module, name) for name in stacked))
    ]
    if odd:
        found = ", ".join(f"{value} ({count}x)" for value, count in Counter(p.rank for p in odd).most_common())
        yield finding(
            "config-rank",
            f"adapter_config.json has r = {rank}, and {len(odd)} of {len(pairs)} adapted modules have rank {found}.",
            [key for pair in odd for key in pair.keys],
        )


def _expected_rank(module: str, rank: int, pattern: Mapping[str, int]) -> int:
    """Apply rank_pattern as PEFT does: a name, or a regular expression, that ends the module's path."""
    for name, value in pattern.items():
        if matches(rf"(.*\.)?({name})", module):
            return value
    return rank


def _dora(config: Mapping[str, Any], keys: KeySet) -> Iterator[Finding]:
    magnitudes = [key for key in keys if parse_key(key).lora == "lora_magnitude_vector"]
    if magnitudes and config.get("use_dora") is False:
        yield finding(
            "config-dora",
            f"adapter_config.json has use_dora false, and the file holds {len(magnitudes)} DoRA magnitude vectors.",
            magnitudes,
        )
    if not magnitudes and config.get("use_dora"):
        yield finding("config-dora", "adapter_config.json has use_dora true, and the file has no magnitude vector.")


def _targets(config: Mapping[str, Any], pairs: list[LoraPair]) -> Iterator[Finding]:
    yield from _left_out(config, pairs)
    targets = config.get("target_modules")
    if targets is None or targets == "all-linear" or config.get("target_parameters"):
        return
    if isinstance(targets, str):
        outside = [pair for pair in pairs if not matches(targets, pair.module)]
        unused: list[str] = []
    else:
        names = [str(name) for name in targets]
        outside = [pair for pair in pairs if not any(is_target(pair.module, name) for name in names)]
        unused = [name for name in names if not any(is_target(pair.module, name) for pair in pairs)]
    if outside:
        yield finding(
            "config-targets",
            f"target_modules in adapter_config.json does not name {len(outside)} of {len(pairs)} adapted modules, "
            f"such as {outside[0].module}.",
            [key for pair in outside for key in pair.keys],
        )
    if unused and pairs:
        yield finding(
            "config-targets",
            f"target_modules names {', '.join(sorted(unused))}, and the file has no adapter for it.",
        )


def _left_out(config: Mapping[str, Any], pairs: list[LoraPair]) -> Iterator[Finding]:
    # The modules around stacked experts are adapted for their parameters, whatever these fields say.
    if config.get("target_parameters"):
        return
    by_field: dict[str, list[LoraPair]] = {}
    for pair in pairs:
        if name := is_left_out(pair.module, config):
            by_field.setdefault(name, []).append(pair)
    for name, left in by_field.items():
        yield finding(
            "config-targets",
            f"{name} in adapter_config.json leaves out {len(left)} of {len(pairs)} adapted modules, "
            f"such as {left[0].module}.",
            [key for pair in left for key in pair.keys],
        )


def _modules_to_save(config: Mapping[str, Any], keys: KeySet) -> Iterator[Finding]:
    held = {path for key in keys if not parse_key(key).is_lora for path in modules_around(key)}
    names = [str(name) for name in config.get("modules_to_save") or []]
    lacking = [name for name in names if not any(path.endswith(name) for path in held)]
    if config.get("task_type") in _HEAD_TASKS and any(path.endswith(tuple(_HEADS)) for path in held):
        lacking = [name for name in lacking if name not in _HEADS]
    if lacking:
        yield finding(
            "config-modules-to-save",
            f"modules_to_save in adapter_config.json names {', '.join(lacking)}, and the file does not hold it.",
        )


def _bias(config: Mapping[str, Any], keys: KeySet) -> Iterator[Finding]:
    biases = [key for key in keys if key.endswith(".bias") and not parse_key(key).is_adapter]
    saved = [str(name) for name in config.get("modules_to_save") or []]
    # PEFT saves a whole head with `save_embedding_layers`, its bias included.
    biases = [key for key in biases if not is_saved(key, saved) and not is_embedding(key)]
    if config.get("bias") == "none" and biases:
        yield finding(
            "config-bias",
            f"adapter_config.json has bias 'none', and the file holds {len(biases)} trained biases.",
            biases,
        )
