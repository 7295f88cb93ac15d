"""Merges of other shapes than out x in: experts, blocks of a fused weight, tied weights, biases; and in part."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file

from pytest_lora_ckpt import audit, open_checkpoint
from pytest_lora_ckpt.proof import BaseWeights, LoadedModel, Merge, Reference, find_merge

if TYPE_CHECKING:
    from pathlib import Path

Weights = Mapping[str, torch.Tensor]
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
INPUTS = {"input_ids": torch.tensor([[5, 6, 7, 8]])}


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Fused(torch.nn.Module):
    """One layer with a fused projection: 32 queries, 16 keys, 16 values."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = torch.nn.ModuleDict({"qkv_proj": torch.nn.Linear(24, 64, bias=False)})
        with torch.no_grad():
            self.attn["qkv_proj"].weight.copy_(random(64, 24, seed=0))


def fused(changes: Weights, dtype: torch.dtype = torch.float32) -> Fused:
    model = Fused().to(dtype)
    with torch.no_grad():
        for name, change in changes.items():
            model.attn["qkv_proj"].weight[ROWS[name]] += change.to(dtype)
    return model


def merge_of(model: torch.nn.Module, base: torch.nn.Module, weights: Weights, folder: Path, **config: Any) -> Merge:
    save_file({key: value.clone().contiguous() for key, value in weights.items()}, folder / "lora.safetensors")
    loaded = LoadedModel(model)
    reference = Reference(lambda: (BaseWeights(base, loaded),), config or None)
    return find_merge(loaded, open_checkpoint(folder / "lora.safetensors"), {}, reference)


ROWS = {"q": slice(0, 32), "k": slice(32, 48), "v": slice(48, 64)}


def factors(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = ROWS[name]
    return random(4, 24, seed=rows.start + 1), random(rows.stop - rows.start, 4, seed=rows.start + 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("enabled", ["qkv", "qv", "k", "qk"])
def test_blocks_of_a_fused_weight(enabled: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """As loralib's MergedLinear, for sizes that are not equal."""
    downs, ups = zip(*map(factors, enabled), strict=True)
    weights = {"attn.qkv_proj.lora_A": torch.cat(downs), "attn.qkv_proj.lora_B": torch.cat(ups)}
    updates = {name: 2 * up @ down for name, down, up in zip(enabled, downs, ups, strict=True)}
    base = Fused().to(dtype)
    found = merge_of(fused(updates, dtype), base, weights, tmp_path, r=4, lora_alpha=8)
    assert found.proved
    assert found.scaling == pytest.approx(2.0, rel=0.02)
    assert merge_of(base, base, weights, tmp_path).count("base") == 1
    other = {name: random(*update.shape, seed=20) for name, update in updates.items()}
    assert merge_of(fused(other, dtype), base, weights, tmp_path).count("other") == 1
    fourfold = {name: 4 * update for name, update in updates.items()}
    assert not merge_of(fused(fourfold, dtype), base, weights, tmp_path, r=4, lora_alpha=8).proved


def test_blocks_whose_rows_are_not_known_are_not_provable(tmp_path: Path) -> None:
    """Older releases of litgpt put the heads of a group side by side."""
    down, up = random(4, 24), random(32, 4, seed=2)
    rows = torch.arange(64).reshape(4, 16)[:, :8].flatten().flip(0)
    model = Fused()
    with torch.no_grad():
        model.attn["qkv_proj"].weight[rows] += up @ down
    found = merge_of(model, Fused(), {"attn.qkv_proj.lora_A": down, "attn.qkv_proj.lora_B": up}, tmp_path)
    assert found.count("unknown") == 1
    assert "which rows" in found.modules[0].why


@pytest.mark.parametrize("adapted", ["qkv", "qv", "v"])
def test_separate_adapters_in_a_fused_weight(adapted: str, tmp_path: Path) -> None:
    weights, updates = {}, {}
    for name in adapted:
        down, up = factors(name)
        weights |= {f"attn.{name}_proj.lora_A.weight": down, f"attn.{name}_proj.lora_B.weight": up}
        updates[name] = 0.5 * up @ down
    found = merge_of(fused(updates), Fused(), weights, tmp_path)
    assert found.proved
    assert found.scaling == pytest.approx(0.5, rel=1e-3)
    assert merge_of(Fused(), Fused(), weights, tmp_path).count("base") == len(adapted)


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, **more)  # type: ignore[arg-type]
    return transformers.LlamaForCausalLM(config).eval()


def experts() -> Any:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)  # type: ignore[arg-type]
    return transformers.MixtralForCausalLM(config).eval()


def qwen2() -> Any:
    torch.manual_seed(0)
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)).eval()  # type: ignore[arg-type]


