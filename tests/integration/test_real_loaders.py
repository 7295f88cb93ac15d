"""Every loader that people use, on a healthy checkpoint: no check fails, and all that can be made is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel, PeftModelForSequenceClassification

from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs
from tests.helpers.lightning_world import Vlm, resume, save_lightning
from tests.helpers.loading_world import PICTURES, Audit, Pictures, adapt, audit, llama, quietly, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Case = Callable[[Path], Audit]

ALWAYS = frozenset({"stage", "manifest"})
"""Skipped where nobody asked for a stage, or wrote a manifest."""

CASES: dict[str, tuple[Case, frozenset[str]]] = {}


def healthy(*skipped: str) -> Callable[[Case], Case]:
    """Enter a case, with the checks that can't be made in it."""

    def enter(case: Case) -> Case:
        CASES[case.__name__] = (case, ALWAYS | frozenset(skipped))
        return case

    return enter


# PEFT


@healthy()
def from_pretrained(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


@healthy("base-untouched")
def from_pretrained_with_nothing_else_given(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where))


@healthy()
def from_pretrained_with_the_plain_model_given(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(
        path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama, model=lambda: adapt(llama(), seed=9)
    )


@healthy()
def from_pretrained_with_a_base_on_disk(folder: Path) -> Audit:
    base = str(save(llama(), folder / "base"))
    model = adapt(llama())
    model.peft_config["default"].base_model_name_or_path = base
    path = save(model, folder / "adapter")

    def load(where: Path) -> Any:
        from transformers import AutoModelForCausalLM

        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), where)

    return audit(path, load)


@healthy()
def auto_peft_model(folder: Path) -> Audit:
    from peft import AutoPeftModelForCausalLM

    model = adapt(llama())
    model.peft_config["default"].base_model_name_or_path = str(save(llama(), folder / "base"))
    return audit(save(model, folder / "adapter"), AutoPeftModelForCausalLM.from_pretrained)


@healthy()
def trainable(folder: Path) -> Audit:
    path = save(adapt(llama(), lora_dropout=0.5), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where, is_trainable=True).train(), base=llama)


@healthy()
def low_cpu_mem_usage(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where, low_cpu_mem_usage=True), base=llama)


@healthy()
def another_adapter_name(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where, adapter_name="served"), base=llama)


@healthy()
def called_lora(folder: Path) -> Audit:
    path = save(adapt(llama(), "lora"), folder) / "lora"
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where, adapter_name="lora"), base=llama)


