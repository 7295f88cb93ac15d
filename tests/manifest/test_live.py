from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt.manifest import Manifest, ManifestComparison, compare_model, make_manifest
from pytest_lora_ckpt.replicas import make_panorama_vlm
from tests.helpers import projector_world as world

if TYPE_CHECKING:
    from conftest import Recorded

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")


def _slugs(found: ManifestComparison) -> list[str]:
    return [difference.cause for difference in found.differences]


def _loaded(recorded: Recorded, **changes: Any) -> Any:
    model = make_panorama_vlm(**changes)
    model.load_state_dict(recorded.model.state_dict())
    return model


def test_the_model_itself(recorded: Recorded) -> None:
    found = compare_model(recorded.manifest, recorded.model)
    assert not found.differences
    assert (found.same, found.not_compared, found.notes) == (173, {}, ())


def test_under_a_wrapper(recorded: Recorded) -> None:
    found = compare_model(recorded.manifest, torch.nn.ModuleDict({"model": recorded.model}))
    assert not found.differences
    assert found.same == 173


def test_alpha(recorded: Recorded) -> None:
    found = compare_model(recorded.manifest, _loaded(recorded, alpha=16))
    assert _slugs(found) == ["scaling-differs"]
    assert "is scaled by 4 in 14 modules, and was scaled by 2 at training" in found.differences[0].message
    assert found.same == 173


def test_rslora(recorded: Recorded) -> None:
    model = _loaded(recorded)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.scaling = dict.fromkeys(module.scaling, 8 / 4**0.5)
    assert _slugs(compare_model(recorded.manifest, model)) == ["scaling-differs"]


def test_one_module_is_scaled_otherwise(recorded: Recorded) -> None:
    model = _loaded(recorded)
    model.language_model.base_model.model.model.layers[1].mlp.up_proj.scaling["default"] = 1.0
    found = compare_model(recorded.manifest, model)
    assert _slugs(found) == ["scaling-differs"]
    assert len(found.differences[0].keys) == 2
    assert all("layers.1.mlp.up_proj" in key for key in found.differences[0].keys)
    assert not compare_model(make_manifest(model), model).differences


def test_under_another_adapter_name(recorded: Recorded) -> None:
    model = make_panorama_vlm(adapter_name="served", alpha=16)
    model.load_state_dict({key.replace(".default.", ".served."): v for key, v in recorded.model.state_dict().items()})
    found = compare_model(recorded.manifest, model)
    assert _slugs(found) == ["scaling-differs"]
    assert found.same == 173


def test_another_base(recorded: Recorded) -> None:
    state = recorded.model.state_dict()
    model = make_panorama_vlm(seed=1)
    model.load_state_dict({key: state[key] for key in recorded.manifest.trained}, strict=False)
    found = compare_model(recorded.manifest, model)
    assert _slugs(found) == ["other-base"]
    assert "in the model" in found.differences[0].message


def test_exchanged_base_layers(recorded: Recorded) -> None:
    model = _loaded(recorded)
    layers = model.language_model.base_model.model.model.layers
    layers[0], layers[1] = layers[1], layers[0]
    found = compare_model(recorded.manifest, model)
    assert _slugs(found) == ["exchanged-tensors"]
    assert "layers 0 and 1 are exchanged" in found.differences[0].message


def test_an_adapter_that_was_not_loaded(recorded: Recorded) -> None:
    model = make_panorama_vlm(random_lora_b=False)
    base = {key: value for key, value in recorded.model.state_dict().items() if "lora_" not in key}
    model.load_state_dict(base, strict=False)
    found = compare_model(recorded.manifest, model)
    assert _slugs(found) == ["values-differ"]
    assert "28 of 32 trained tensors in the model differ" in found.differences[0].message


def test_merged_into_the_weights(recorded: Recorded) -> None:
    model = copy.deepcopy(recorded.model)
    model.language_model = model.language_model.merge_and_unload()
    found = compare_model(recorded.manifest, model)
    assert not found.differences
    assert found.notes == ("14 adapted weights not compared: the adapter is merged into them.",)
    assert found.same == 173 - 28 - 14


