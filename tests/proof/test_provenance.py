"""Where each tensor of a loaded model comes from, by what the config says of the base weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
import transformers
from torch import nn

from pytest_lora_ckpt import audit, open_checkpoint
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.proof import BaseWeights, Given, Provenance, prove_load, trace

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt import AuditResult

TARGETS = ["q_proj", "v_proj"]


def llama(seed: int = 0, **config: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes | config)).eval()


@torch.no_grad()
def trained(base: Any, **settings: Any) -> Any:
    torch.manual_seed(3)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | settings
    model = peft.get_peft_model(base, peft.LoraConfig(**settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def origins(model: Any, base: Any) -> Provenance:
    config = AdapterConfig.of(model.peft_config["default"].to_dict())
    return trace(model, BaseWeights(base, model, config), Given(config=config))


def judged(path: Path, load: Any, base: Any = llama) -> AuditResult:
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    return audit(path, loader=load, inputs=lambda: inputs, base_model=base)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_start_of_the_factors_may_be_taken_out_of_the_base(start: str, dtype: torch.dtype) -> None:
    model = trained(llama().to(dtype), init_lora_weights=start)
    found = origins(model, llama().to(dtype))
    assert (found.count("moved"), found.of("changed", "nowhere", "not moved")) == (4, ())
    model.merge_adapter()
    assert origins(model, llama().to(dtype)).count("moved") == 4
    other = origins(model, llama(seed=1).to(dtype))
    assert other.count("changed") > 4
    assert not other.count("moved")


def test_the_original_base_under_such_factors_is_another_than_that_of_training(tmp_path: Path) -> None:
    trained(llama(), init_lora_weights="pissa").save_pretrained(tmp_path)

    def load(path: Path) -> Any:
        config = peft.PeftConfig.from_pretrained(str(path))
        config.init_lora_weights = True
        return peft.PeftModel.from_pretrained(llama(), str(path), config=config)

    result = judged(tmp_path, load)
    assert [each.cause for each in result.findings if each.severity == "error"] == ["base-not-moved"]
    healthy = judged(tmp_path, lambda path: peft.PeftModel.from_pretrained(llama(), str(path)))
    assert healthy.passed
    assert "less the start of the factors (init_lora_weights 'pissa')" in healthy.check("base-untouched").summary


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_factors_merged_into_what_their_start_was_taken_out_of(start: str, tmp_path: Path) -> None:
    trained(llama(), init_lora_weights=start).save_pretrained(tmp_path)
    torch.manual_seed(3)
    if "niter" not in start:  # Its start is drawn anew at each load: PEFT's own warning.
        healthy = judged(tmp_path, lambda path: peft.PeftModel.from_pretrained(llama(), str(path)).merge_and_unload())
        assert healthy.passed
        assert "loaded" in healthy.named("passed")

    def on_the_original(path: Path) -> Any:
        config = peft.PeftConfig.from_pretrained(str(path))
        config.init_lora_weights = True
        return peft.PeftModel.from_pretrained(llama(), str(path), config=config).merge_and_unload()

    assert "base-not-moved" in {each.cause for each in judged(tmp_path, on_the_original).findings}
    never = judged(tmp_path, lambda _: llama())
    assert "adapter-not-loaded" in {each.cause for each in never.findings}


@pytest.mark.parametrize(
    ("more", "merged"), [({"use_dora": True}, True), ({"layer_replication": [[0, 1], [0, 2]]}, False)]
)
def test_a_moved_base_that_cannot_be_told_is_not_called_wrong(more: Any, merged: bool, tmp_path: Path) -> None:  # noqa: FBT001
    trained(llama(), init_lora_weights="pissa", **more).save_pretrained(tmp_path)

    def load(path: Path) -> Any:
        model = peft.PeftModel.from_pretrained(llama(), str(path))
        return model.merge_and_unload() if merged else model

    result = judged(tmp_path, load)
    assert result.passed, result.findings
    assert "init_lora_weights" in result.check("loaded" if merged else "base-untouched").summary


def test_layers_that_are_used_several_times_are_those_of_the_base() -> None:
    model = trained(llama(), layer_replication=[[0, 1], [0, 2], [1, 2]])
    found = origins(model, llama())
    assert not found.of("changed", "nowhere", "unknown")
    assert found.count("base") == 3 + 4 * 9
    assert origins(model, llama(seed=1)).count("changed") > 20


def test_merged_rows_of_an_embedding_are_the_checkpoints_and_the_others_the_bases(tmp_path: Path) -> None:
    trained(llama(), trainable_token_indices=[5, 7]).save_pretrained(tmp_path)

    def load(path: Path) -> Any:
        return peft.PeftModel.from_pretrained(llama(), str(path)).merge_and_unload()

    def damaged(path: Path, row: int) -> Any:
        model = load(path)
        model.model.embed_tokens.weight.data[row] += 1
        return model

    healthy = judged(tmp_path, load)
    assert healthy.passed
    assert healthy.proof
    assert healthy.proof.counts["merged"] == 9
    assert "base-overwritten" in {each.cause for each in judged(tmp_path, lambda path: damaged(path, 6)).findings}
    proof = prove_load(damaged(tmp_path, 7), open_checkpoint(tmp_path))
    assert [each.cause for each in proof.of("differs") if "trainable_tokens" in each.key] in ([], ["values-differ"])
    assert not judged(tmp_path, lambda path: damaged(path, 7)).passed


def test_of_a_resized_vocabulary_the_shared_rows_are_compared() -> None:
    base, model = llama(), llama()
    model.resize_token_embeddings(44)
    found = trace(model, BaseWeights(base, model))
    assert not found.of("changed", "nowhere", "unknown")
    model.model.embed_tokens.weight.data[3] += 1
    assert trace(model, BaseWeights(base, model)).of("changed") == ("model.embed_tokens.weight",)


class Around(nn.Module):
    """A linear layer inside a library's own."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear


