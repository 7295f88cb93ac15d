"""One root cause for all that fails for it, and one line for what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_lora_ckpt import audit, compare
from pytest_lora_ckpt.auditing.roots import root_of, with_roots
from pytest_lora_ckpt.findings import CAUSES, finding
from tests.helpers import loading_world
from tests.helpers.sections import flat, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_lora_ckpt import AuditResult

IDS = torch.tensor([[5, 6, 7, 8]])
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return loading_world.save(loading_world.adapt(loading_world.llama()), tmp_path / "adapter")


def rewrite(adapter: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    save_file(change(load_file(adapter / WEIGHTS)), adapter / WEIGHTS, metadata={"format": "pt"})
    return adapter


def load(path: Path) -> torch.nn.Module:
    return peft.PeftModel.from_pretrained(loading_world.llama(), str(path)).eval()


def errors(result: AuditResult) -> list[str]:
    return [each.cause for each in result.findings if each.severity == "error"]


def test_an_adapter_that_was_dropped(adapter: Path) -> None:
    result = audit(adapter, loader=lambda _: loading_world.llama(), base_model=loading_world.llama)
    assert errors(result) == ["adapter-not-loaded"]
    assert result.failed_by["adapter-not-loaded"] == ("keys", "loaded", "adapter-active")
    lines = flat(shown(result))
    assert lines.count("failed checks: keys, loaded, adapter-active") == 1
    assert lines.count("-> Attach the LoRA") == 1


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_names_with_a_prefix_are_the_only_error(adapter: Path) -> None:
    rewrite(adapter, lambda weights: {f"_orig_mod.{key}": value for key, value in weights.items()})
    result = audit(adapter, loader=load, base_model=loading_world.llama)
    assert errors(result) == ["compile-prefix"]
    assert "keys" in result.named("failed")
    lines = flat(shown(result, verbose=True))
    assert CAUSES["compile-prefix"].remedy in lines
    for remedy in ("Look at what your loader does after", "load them last", "Attach the LoRA"):
        assert remedy not in lines
    assert "From this follows: " in lines


def test_zeros_that_were_merged_are_not_called_lost(adapter: Path) -> None:
    rewrite(adapter, lambda ws: {key: value * 0 if "lora_B" in key else value for key, value in ws.items()})
    result = audit(adapter, loader=lambda path: load(path).merge_and_unload(), base_model=loading_world.llama)
    assert errors(result) == ["adapter-all-zero"]


def test_what_follows_is_a_warning_that_names_its_root() -> None:
    root = finding("nan-or-inf", "2 tensors hold NaN.", ["q.lora_A.weight"])
    effects = [finding("nan-in-model", "The output is not finite."), finding("generate-not-finite", "NaN.")]
    found = with_roots([*effects, root])
    assert [(each.severity, each.follows, each.remedy) for each in found[:2]] == [("warning", "nan-or-inf", "")] * 2
    assert found[2] == root
    assert root_of(root, effects) is None
    other = finding("config-rank", "r is 8.")
    assert with_roots([root, other]) == [root, other]


def test_the_last_layer_missing_is_the_adapters_lack(adapter: Path) -> None:
    rewrite(adapter, lambda ws: {key: value for key, value in ws.items() if "layers.2" not in key})
    result = audit(adapter, model=loading_world.adapt(loading_world.llama()))
    assert errors(result) == ["lora-slot-empty"]


def test_merged_twice_is_not_called_fine(adapter: Path) -> None:
    config = peft.PeftConfig.from_pretrained(str(adapter))

    def twice(path: Path) -> torch.nn.Module:
        config.lora_alpha *= 2
        return peft.PeftModel.from_pretrained(loading_world.llama(), str(path), config=config).merge_and_unload()

    result = audit(adapter, loader=twice, base_model=loading_world.llama)
    assert "merged-twice" in errors(result)
    assert "adapter-merged" not in {each.cause for each in result.findings}


def test_weights_without_values_are_called_so(adapter: Path) -> None:
    result = audit(adapter, loader=lambda path: load(path).to("meta"), inputs={"input_ids": IDS})
    assert errors(result)[0] == "not-materialised"
    assert "adapter-inactive" not in {each.cause for each in result.findings}


def test_another_base_under_a_merged_adapter(adapter: Path) -> None:
    def other(path: Path) -> torch.nn.Module:
        model = loading_world.llama()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
        return peft.PeftModel.from_pretrained(model, str(path)).merge_and_unload()

    result = audit(adapter, loader=other, base_model=loading_world.llama)
    assert errors(result) == ["base-overwritten"]
    assert result.meaning == "the weights are another base model's"
    assert "Attach the LoRA" not in " ".join(each.remedy for each in result.findings)


NORMS = [f"language_model.base_model.model.layers.{at}.norm.weight" for at in range(2)]
WEIGHTS_OF_LAYERS = [f"language_model.base_model.model.layers.{at}.fc.base_layer.weight" for at in range(2)]


@pytest.mark.parametrize(
    ("root", "names", "effect", "told"),
    [
        ("wrong-stage", ["mlp1.0.weight", "mlp1.0.bias"], "base-overwritten", ["mlp1.0.weight"]),
        ("ddp-prefix", [f"module.{key}" for key in WEIGHTS_OF_LAYERS], "base-overwritten", WEIGHTS_OF_LAYERS),
        ("wrapper-prefix", ["model.layers.0.fc.weight"], "base-overwritten", ["model.layers.0.fc.base_layer.weight"]),
        ("wrapper-prefix", [*NORMS, *WEIGHTS_OF_LAYERS], "nan-or-inf", WEIGHTS_OF_LAYERS[:1]),
        ("target-mismatch", ["layers.0.fc.lora_A.weight"], "wrapper-prefix", WEIGHTS_OF_LAYERS),
        ("wrong-stage", ["mlp1.0.weight"], "nan-in-model", []),
    ],
)
def test_what_was_never_filled_explains_what_the_model_holds_instead(
    root: str, names: list[str], effect: str, told: list[str]
) -> None:
    found = with_roots([finding(effect, "e", told, severity="error"), finding(root, "r", names, severity="error")])
    assert [(each.cause, each.severity) for each in found] == [(effect, "warning"), (root, "error")]
    assert found[0].follows == root


def test_a_model_without_lora_on_a_component_is_one_error_and_no_circle() -> None:
    """InternVL with `use_llm_lora` lost from its config: the base weights have other names for the same reason."""
    factors = [key.replace("base_layer", f"lora_{factor}.default") for key in WEIGHTS_OF_LAYERS for factor in "AB"]
    told = [
        finding("values-differ", "v", WEIGHTS_OF_LAYERS),
        finding("target-mismatch", "t", factors),
        finding("wrapper-prefix", "w", [*NORMS, *WEIGHTS_OF_LAYERS], severity="error"),
    ]
    for order in (told, told[::-1]):
        assert {each.cause for each in with_roots(order) if each.severity == "error"} == {"target-mismatch"}


def test_one_tensor_in_another_place_is_not_explained_by_what_is_missing() -> None:
    told = [finding("wrong-stage", "r", ["mlp1.0.weight"]), finding("base-overwritten", "e", ["llm.fc.weight"])]
    assert {each.cause for each in with_roots(told) if each.severity == "error"} == {"wrong-stage", "base-overwritten"}


def layers(number: int) -> dict[str, tuple[int, ...]]:
    found = {f"model.layers.{n}.{name}.weight": (8, 8) for n in range(number) for name in ("q", "k", "mlp")}
    return {**found, "model.embed.weight": (99, 8)}


@pytest.mark.parametrize(("lost", "roots"), [([], ["missing-layers"]), (["model.layers.0.q.weight"], ["lost-weights"])])
def test_layers_that_the_checkpoint_lacks_are_said_to_be_layers(lost: list[str], roots: list[str]) -> None:
    file = {key: shape for key, shape in layers(2).items() if key not in lost}
    found = with_roots(compare(file, layers(4)).findings)
    assert {each.cause for each in found if each.severity == "error"} == {"missing-layers", *roots}
