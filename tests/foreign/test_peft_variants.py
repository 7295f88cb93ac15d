"""LoRA with PEFT's less common settings: what the config says was meant."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign.running import VOCABULARY, Case, check, llama, rows, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.foreign

WEIGHTS = "adapter_model.safetensors"
WRONG_TODAY: dict[str, str] = {}
LOST = (
    "earlier-value",
    "lost-weights",
    "still-initial",
    "values-differ",
    "trained-weights-missing",
    "lora-slot-empty",
    "adapter-not-loaded",
)


def qwen2() -> Any:
    """Return a tiny Qwen2, whose attention has biases."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, tie_word_embeddings=False)).eval()


def qwen3_moe() -> Any:
    """Return a tiny mixture of experts, whose experts are stacked in one tensor."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "moe_intermediate_size": 24}
    sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "initializer_range": 0.2}
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**sizes, tie_word_embeddings=False)).eval()


def tied_llama() -> Any:
    return llama(tie_word_embeddings=True)


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def loads(base: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda path: peft.PeftModel.from_pretrained(base(), str(path)).eval()


def merges(base: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda path: loads(base)(path).merge_and_unload().eval()


def ignoring(*settings: str, base: Callable[[], Any] = llama) -> Callable[[Path], Any]:
    """Load with a config that lacks what these settings say: PEFT drops the keys that have no place, with a warning."""

    def load(path: Path) -> Any:
        config = peft.PeftConfig.from_pretrained(str(path))
        for name in settings:
            setattr(config, name, getattr(peft.LoraConfig(), name))
        return peft.PeftModel.from_pretrained(base(), str(path), config=config).eval()

    return load


def factors_only(path: Path) -> Any:
    """Load the factors, and nothing of what was trained whole."""
    config = peft.PeftConfig.from_pretrained(str(path))
    config.modules_to_save = None
    model = peft.get_peft_model(llama(), config)
    factors = {key: value for key, value in load_file(path / WEIGHTS).items() if "lora_" in key}
    peft.set_peft_model_state_dict(model, factors)
    return model.eval()


def without(*parts: str) -> Callable[[Path], None]:
    """Drop all keys of the file that hold one of these."""

    def drop(path: Path) -> None:
        weights = load_file(path / WEIGHTS)
        kept = {key: value for key, value in weights.items() if not any(part in key for part in parts)}
        assert 0 < len(kept) < len(weights)
        save_file(kept, path / WEIGHTS, metadata={"format": "pt"})

    return drop


def variant(name: str, base: Callable[[], Any] = llama, **config: Any) -> Case:
    """Return the healthy case of one setting, loaded by PEFT itself."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | config

    def trained() -> Any:
        torch.manual_seed(3)
        return train(peft.get_peft_model(base(), peft.LoraConfig(**settings)))

    return Case(name=name, trained=trained, save=save, load=loads(base), base=base)


def merged(case: Case) -> Case:
    """Return the same, merged after loading."""
    assert case.base
    return replace(case, name=f"{case.name}-merged", load=merges(case.base))


# --- Initialisations that take their start out of the base weights.


def converted(model: Any, folder: Path) -> Path:
    """As PEFT documents it: the start is subtracted, so that the file serves the original base."""
    torch.manual_seed(3)
    start = peft.get_peft_model(llama(), model.peft_config["default"])
    start.save_pretrained(folder / "start")
    model.save_pretrained(folder / "saved", path_initial_model_for_weight_conversion=str(folder / "start"))
    return folder / "saved"


def claims_to_be_raw(path: Path) -> None:
    """The config of a converted adapter was replaced by that of training: PEFT moves the base once more."""
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))


WRONG_BASE = ("base-overwritten", "base-not-moved", "other-base", "values-differ", "config-differs", "config-init")
PISSA = variant("pissa", init_lora_weights="pissa")
OLORA = variant("olora", init_lora_weights="olora")
MOVED = [
    PISSA,
    merged(PISSA),
    replace(PISSA, name="pissa-converted", save=converted),
    merged(replace(PISSA, name="pissa-converted", save=converted)),
    replace(PISSA, name="pissa-on-the-original-base", load=ignoring("init_lora_weights"), causes=WRONG_BASE),
    replace(PISSA, name="pissa-converted-on-a-moved-base", save=converted, damage=claims_to_be_raw, causes=WRONG_BASE),
    OLORA,
    merged(OLORA),
    replace(OLORA, name="olora-on-the-original-base", load=ignoring("init_lora_weights"), causes=WRONG_BASE),
]

# --- What is adapted, and what is trained whole.