def test_a_weight_inside_a_layer_of_its_own_is_the_bases() -> None:
    torch.manual_seed(0)
    base = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(16, 48)}), "norm": nn.LayerNorm(16)})
    inside = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": Around(nn.Linear(16, 48))}), "norm": nn.LayerNorm(16)})
    assert trace(inside, BaseWeights(base, inside)).of("changed") == ("attn.qkv.linear.weight", "attn.qkv.linear.bias")
    inside["attn"]["qkv"].linear.load_state_dict(base["attn"]["qkv"].state_dict())
    assert trace(inside, BaseWeights(base, inside)).count("base") == 4


def with_projector(model: Any, *, fresh: bool) -> Any:
    torch.manual_seed(8)
    model.model.mm_projector = nn.Linear(32, 32)
    if not fresh:
        model.model.mm_projector.weight.data.add_(0.2 * torch.randn(32, 32))
    return model


def test_a_component_of_fresh_matrices_comes_from_nowhere(tmp_path: Path) -> None:
    trained(llama()).save_pretrained(tmp_path)

    def load(path: Path, *, fresh: bool) -> Any:
        return peft.PeftModel.from_pretrained(with_projector(llama(), fresh=fresh), str(path))

    result = judged(tmp_path, lambda path: load(path, fresh=True))
    assert [each.cause for each in result.findings if each.severity == "error"] == ["from-nowhere"]
    assert result.provenance["mm_projector"] == {"nowhere": 2}
    elsewhere = judged(tmp_path, lambda path: load(path, fresh=False))
    assert elsewhere.passed
    summary = "2 in neither checkpoint nor base model (mm_projector 2)"
    assert summary in elsewhere.check("base-untouched").summary


def test_layers_that_the_base_does_not_have_come_from_nowhere() -> None:
    model, base = llama(num_hidden_layers=6), llama()
    model.load_state_dict(base.state_dict(), strict=False)
    found = trace(model, BaseWeights(base, model))
    assert len(found.from_nowhere) == 4 * 9
    assert not trace(base, BaseWeights(base, base)).from_nowhere


def test_where_most_has_no_base_the_check_is_skipped(tmp_path: Path) -> None:
    trained(llama()).save_pretrained(tmp_path)
    embeddings = nn.ModuleDict({"model": nn.ModuleDict({"embed_tokens": llama().model.embed_tokens})})
    result = judged(tmp_path, lambda path: peft.PeftModel.from_pretrained(llama(), str(path)), base=lambda: embeddings)
    assert result.check("base-untouched").outcome == "skipped"
    assert "1 of 21 base weights were compared" in result.check("base-untouched").summary


def classifier(seed: int, folder: Path, **config: Any) -> Any:
    torch.manual_seed(seed)
    return transformers.LlamaForSequenceClassification.from_pretrained(folder, num_labels=3, pad_token_id=0, **config)


@pytest.mark.parametrize("merge", [False, True])
def test_a_head_that_was_made_anew_comes_from_nowhere(tmp_path: Path, merge: bool) -> None:  # noqa: FBT001  # A case.
    llama().save_pretrained(tmp_path / "base")
    trained(classifier(1, tmp_path / "base"), task_type=None).save_pretrained(tmp_path / "adapter")

    def load(path: Path) -> Any:
        model = peft.PeftModel.from_pretrained(classifier(2, tmp_path / "base"), str(path))
        return (model.merge_and_unload() if merge else model).eval()

    result = judged(tmp_path / "adapter", load, str(tmp_path / "base"))
    assert [each.cause for each in result.findings if each.severity == "error"] == ["from-nowhere"]
    assert result.provenance["score"] == {"nowhere": 1}


@pytest.mark.parametrize("merge", [False, True])
def test_a_head_that_the_adapter_brings_is_its_own(tmp_path: Path, merge: bool) -> None:  # noqa: FBT001  # A case.
    llama().save_pretrained(tmp_path / "base")
    trained(classifier(1, tmp_path / "base"), task_type="SEQ_CLS").save_pretrained(tmp_path / "adapter")

    def load(path: Path) -> Any:
        model = peft.PeftModel.from_pretrained(classifier(2, tmp_path / "base"), str(path))
        return (model.merge_and_unload() if merge else model).eval()

    assert judged(tmp_path / "adapter", load, str(tmp_path / "base")).passed


SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.mark.parametrize("saved", [False, True])
def test_a_pooler_that_was_made_anew_matters_where_the_logits_need_it(tmp_path: Path, saved: bool) -> None:  # noqa: FBT001  # A case.
    config = transformers.DebertaV2Config(**SIZES)  # type: ignore[arg-type]
    transformers.DebertaV2Model(config).save_pretrained(tmp_path / "base")

    def base(seed: int) -> Any:
        torch.manual_seed(seed)
        return transformers.DebertaV2ForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)

    more = {"modules_to_save": ["pooler", "classifier"]} if saved else {}
    model = trained(base(1), target_modules=["query_proj"], task_type="SEQ_CLS", **more)
    model.save_pretrained(tmp_path / "adapter")

    def load(path: Path) -> Any:
        return peft.PeftModel.from_pretrained(base(2), str(path)).eval()

    result = judged(tmp_path / "adapter", load, str(tmp_path / "base"))
    assert [each.cause for each in result.findings if each.severity == "error"] == ["from-nowhere"] * (not saved)
    assert result.passed is saved


def test_a_pooler_that_no_logits_need_is_left_alone(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES)  # type: ignore[arg-type]
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "base")

    def base(seed: int) -> Any:
        torch.manual_seed(seed)
        return transformers.BertModel.from_pretrained(tmp_path / "base")

    trained(base(1), target_modules=["query"], task_type="FEATURE_EXTRACTION").save_pretrained(tmp_path / "adapter")

    def load(path: Path) -> Any:
        return peft.PeftModel.from_pretrained(base(2), str(path)).eval()

    result = judged(tmp_path / "adapter", load, str(tmp_path / "base"))
    assert result.passed
    assert result.provenance["pooler"] == {"nowhere": 2}


def test_a_trained_head_from_elsewhere_is_no_fresh_one(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    trained(classifier(1, tmp_path / "base"), task_type=None).save_pretrained(tmp_path / "adapter")

    def load(path: Path) -> Any:
        model = peft.PeftModel.from_pretrained(classifier(2, tmp_path / "base"), str(path)).eval()
        torch.nn.init.normal_(model.base_model.model.score.weight, std=1.0)
        return model

    result = judged(tmp_path / "adapter", load, str(tmp_path / "base"))
    assert result.passed
    assert "1 in neither checkpoint nor base model (score 1)" in result.check("base-untouched").summary


def test_a_moved_base_that_was_merged_into_in_bfloat16_and_widened(tmp_path: Path) -> None:
    trained(llama().bfloat16(), init_lora_weights="pissa").save_pretrained(tmp_path)

    def load(path: Path) -> Any:
        return peft.PeftModel.from_pretrained(llama().bfloat16(), str(path)).merge_and_unload().float().eval()

    assert judged(tmp_path, load, lambda: llama().bfloat16()).passed


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=str)
def test_an_adapter_on_the_base_that_it_was_merged_into_acts_twice(settings: Any, tmp_path: Path) -> None:
    trained(llama(), **settings).save_pretrained(tmp_path)

    def load(path: Path) -> Any:
        merged = peft.PeftModel.from_pretrained(llama(), str(path)).merge_and_unload()
        return peft.PeftModel.from_pretrained(merged, str(path)).eval()

    result = judged(tmp_path, load)
    (error,) = [each for each in result.findings if each.severity == "error"]
    assert (error.cause, len(error.keys)) == ("merged-twice", 4)
    assert result.named("failed") == ("base-untouched",)
    assert [each.follows for each in result.findings if each.cause == "base-overwritten"] == ["merged-twice"]


class Resampler(nn.Module):
    """Two layers of a kind; what was trained is none of ones and zeros."""

    def __init__(self, *, initial: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"norm": nn.LayerNorm(4), "fc": nn.Linear(4, 4)}) for _ in range(2))
        for parameter in self.parameters() if not initial else ():
            nn.init.normal_(parameter)
        for layer in self.layers if initial else ():
            nn.init.normal_(layer["fc"].weight, std=0.02)
            nn.init.zeros_(layer["fc"].bias)


@pytest.mark.parametrize("initial", [True, False], ids=["as initialised", "pretrained"])
def test_layers_that_a_trained_component_has_lost(initial: bool) -> None:  # noqa: FBT001
    """A file that lost its last layer, loaded with strict=False; of a pretrained tower one layer may be trained."""
    model = nn.ModuleDict({"llm": nn.Linear(4, 4), "resampler": Resampler(initial=initial)})
    base = nn.ModuleDict({"llm": model["llm"]})
    given = Given(frozenset(key for key in model.state_dict() if "layers.0" in key))
    lost = {key for key in model.state_dict() if "layers.1" in key}
    found = trace(model, BaseWeights(base, model), given)
    assert set(found.of("nowhere")) == lost
    assert set(found.from_nowhere) == (lost if initial else set())