@pytest.mark.filterwarnings("ignore:Model with .tie_word_embeddings=True:UserWarning")
def test_merged_into_an_embedding_that_the_head_is_tied_to() -> None:
    model = make_panorama_vlm(targets=["embed_tokens"])
    manifest = make_manifest(model)
    unloaded = copy.deepcopy(model)
    unloaded.language_model = unloaded.language_model.merge_and_unload()
    model.language_model.merge_adapter()
    unread = sorted(key.split(".")[-2] for key, entry in make_manifest(model).tensors.items() if entry.why)
    assert unread == ["base_layer", "lm_head"]
    for loaded in (model, unloaded):
        found = compare_model(manifest, loaded)
        assert not found.differences
        assert found.notes == ("2 adapted weights not compared: the adapter is merged into them.",)


def test_merged_in_part(recorded: Recorded) -> None:
    model = copy.deepcopy(recorded.model)
    keep = model.language_model.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.clone()
    model.language_model = model.language_model.merge_and_unload()
    model.language_model.model.layers[0].mlp.up_proj.weight.data.copy_(keep)
    found = compare_model(recorded.manifest, model)
    assert found.notes == ("13 adapted weights not compared: the adapter is merged into them, and not into 1 other.",)


def test_merged_in_place(recorded: Recorded) -> None:
    model = copy.deepcopy(recorded.model)
    model.language_model.merge_adapter()
    found = compare_model(recorded.manifest, model)
    assert not found.differences
    assert found.notes == ("14 adapted weights not compared: the adapter is merged into them.",)


def test_merged_into_another_base(recorded: Recorded) -> None:
    model = make_panorama_vlm(seed=1)
    model.language_model = model.language_model.merge_and_unload()
    assert "other-base" in _slugs(compare_model(recorded.manifest, model))


def test_a_plain_model_without_the_adapter(recorded: Recorded) -> None:
    model = make_panorama_vlm(lora=False)
    model.projector.load_state_dict(recorded.model.projector.state_dict())
    found = compare_model(recorded.manifest, model)
    assert _slugs(found) == ["adapter-not-loaded"]
    assert "all 14 weights that were adapted still match the base" in found.differences[0].message
    assert found.notes == ()


def test_a_cast_model(recorded: Recorded) -> None:
    found = compare_model(recorded.manifest, _loaded(recorded).bfloat16())
    assert not found.differences
    assert found.cast == 32
    assert found.not_compared == {"bfloat16 here, float32 in the manifest": 141}


@pytest.mark.slow
def test_a_model_without_data() -> None:
    model = make_panorama_vlm(scale="guide")
    found = compare_model(make_manifest(make_panorama_vlm(scale="guide")), model)
    assert not found.differences
    assert found.not_compared == {"on the meta device": 1335}


def test_a_recorded_model_whose_data_is_gone(recorded: Recorded) -> None:
    found = compare_model(recorded.manifest, copy.deepcopy(recorded.model).to("meta"))
    assert not found.differences
    assert found.not_compared == {"values not readable": 173}


def test_another_model_altogether(recorded: Recorded) -> None:
    assert _slugs(compare_model(recorded.manifest, torch.nn.Conv2d(3, 3, 2))) == ["other-manifest"]


def test_what_is_no_model(recorded: Recorded) -> None:
    with pytest.raises(TypeError, match="compare_model"):
        compare_model(recorded.manifest, Manifest({}))  # type: ignore[arg-type]


def test_values_that_went_through_a_narrower_dtype_are_the_same() -> None:
    model = make_panorama_vlm()
    manifest = make_manifest(model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16().float()
    assert not compare_model(manifest, model).differences
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data[0, 0] += 1e-6  # Rounds to the same, and is not the rounded value.
    assert compare_model(manifest, model).differences


@pytest.mark.parametrize("active", ["default", "second"])
def test_one_of_two_adapters_at_work(active: str) -> None:
    model = world.trained(second=True)
    manifest = make_manifest(model)
    assert not compare_model(manifest, model).differences
    model.set_adapter(active)
    found = compare_model(manifest, model)
    assert _slugs(found) == ["adapter-inactive"]
    assert "2 adapters were at work in training (default, second), and 1 in the model" in found.differences[0].message
    assert not compare_model(make_manifest(model), world.trained(second=True)).differences