PARAMETERS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "experts": (experts, {"target_modules": ["q_proj"], "target_parameters": PARAMETERS}),
    "bias of B": (qwen2, {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_by_peft(kind: str, tmp_path: Path) -> None:
    build, settings = KINDS[kind]
    model = peft.get_peft_model(build(), peft.LoraConfig(r=4, lora_alpha=8, **settings))
    with torch.no_grad():
        for at, parameter in enumerate(each for each in model.parameters() if each.requires_grad):
            parameter.add_(0.1 * random(*parameter.shape, seed=at))
    model.save_pretrained(tmp_path / "adapter")

    def merged(path: Path) -> Any:
        return peft.PeftModel.from_pretrained(build(), str(path)).merge_and_unload().eval()

    def twice(path: Path) -> Any:
        config = peft.PeftConfig.from_pretrained(str(path))
        config.lora_alpha = 16
        return peft.PeftModel.from_pretrained(build(), str(path), config=config).merge_and_unload().eval()

    def without_last(path: Path) -> Any:
        served, plain = merged(path), build().state_dict()
        name = next(key for key, value in reversed(served.state_dict().items()) if not value.equal(plain[key]))
        served.load_state_dict(served.state_dict() | {name: plain[name]})
        return served

    result = audit(tmp_path / "adapter", loader=merged, base_model=build, inputs=lambda: INPUTS)
    assert not result.named("failed")
    assert {"keys", "loaded", "base-untouched", "adapter-active"} <= {*result.named("passed")}
    result = audit(tmp_path / "adapter", loader=twice, base_model=build, inputs=lambda: INPUTS)
    assert {each.cause for each in result.findings} & {"merged-twice", "scaling-differs"}
    result = audit(tmp_path / "adapter", loader=without_last, base_model=build, inputs=lambda: INPUTS)
    assert not result.passed


def adapter(folder: Path, build: Any, **settings: Any) -> Any:
    model = peft.get_peft_model(build(), peft.LoraConfig(**{"r": 4, "lora_alpha": 8} | settings))
    with torch.no_grad():
        for at, parameter in enumerate(each for each in model.parameters() if each.requires_grad):
            parameter.add_(0.1 * random(*parameter.shape, seed=at))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("table", ["embed_tokens", "lm_head"])
def test_a_merge_into_one_of_two_tied_tables_changes_the_other_too(table: str, tmp_path: Path) -> None:
    """In training the adapter acted in one place only; untied before the merge, it still does."""

    def base(*, tied: bool = True) -> Any:
        model = llama(tie_word_embeddings=True)
        if not tied:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
            model.config.tie_word_embeddings = False
        return model

    trained = adapter(tmp_path, base, target_modules=[table, "q_proj"])
    with torch.no_grad():
        wanted = trained(**INPUTS).logits
    for tied in (True, False):

        def merged(path: Path, tied: bool = tied) -> Any:  # noqa: FBT001  # Of this pass.
            return peft.PeftModel.from_pretrained(base(tied=tied), str(path)).merge_and_unload().eval()

        with torch.no_grad():
            assert torch.allclose(merged(tmp_path)(**INPUTS).logits, wanted, atol=1e-4) is not tied
        result = audit(tmp_path, loader=merged, base_model=base, inputs=lambda: INPUTS)
        errors = [each for each in result.findings if each.severity == "error"]
        assert [each.cause for each in errors] == ["tied-tensors-disagree"] * tied
        assert result.passed is not tied


@pytest.mark.filterwarnings("ignore")
def test_dora_merged_without_its_magnitudes(tmp_path: Path) -> None:
    adapter(tmp_path, llama, target_modules=["q_proj"], use_dora=True)

    def merged(path: Path) -> Any:
        config = peft.PeftConfig.from_pretrained(str(path))
        config.use_dora = False
        return peft.PeftModel.from_pretrained(llama(), str(path), config=config).merge_and_unload().eval()

    result = audit(tmp_path, loader=merged, base_model=llama, inputs=lambda: INPUTS)
    (error,) = [each for each in result.findings if each.severity == "error"]
    assert error.cause == "config-dora"
    assert "W + 2 x B A, without DoRA's magnitudes" in error.message
    assert {each.cause: each.follows for each in result.findings if each.severity == "warning"} == {
        "values-differ": "config-dora"
    }


@pytest.mark.filterwarnings("ignore")
def test_in_part_and_without_a_base(tmp_path: Path) -> None:
    """A zero update is W itself; what is left out is named; without W nothing is known."""
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for at, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_B" in name and "layers.0.self_attn.v_proj" not in name:
                parameter.add_(0.1 * random(*parameter.shape, seed=at))
    model.save_pretrained(tmp_path / "adapter")

    def merged(path: Path) -> Any:
        return peft.PeftModel.from_pretrained(llama(), str(path)).merge_and_unload().eval()

    def in_part(path: Path) -> Any:
        served = merged(path)
        served.model.layers[1].self_attn.q_proj.weight.data = llama().model.layers[1].self_attn.q_proj.weight.data
        return served

    assert audit(tmp_path / "adapter", loader=merged, base_model=llama, inputs=lambda: INPUTS).passed
    result = audit(tmp_path / "adapter", loader=in_part, base_model=llama, inputs=lambda: INPUTS)
    (lost,) = [each for each in result.findings if each.severity == "error"]
    assert lost.cause == "adapter-not-loaded"
    assert lost.message.endswith("into 3 modules of the model, and not into model.layers.1.self_attn.q_proj.")
    for loader in (merged, lambda _: llama()):
        result = audit(tmp_path / "adapter", loader=loader, inputs=lambda: INPUTS)
        assert {"keys", "loaded", "adapter-active"} <= {*result.named("skipped")}
        assert not result.named("failed")


def of_lycoris(kind: str) -> tuple[Weights, torch.Tensor]:
    """Return the parameters of a module of LyCORIS that adapts a weight of 32 x 24, and its update."""
    one, other = (random(32, 4, seed=1), random(4, 24, seed=2)), (random(32, 4, seed=3), random(4, 24, seed=4))
    small, big = random(4, 3, seed=5), random(8, 8, seed=6)
    if kind == "loha":
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        return dict(zip(names, (*one, *other), strict=True)), (one[0] @ one[1]) * (other[0] @ other[1])
    if kind == "lokr-whole":
        return {"lokr_w1": small, "lokr_w2": big}, torch.kron(small, big)
    if kind == "lokr-both-in-factors":
        names = ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b")
        parts = (small[:, :2], small[:2], big[:, :2], big[:2])
        return dict(zip(names, parts, strict=True)), torch.kron(parts[0] @ parts[1], parts[2] @ parts[3])
    if kind == "lokr":
        return {"lokr_w1": small, "lokr_w2_a": big[:, :2], "lokr_w2_b": big[:2]}, torch.kron(
            small, big[:, :2] @ big[:2]
        )
    core = random(4, 4, seed=7)
    parts = {"lora_up.weight": one[0], "lora_down.weight": one[1], "lora_mid.weight": core}
    return parts, one[0] @ core @ one[1]


@pytest.mark.parametrize("kind", ["loha", "lokr-whole", "lokr-both-in-factors", "lokr", "locon-with-a-core"])
@pytest.mark.parametrize("holds", ["merged", "other"])
def test_products_of_lycoris_are_merged_too(kind: str, holds: str, tmp_path: Path) -> None:
    base = torch.nn.ModuleDict({"one": torch.nn.ModuleDict({"q": torch.nn.Linear(24, 32, bias=False)})})
    parts, update = of_lycoris(kind)
    model = copy.deepcopy(base)
    scaling = 1.0 if kind == "lokr-whole" else 0.5
    with torch.no_grad():
        model["one"]["q"].weight += scaling * update if holds == "merged" else random(32, 24, seed=8)  # type: ignore[index]
    weights = {f"lycoris_one_q.{name}": each for name, each in parts.items()}
    weights["lycoris_one_q.alpha"] = torch.tensor(1.0 if "lokr" in kind else 2.0)
    (found,) = merge_of(model, base, weights, tmp_path).modules
    assert (found.kind, found.expected) == (holds, scaling)
    assert holds == "other" or found.scaling == pytest.approx(scaling, abs=1e-3)


@pytest.mark.parametrize("axis", [0, 1], ids=["of-rows", "of-columns"])
def test_dora_of_lycoris_is_merged_too(axis: int, tmp_path: Path) -> None:
    base = torch.nn.ModuleDict({"one": torch.nn.ModuleDict({"q": torch.nn.Linear(24, 32, bias=False)})})
    down, up = factors("q")
    model = copy.deepcopy(base)
    weight = model["one"]["q"].weight  # type: ignore[index]
    magnitude = 1 + random(32, 24).norm(dim=1 - axis, keepdim=True)
    with torch.no_grad():
        moved = weight + 0.5 * up @ down
        weight.copy_(moved / moved.norm(dim=1 - axis, keepdim=True) * magnitude)
    weights = {"lycoris_one_q.lora_down.weight": down, "lycoris_one_q.lora_up.weight": up}
    weights |= {"lycoris_one_q.alpha": torch.tensor(2.0), "lycoris_one_q.dora_scale": magnitude}
    (found,) = merge_of(model, base, weights, tmp_path).modules
    assert (found.kind, found.scaling) == ("merged", pytest.approx(0.5, abs=1e-3))