REPLICATED = variant(
    "layer-replication", layer_replication=[[0, 1], [0, 2], [1, 2]], target_modules=["q_proj", "down_proj"]
)
TOKENS = variant("trained-tokens", trainable_token_indices=[5, 7])
EXPERTS = variant("stacked-experts", qwen3_moe, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
HEADS = variant("trained-heads", modules_to_save=["embed_tokens", "lm_head"])
# Trained apart from the head, which stayed as it was; without its setting PEFT writes into the tensor that both share.
TIED_ANEW = ("base-overwritten", "config-modules-to-save", "tied-tensors-disagree")
TIED = variant("trained-tied-heads", tied_llama, modules_to_save=["embed_tokens"])
BIASED = variant("lora-bias", qwen2, lora_bias=True)
ABSENT = variant("targets-that-this-model-lacks", target_modules=["q_proj", "v_proj", "c_attn", "query_key_value"])
PATTERNS = variant("rank-pattern", rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 32})
ALORA = variant("alora", alora_invocation_tokens=[7, 8])


def ignores_alpha_pattern(path: Path) -> Any:
    model = loads(llama)(path)
    for name, module in model.named_modules():
        if name.endswith("v_proj"):
            module.scaling["default"] = 2.0
    return model


TARGETED = [
    REPLICATED,
    # PEFT merges into layers that are one tensor: each of them gets the update of all.
    replace(merged(REPLICATED), causes=("merged-twice", "values-differ", "scaled-values", "copies-share-weights")),
    replace(
        REPLICATED,
        name="layer-replication-last-layer-gone",
        damage=without("layers.3."),
        causes=(*LOST, "missing-layers"),
    ),
    TOKENS,
    merged(TOKENS),
    replace(
        TOKENS,
        name="trained-tokens-dropped",
        load=ignoring("trainable_token_indices"),
        causes=(*LOST, "target-mismatch"),
    ),
    EXPERTS,
    merged(EXPERTS),
    replace(
        EXPERTS,
        name="stacked-experts-gone",
        damage=without("mlp.experts"),
        causes=(*LOST, "config-targets", "target-mismatch"),
    ),
    HEADS,
    merged(HEADS),
    replace(HEADS, name="trained-heads-dropped", load=factors_only, causes=LOST),
    TIED,
    merged(TIED),
    replace(
        TIED,
        name="trained-embedding-tied-to-the-head",
        load=ignoring("modules_to_save", base=tied_llama),
        causes=TIED_ANEW,
    ),
    BIASED,
    merged(BIASED),
    replace(
        BIASED,
        name="lora-bias-gone",
        damage=without("lora_B.bias"),
        causes=(*LOST, "config-bias", "lora-pair-incomplete"),
    ),
    PATTERNS,
    merged(PATTERNS),
    replace(
        PATTERNS, name="alpha-pattern-ignored", load=ignores_alpha_pattern, causes=("scaling-differs", "scaled-values")
    ),
    ABSENT,
    merged(ABSENT),
    ALORA,
    replace(ALORA, name="alora-inputs-without-invocation", inputs=lambda: {"input_ids": torch.tensor([[1, 2, 3, 4]])}),
    replace(
        ALORA,
        name="alora-never-loaded",
        load=lambda path: peft.get_peft_model(llama(), peft.PeftConfig.from_pretrained(str(path))),
        causes=LOST,
    ),
]

# --- Slots that adapters are swapped into.


def slot(path: Path) -> Any:
    """Return a model with a slot of rank 8, in which another adapter has been."""
    from peft.utils.hotswap import prepare_model_for_compiled_hotswap

    torch.manual_seed(9)
    model = train(peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"])), seed=9)
    prepare_model_for_compiled_hotswap(model, target_rank=8, config=model.peft_config["default"])
    return model.eval()


def swaps(path: Path) -> Any:
    from peft.utils.hotswap import hotswap_adapter

    model = slot(path)
    hotswap_adapter(model, str(path), adapter_name="default")
    return model.eval()


SLOTS = [
    variant("hotswapped"),
    replace(variant("hotswapped"), name="hotswapped-into-a-padded-slot", load=swaps),
    replace(variant("hotswapped"), name="never-swapped-in", load=slot, causes=LOST),
]

# --- A second adapter, in a sub-directory.


def two_trained() -> Any:
    model = variant("first").trained()
    model.add_adapter("second", peft.LoraConfig(r=2, lora_alpha=2, target_modules=["k_proj", "up_proj"]))
    model.base_model.set_adapter(["default", "second"])
    return train(model, seed=5)


def loads_both(path: Path) -> Any:
    model = loads(llama)(path)
    model.load_adapter(str(path / "second"), "second")
    model.base_model.set_adapter(["default", "second"])
    return model.eval()


def forgives_the_second(path: Path) -> Any:
    try:
        return loads_both(path)
    except Exception:  # noqa: BLE001 - as loaders do
        return loads(llama)(path)


def second_never_loaded(path: Path) -> Any:
    model = loads(llama)(path)
    model.add_adapter("second", peft.PeftConfig.from_pretrained(str(path / "second")))
    model.base_model.set_adapter(["default", "second"])
    return model.eval()


def truncate_second(path: Path) -> None:
    weights = path / "second" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])


def age_second(path: Path) -> None:
    """The sub-directory is of an earlier run."""
    weights = {key: value * 0.5 for key, value in load_file(path / "second" / WEIGHTS).items()}
    save_file(weights, path / "second" / WEIGHTS, metadata={"format": "pt"})