@healthy()
def load_adapter_over_a_fresh_one(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")

    def load(where: Path) -> Any:
        model = adapt(llama(), seed=5)
        model.load_adapter(where, "default")
        return model

    return audit(path, load, base=llama)


@healthy()
def load_adapter_as_the_second(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")

    def load(where: Path) -> Any:
        model = adapt(llama(), seed=5)
        model.load_adapter(where, "second")
        model.set_adapter("second")
        return model

    return audit(path, load, base=llama)


@healthy()
def load_adapter_as_a_second_of_other_modules(folder: Path) -> Audit:
    path = save(adapt(llama(), target_modules=["down_proj"], r=2), folder / "adapter")

    def load(where: Path) -> Any:
        model = adapt(llama(), seed=5)
        model.load_adapter(where, "second")
        model.set_adapter("second")
        return model

    return audit(path, load, base=llama)


@healthy()
def two_adapters_at_once(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")

    def load(where: Path) -> Any:
        model = adapt(llama(), "a", seed=5)
        model.load_adapter(where, "b")
        model.base_model.set_adapter(["a", "b"])
        return model

    return audit(path, load, base=llama)


@healthy()
def beside_a_weighted_sum_of_adapters(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")

    def load(where: Path) -> Any:
        model = PeftModel.from_pretrained(llama(), where)
        model.load_adapter(where, "again")
        model.add_weighted_adapter(["default", "again"], [0.5, 0.25], "sum", combination_type="cat")
        return model

    return audit(path, load, base=llama)


@healthy()
def hotswapped(folder: Path) -> Audit:
    from peft.utils.hotswap import hotswap_adapter

    path = save(adapt(llama()), folder / "adapter")

    def load(where: Path) -> Any:
        model = adapt(llama(), seed=5)
        hotswap_adapter(model, str(where), adapter_name="default", torch_device="cpu")
        return model

    return audit(path, load, base=llama)


@healthy()
def set_peft_model_state_dict(folder: Path) -> Audit:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    path = save(adapt(llama()), folder / "adapter")

    def load(where: Path) -> Any:
        model = adapt(llama(), seed=5)
        set_peft_model_state_dict(model, load_file(where / "adapter_model.safetensors"))
        return model

    return audit(path, load, base=llama)


# Kinds of adapters


@healthy()
def dora(folder: Path) -> Audit:
    path = save(adapt(llama(), use_dora=True), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


@healthy()
def rslora(folder: Path) -> Audit:
    path = save(adapt(llama(), use_rslora=True), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


PATTERNS = {"rank_pattern": {"v_proj": 2, r"layers\.1\.mlp\.up_proj": 8}, "alpha_pattern": {"q_proj": 2}}


@healthy()
def patterns(folder: Path) -> Audit:
    path = save(adapt(llama(), **PATTERNS), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


@healthy()
def patterns_with_rslora(folder: Path) -> Audit:
    path = save(adapt(llama(), use_rslora=True, **PATTERNS), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


@healthy()
def all_linear(folder: Path) -> Audit:
    path = save(adapt(llama(), target_modules="all-linear"), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


@healthy()
def some_layers(folder: Path) -> Audit:
    path = save(adapt(llama(), layers_to_transform=[1, 2]), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


@healthy()
def embeddings_and_head(folder: Path) -> Audit:
    path = save(adapt(llama(), target_modules=["embed_tokens", "lm_head", "q_proj"]), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


@healthy()
def trained_head(folder: Path) -> Audit:
    path = save(adapt(llama(), modules_to_save=["lm_head", "norm"]), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


@healthy()
def trained_tokens(folder: Path) -> Audit:
    path = save(adapt(llama(), trainable_token_indices=[3, 5]), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


BIASED = {"attention_bias": True, "mlp_bias": True}


@healthy()
def all_biases(folder: Path) -> Audit:
    path = save(adapt(llama(**BIASED), bias="all"), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(**BIASED), where), base=lambda: llama(**BIASED))


@healthy()
def biases_of_lora_only(folder: Path) -> Audit:
    path = save(adapt(llama(**BIASED), bias="lora_only"), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(**BIASED), where), base=lambda: llama(**BIASED))


@healthy()
def biases_of_b(folder: Path) -> Audit:
    path = save(adapt(llama(**BIASED), lora_bias=True), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(**BIASED), where), base=lambda: llama(**BIASED))


@healthy()
def bin_only(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter", safe_serialization=False)
    assert not (path / "adapter_model.safetensors").exists()
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


@healthy()
def tied_head(folder: Path) -> Audit:
    tied = {"tie_word_embeddings": True}
    path = save(adapt(llama(**tied)), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(**tied), where), base=lambda: llama(**tied))


@healthy()
def tied_head_trained(folder: Path) -> Audit:
    tied = {"tie_word_embeddings": True}
    with quietly():
        path = save(adapt(llama(**tied), modules_to_save=["lm_head"], ensure_weight_tying=True), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(**tied), where), base=lambda: llama(**tied))


def resized() -> Any:
    model = llama()
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(3)
        model.resize_token_embeddings(72, mean_resizing=False)
    return model


@healthy()
def resized_vocabulary(folder: Path) -> Audit:
    path = save(adapt(resized()), folder / "adapter", save_embedding_layers=True)
    return audit(path, lambda where: PeftModel.from_pretrained(resized(), where), base=resized)


@healthy("generate")
def classifier(folder: Path) -> Audit:
    def base() -> Any:
        return llama(kind="LlamaForSequenceClassification")

    path = save(adapt(base(), task_type="SEQ_CLS"), folder / "adapter")
    return audit(path, lambda where: PeftModelForSequenceClassification.from_pretrained(base(), where), base=base)


@healthy("generate")
def convolutions(folder: Path) -> Audit:
    path = save(adapt(Pictures(), **PICTURES), folder / "adapter")
    inputs = {"ids": torch.arange(8).reshape(2, 4)}
    return audit(path, lambda where: PeftModel.from_pretrained(Pictures(), where), base=Pictures, inputs=inputs)


# Precision


@healthy()
def in_bfloat16(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where).bfloat16(), base=llama)


@healthy()
def base_in_bfloat16(folder: Path) -> Audit:
    path = save(adapt(llama().bfloat16()), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama().bfloat16(), where), base=llama)


@healthy()
def base_in_bfloat16_without_autocast(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(
        path,
        lambda where: PeftModel.from_pretrained(llama().bfloat16(), where, autocast_adapter_dtype=False),
        base=llama,
    )


@healthy()
def saved_in_bfloat16(folder: Path) -> Audit:
    path = save(adapt(llama()).bfloat16(), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where), base=llama)


@healthy()
def in_float16(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where).half(), base=llama)


# Merged


@healthy()
def merged(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where).merge_and_unload(), base=llama)


@healthy("base-untouched")
def merged_with_the_plain_model_given(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where).merge_and_unload(), model=llama)


@healthy()
def merged_with_a_base_on_disk(folder: Path) -> Audit:
    model = adapt(llama())
    model.peft_config["default"].base_model_name_or_path = str(save(llama(), folder / "base"))
    path = save(model, folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where).merge_and_unload())


@healthy()
def merged_dora(folder: Path) -> Audit:
    path = save(adapt(llama(), use_dora=True), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where).merge_and_unload(), base=llama)


@healthy()
def merged_of_patterns(folder: Path) -> Audit:
    path = save(adapt(llama(), use_rslora=True, **PATTERNS), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where).merge_and_unload(), base=llama)


@healthy()
def merged_in_bfloat16(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(
        path, lambda where: PeftModel.from_pretrained(llama().bfloat16(), where).merge_and_unload(), base=llama
    )


@healthy()
def merged_with_a_trained_head(folder: Path) -> Audit:
    path = save(adapt(llama(), modules_to_save=["lm_head"]), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where).merge_and_unload(), base=llama)


@healthy()
def merged_embeddings(folder: Path) -> Audit:
    path = save(adapt(llama(), target_modules=["embed_tokens", "lm_head", "q_proj"]), folder / "adapter")
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where).merge_and_unload(), base=llama)


