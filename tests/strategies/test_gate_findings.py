"""What the long runs of the property tests found: false alarms on healthy checkpoints, and faults that nobody saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.strategies import CheckpointRecipe, FaultyCheckpoint, HealthyCheckpoint
from tests.helpers.gate_means import MEANS, failures, missed

if TYPE_CHECKING:
    from pathlib import Path

HEALTHY = {
    "hyper-parameters that do not tell of rsLoRA": CheckpointRecipe(
        layout="lightning", width=6, vision=True, rank=4, rslora=True, wrappers=("_orig_mod",), seed=23411
    ),
    "hyper-parameters that do not tell of rsLoRA, and lora_weights/ does": CheckpointRecipe(
        layout="lightning", width=8, targets=("up_proj", "v_proj"), rank=2, rslora=True, beside="copy", seed=2633
    ),
    "hyper-parameters that do not tell of rank_pattern": CheckpointRecipe(
        layout="lightning", targets=("o_proj", "q_proj"), alpha=1, ranks=(("o_proj", 2),), dtype="bfloat16"
    ),
    "hyper-parameters that do not tell of alpha_pattern": CheckpointRecipe(
        layout="lightning", targets=("q_proj", "v_proj"), alpha=1, alphas=(("q_proj", 2),)
    ),
    "the first and the last of three layers, meant": CheckpointRecipe(
        layout="safetensors", layers=3, targets=("up_proj",), only_layers=(0, 2), seed=1271
    ),
    "rows for new words, drawn anew by each program, under trained copies": CheckpointRecipe(
        modules_to_save=("embed_tokens", "lm_head"), new_words=1
    ),
    "two adapters, of which the first is not called default": CheckpointRecipe(
        layers=2, width=6, targets=("gate_proj", "v_proj"), adapter_name="policy", second=True, seed=1
    ),
    "two adapters, merged in place": CheckpointRecipe(
        layers=2, width=6, targets=("gate_proj", "v_proj"), second=True, merged="in_place", seed=1
    ),
    "two adapters, merged in place in some modules": CheckpointRecipe(
        layers=2,
        width=6,
        targets=("up_proj", "v_proj"),
        rank=3,
        alphas=(("v_proj", 10),),
        second=True,
        merged="in_part",
    ),
    "stacked experts, merged in place": CheckpointRecipe(
        targets=("k_proj",), rank=2, adapter_name="policy", dtype="bfloat16", experts=3, merged="in_part", seed=3678
    ),
    "originals of what was trained whole, which a merge leaves without a place": CheckpointRecipe(
        layout="torch", vision=True, targets=("k_proj",), alpha=11, modules_to_save=("norm",), merged="whole"
    ),
    "the adapter next to the file merged into the weights in it": CheckpointRecipe(
        layout="torch", width=8, targets=("down_proj", "k_proj"), rank=3, alpha=15, beside="only", merged="whole"
    ),
    "the same, and an original in the file where the copy is next to it": CheckpointRecipe(
        layout="torch", width=6, rank=2, modules_to_save=("norm",), beside="only", merged="whole"
    ),
    "trained norms next to adapted experts and fused projections, merged": CheckpointRecipe(
        targets=("k_proj", "o_proj"),
        rank=2,
        modules_to_save=("norm",),
        companion="value_head.safetensors",
        experts=2,
        merged="fused",
        seed=5137,
    ),
    "one trained module, below two prefixes, in a merged model": CheckpointRecipe(
        layout="torch", vision=True, wrappers=("model",), unwrapped=True, trained_only=True, merged="whole"
    ),
    "an embedding trained next to DoRA, all below new prefixes, merged": CheckpointRecipe(
        layers=2,
        width=6,
        targets=("k_proj", "v_proj", "up_proj", "q_proj"),
        rank=4,
        alpha=6,
        dora=True,
        ranks=(("up_proj", 3),),
        only_layers=(0,),
        modules_to_save=("embed_tokens",),
        adapter_name="1",
        dtype="bfloat16",
        companion="value_head.safetensors",
        merged="whole",
        seed=3965,
    ),
    "an embedding with DoRA, merged": CheckpointRecipe(
        width=6, targets=("v_proj", "embed_tokens"), rank=2, dora=True, merged="whole", seed=208
    ),
    "PiSSA in each part of a fused projection": CheckpointRecipe(
        width=8,
        biases=True,
        targets=("v_proj", "down_proj", "k_proj", "q_proj"),
        by_pattern=True,
        alpha=8,
        bias="all",
        ranks=(("q_proj", 2),),
        alphas=(("q_proj", 1),),
        adapter_name="policy",
        dtype="float16",
        older=True,
        base_name="tiny/base",
        companion="value_head.safetensors",
        start="pissa",
        merged="fused",
        seed=61867,
    ),
    "PiSSA in some parts of a fused projection": CheckpointRecipe(
        targets=("v_proj", "q_proj"), start="pissa", merged="fused", seed=1
    ),
    "OLoRA in one part of a fused projection": CheckpointRecipe(
        targets=("k_proj",), start="olora", merged="fused", seed=3
    ),
    "a small update with DoRA, merged in half precision": CheckpointRecipe(
        rank=3,
        dora=True,
        modules_to_save=("embed_tokens", "lm_head"),
        dtype="bfloat16",
        companion="value_head.safetensors",
        new_words=1,
        merged="whole",
    ),
    "a trained bias in some rows of a fused one": CheckpointRecipe(biases=True, bias="lora_only", merged="fused"),
    "all biases, those of fused projections among them": CheckpointRecipe(
        targets=("k_proj", "o_proj"), biases=True, bias="all", merged="fused"
    ),
    "merged with an alpha_pattern, and no config that says so": CheckpointRecipe(
        layout="torch", layers=2, targets=("up_proj", "down_proj"), alpha=14, alphas=(("down_proj", 5),), merged="whole"
    ),
}


@pytest.mark.parametrize("means", MEANS)
@pytest.mark.parametrize("recipe", HEALTHY.values(), ids=HEALTHY)
def test_no_false_alarm(recipe: CheckpointRecipe, means: str, tmp_path: Path) -> None:
    assert not failures(HealthyCheckpoint.write(recipe, tmp_path), means)


FAULTY = {
    "an adapter cast to half its bits, and cast back by PEFT": (
        "dtype-changed",
        CheckpointRecipe(targets=("v_proj", "o_proj")),
    ),
    "a magnitude lost where no other layer has its like": (
        "one-magnitude-missing",
        CheckpointRecipe(layout="lightning", targets=("v_proj", "q_proj"), dora=True),
    ),
    "the name of the adapter in the keys, which PEFT takes": ("adapter-name-in-keys", CheckpointRecipe(layers=2)),
    "a wrapper's prefix lost that the loader takes off anyway": (
        "outer-prefix-lost",
        CheckpointRecipe(layout="safetensors", layers=2, targets=("k_proj",), wrappers=("module",), unwrapped=True),
    ),
    "a trained head that no config names": (
        "modules-to-save-not-in-config",
        CheckpointRecipe(layers=2, modules_to_save=("embed_tokens",), seed=20624),
    ),
    "no bias where the config trains them": ("biases-missing", CheckpointRecipe(biases=True, bias="lora_only")),
    "factors exchanged where every adapted module is square": (
        "factors-exchanged",
        CheckpointRecipe(layout="torch", layers=2, width=8, rank=2, targets=("q_proj", "v_proj")),
    ),
    "layers repeated at rank 2, the least that can be told apart": (
        "layers-repeated",
        CheckpointRecipe(layout="safetensors", layers=2, width=8, rank=2),
    ),
    "one module missing below a wrapper": (
        "one-module-missing",
        CheckpointRecipe(layout="safetensors", layers=4, targets=("v_proj", "down_proj"), wrappers=("module",)),
    ),
}


@pytest.mark.parametrize("means", MEANS)
@pytest.mark.parametrize(("fault", "recipe"), FAULTY.values(), ids=FAULTY)
def test_no_fault_is_missed(fault: str, recipe: CheckpointRecipe, means: str, tmp_path: Path) -> None:
    assert not missed(FaultyCheckpoint.write(HealthyCheckpoint.write(recipe, tmp_path), fault), means)


# A config that names targets or layers by a rule of its own, and a name that others end with: the file alone is silent.
UNSEEN_IN_THE_FILE = {
    "one module missing where target_modules is a pattern": (
        "one-module-missing",
        CheckpointRecipe(layers=3, targets=("v_proj", "o_proj", "q_proj"), by_pattern=True),
    ),
    "one module missing where layers_to_transform names its layer": (
        "one-module-missing",
        CheckpointRecipe(layers=3, targets=("v_proj", "down_proj"), only_layers=(0, 1, 2)),
    ),
    "a norm missing that was trained whole, beside other norms": (
        "modules-to-save-missing",
        CheckpointRecipe(modules_to_save=("norm",)),
    ),
}


@pytest.mark.parametrize("means", ["model", "loader", "manifest"])
@pytest.mark.parametrize(("fault", "recipe"), UNSEEN_IN_THE_FILE.values(), ids=UNSEEN_IN_THE_FILE)
def test_what_the_file_does_not_show_the_model_does(
    fault: str, recipe: CheckpointRecipe, means: str, tmp_path: Path
) -> None:
    assert not missed(FaultyCheckpoint.write(HealthyCheckpoint.write(recipe, tmp_path), fault), means)