TWO = Case(name="two-adapters", trained=two_trained, save=save, load=loads_both, base=llama)
SECOND = [
    TWO,
    replace(TWO, name="two-adapters-with-manifest", manifest=True),
    replace(TWO, name="two-adapters-merged", load=lambda path: loads_both(path).merge_and_unload()),
    replace(
        TWO,
        name="two-adapters-merged-without-base",
        load=lambda path: loads_both(path).merge_and_unload(),
        base=None,
        proved=False,
    ),
    replace(TWO, name="second-never-loaded", load=second_never_loaded, causes=LOST),
    replace(
        TWO,
        name="second-truncated",
        load=forgives_the_second,
        damage=truncate_second,
        causes=(*LOST, "unreadable", "companion-unreadable"),
    ),
    replace(
        TWO,
        name="second-stale",
        manifest=True,
        damage=age_second,
        causes=(*LOST, "stale-adapter-directory", "other-step", "earlier-value"),
    ),
]


# --- Whatever the config says was trained: nothing of it loaded, all of it merged, and part of it gone.


def attached_anew(base: Callable[[], Any]) -> Callable[[Path], Any]:
    """Put the adapter on as before training, and load nothing into it."""
    return lambda path: peft.get_peft_model(base(), peft.PeftConfig.from_pretrained(str(path))).eval()


def ways(name: str, base: Callable[[], Any] = llama, *, merges_well: bool = True, **config: Any) -> list[Case]:
    healthy = variant(name, base, **config)
    in_weights = replace(merged(healthy), base=base)
    gone = "layers.1.self_attn." if base is qwen2 else ".layers.1."
    return [
        healthy,
        replace(healthy, name=f"{name}-without-base", base=None),
        *([in_weights, replace(in_weights, name=f"{name}-merged-without-base", base=None, proved=False)] * merges_well),
        replace(healthy, name=f"{name}-attached-anew", load=attached_anew(base), causes=("still-initial",), alone=True),
        replace(
            healthy, name=f"{name}-base-returned", load=lambda _: base(), causes=("adapter-not-loaded",), alone=True
        ),
        replace(healthy, name=f"{name}-a-layer-gone", damage=without(gone), causes=("lora-slot-empty",), alone=True),
    ]


def in_int8() -> Any:
    """Return the tiny Llama with torchao's codes for weights."""
    quantization = pytest.importorskip("torchao.quantization")
    model = llama()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def classifier(seed: int = 0) -> Any:
    """Return a tiny classifier, whose head is random in each base model."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.2}
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**sizes)).eval()
    torch.manual_seed(seed)
    model.score.reset_parameters()
    return model


CLASSIFIER = replace(variant("classifier", classifier, task_type="SEQ_CLS"), load=loads(lambda: classifier(seed=1)))
QUANTISED = variant("int8", in_int8)
WAYS = [
    CLASSIFIER,
    replace(CLASSIFIER, name="classifier-merged", load=merges(lambda: classifier(seed=1))),
    QUANTISED,
    replace(QUANTISED, name="int8-and-the-base-before", base=llama),
    replace(QUANTISED, name="int8-without-base", base=None),
    replace(QUANTISED, name="int8-attached-anew", load=attached_anew(in_int8), causes=("still-initial",), alone=True),
    replace(variant("no-lora-B"), damage=without("lora_B"), causes=("lora-pair-incomplete",), alone=True),
    replace(PISSA, name="pissa-attached-anew", load=attached_anew(llama), causes=LOST, alone=True),
    *ways("dora", use_dora=True),
    *ways("dora-of-embedding", use_dora=True, target_modules=["embed_tokens", "q_proj"]),
    *ways("rslora", use_rslora=True),
    *ways("all-linear", target_modules="all-linear"),
    *ways("head-adapted", target_modules=["lm_head", "q_proj"]),
    *ways("head-saved", modules_to_save=["lm_head"]),
    *ways("embeddings-saved", modules_to_save=["embed_tokens", "lm_head"]),
    *ways("tied-embedding-saved", tied_llama, modules_to_save=["embed_tokens"]),
    *ways("tokens", trainable_token_indices=[1, 2, 5]),
    *ways("tokens-and-head", trainable_token_indices={"embed_tokens": [1, 2]}, modules_to_save=["lm_head"]),
    *ways("tokens-of-tied", tied_llama, trainable_token_indices=[1, 2]),
    *ways("tied-and-both-saved", tied_llama, modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=True),
    *ways(
        "experts-of-another-rank",
        qwen3_moe,
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.down_proj"],
        rank_pattern={"mlp.experts.down_proj": 2},
    ),
    *ways("all-biases", qwen2, bias="all"),
    *ways("own-biases", qwen2, bias="lora_only"),
    *ways("lora-bias", lora_bias=True, merges_well=False),
]


@pytest.mark.parametrize("case", rows([*MOVED, *TARGETED, *SLOTS, *SECOND, *WAYS], WRONG_TODAY))
def test_peft_variant(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