@healthy()
def merged_embeddings_not_in_the_file(folder: Path) -> Audit:
    model = adapt(llama(), target_modules=["embed_tokens", "q_proj"])
    path = save(model, folder / "adapter", save_embedding_layers=False)
    return audit(path, lambda where: PeftModel.from_pretrained(llama(), where).merge_and_unload(), base=llama)


@healthy("generate")
def merged_convolutions(folder: Path) -> Audit:
    # PEFT merges no grouped convolution.
    targets = [name for name in PICTURES["target_modules"] if name != "grouped"]
    path = save(adapt(Pictures(), target_modules=targets, task_type=None), folder / "adapter")
    inputs = {"ids": torch.arange(8).reshape(2, 4)}
    return audit(
        path,
        lambda where: PeftModel.from_pretrained(Pictures(), where).merge_and_unload(),
        base=Pictures,
        inputs=inputs,
    )


@healthy("adapter-active")
def merged_in_place(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")

    def load(where: Path) -> Any:
        model = PeftModel.from_pretrained(llama(), where)
        model.merge_adapter()
        return model

    return audit(path, load, base=llama)


@healthy()
def merged_and_unmerged(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")

    def load(where: Path) -> Any:
        model = PeftModel.from_pretrained(llama(), where)
        model.merge_adapter()
        model.unmerge_adapter()
        return model

    return audit(path, load, base=llama)


# transformers, accelerate, torch


@healthy()
def transformers_load_adapter(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")

    def load(where: Path) -> Any:
        model = llama()
        model.load_adapter(str(where))
        return model

    return audit(path, load, base=llama)


@healthy()
def transformers_from_pretrained_of_the_adapter(folder: Path) -> Audit:
    from transformers import AutoModelForCausalLM

    model = adapt(llama())
    model.peft_config["default"].base_model_name_or_path = str(save(llama(), folder / "base"))
    path = save(model, folder / "adapter")
    return audit(path, lambda where: AutoModelForCausalLM.from_pretrained(str(where)))


@healthy()
def compiled(folder: Path) -> Audit:
    path = save(adapt(llama()), folder / "adapter")
    return audit(
        path,
        # Nothing is compiled before a kernel is asked for.
        lambda where: torch.compile(PeftModel.from_pretrained(llama(), where), backend="eager"),
        base=llama,
    )


def whole(folder: Path, name: str = "whole.pt") -> Path:
    torch.save(adapt(llama()).state_dict(), folder / name)
    return folder / name


@healthy("config", "base-untouched")
def load_state_dict(folder: Path) -> Audit:
    def load(where: Path) -> Any:
        model = adapt(llama(seed=4), seed=5)
        model.load_state_dict(torch.load(where))
        return model

    return audit(whole(folder), load)


@healthy("config")
def load_state_dict_with_assign(folder: Path) -> Audit:
    def load(where: Path) -> Any:
        model = adapt(llama(seed=4), seed=5)
        model.load_state_dict(torch.load(where, mmap=True), assign=True)
        return model

    return audit(whole(folder), load, base=llama)


@healthy("config")
def load_state_dict_of_the_adapter_alone(folder: Path) -> Audit:
    state = {key: value for key, value in adapt(llama()).state_dict().items() if "lora_" in key}
    torch.save(state, folder / "adapter.pt")

    def load(where: Path) -> Any:
        model = adapt(llama(), seed=5)
        model.load_state_dict(torch.load(where), strict=False)
        return model

    return audit(folder / "adapter.pt", load, base=llama)


@healthy("config", "base-untouched")
def whole_and_merged(folder: Path) -> Audit:
    def load(where: Path) -> Any:
        model = adapt(llama(seed=4), seed=5)
        model.load_state_dict(torch.load(where))
        return model.merge_and_unload()

    return audit(whole(folder), load, base=llama)


@healthy("config")
def accelerate_load_checkpoint_in_model(folder: Path) -> Audit:
    from accelerate import load_checkpoint_in_model
    from safetensors.torch import save_file

    path = folder / "model.safetensors"
    save_file(dict(adapt(llama()).state_dict()), path, metadata={"format": "pt"})

    def load(where: Path) -> Any:
        model = adapt(llama(seed=4), seed=5)
        load_checkpoint_in_model(model, str(where))
        return model

    return audit(path, load, base=llama)


@healthy("config")
def accelerate_load_checkpoint_and_dispatch(folder: Path) -> Audit:
    from accelerate import init_empty_weights, load_checkpoint_and_dispatch
    from safetensors.torch import save_file

    path = folder / "model.safetensors"
    save_file(dict(adapt(llama()).state_dict()), path, metadata={"format": "pt"})

    def load(where: Path) -> Any:
        with init_empty_weights():
            model = adapt(llama(seed=4), seed=5)
        return load_checkpoint_and_dispatch(model, str(where), device_map={"": "cpu"})

    return audit(path, load, base=llama)


# Lightning


def vlm_base(**make: Any) -> Any:
    return make_panorama_vlm(lora=False, **make)


@healthy("config", "base-untouched")
def load_from_checkpoint(folder: Path) -> Audit:
    return audit(save_lightning(folder), Vlm.load_from_checkpoint, inputs=replica_inputs)


@healthy("config")
def load_from_checkpoint_not_strictly(folder: Path) -> Audit:
    path = save_lightning(folder, keep="trained", strict=False)
    return audit(
        path, lambda where: Vlm.load_from_checkpoint(where, strict=False), base=vlm_base, inputs=replica_inputs
    )


@healthy("config")
def trainer_resumes(folder: Path) -> Audit:
    path = save_lightning(folder)
    return audit(path, lambda where: resume(where, folder), base=vlm_base, inputs=replica_inputs)


@healthy("config")
def trainer_resumes_not_strictly(folder: Path) -> Audit:
    path = save_lightning(folder, keep="trained", strict=False)
    return audit(
        path,
        lambda where: resume(where, folder, keep="trained", strict=False),
        base=vlm_base,
        inputs=replica_inputs,
    )


@healthy("config")
def inner_model_of_a_lightning_checkpoint(folder: Path) -> Audit:
    def load(where: Path) -> Any:
        model = make_panorama_vlm(random_lora_b=False)
        state = torch.load(where, weights_only=True)["state_dict"]
        model.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
        return model

    return audit(save_lightning(folder), load, base=vlm_base, inputs=replica_inputs)


@healthy("config")
def lightning_dora_with_a_trained_norm(folder: Path) -> Audit:
    make = {"use_dora": True, "modules_to_save": ["norm"]}
    path = save_lightning(folder, keep="trained", strict=False, **make)
    return audit(
        path, lambda where: Vlm.load_from_checkpoint(where, strict=False), base=vlm_base, inputs=replica_inputs
    )


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_wrong(name: str, tmp_path: Path) -> None:
    case, skipped = CASES[name]
    audited = case(tmp_path)
    assert not audited.failed, str(audited)
    assert audited.named("skipped") | ALWAYS == skipped, str(audited)
    assert not [each for each in audited.run.report.findings if each.severity == "error"], str(audited)


def test_merged_and_no_base_at_hand(tmp_path: Path) -> None:
    path = save(adapt(llama()), tmp_path / "adapter")
    audited = audit(path, lambda where: PeftModel.from_pretrained(llama(), where).merge_and_unload())
    assert audited.results["loaded"].outcome == "skipped", str(audited)
    assert "lora_base_model" in audited.why("adapter-active"), str(audited)
