from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from pytest_lora_ckpt import assert_adapter_active
from pytest_lora_ckpt.lora.layers import AdapterLayer, adapter_layers
from pytest_lora_ckpt.lora.scaling import scaling_differences
from pytest_lora_ckpt.manifest.facts import module_scalings
from pytest_lora_ckpt.proof import adapter_effect
from pytest_lora_ckpt.proof.effect import describe_adapters
from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs
from tests.helpers.tiny_adapters import INPUTS, KINDS, LINEAR, Tiny, adapted, lora_config, train

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*following adapters were merged:UserWarning"),
]


def by_leaf(model: nn.Module) -> dict[str, AdapterLayer]:
    layers = adapter_layers(model)
    found = {each.module.rpartition(".")[2]: each for each in layers}
    assert len(found) == len(layers)
    return found


def two_adapters(*, b_is_trained: bool = True, **config: Any) -> Any:
    model = adapted(blocks=2)
    model.add_adapter("b", lora_config(**{"r": 2, **config}))
    if b_is_trained:
        train(model, "b")
    return model


# What a layer is


def test_the_kinds_of_peft() -> None:
    layers = by_leaf(adapted(KINDS))
    assert {name: each.kind for name, each in layers.items()} == {
        "embed": "embedding",
        "q_proj": "linear",
        "v_proj": "linear",
        "conv2d": "conv",
        "conv1d": "conv",
        "pointwise": "conv",
        "grouped": "conv",
    }
    assert layers["v_proj"].down.shape == (4, 6)
    assert layers["v_proj"].up.shape == (8, 4)
    assert layers["conv1d"].down.shape == (4, 6, 3)
    assert layers["embed"].down.shape == (4, 11)
    assert all(each.weight is not None and each.active and each.applied for each in layers.values())
    assert all((each.rank, each.alpha, each.scaling) == (4, 8.0, 2.0) for each in layers.values())


def test_the_paths_are_those_of_the_model_and_in_its_order() -> None:
    model = adapted(blocks=2)
    layers = adapter_layers(model)
    assert [each.module for each in layers] == [
        f"base_model.model.layers.{block}.{leaf}" for block in (0, 1) for leaf in LINEAR
    ]
    for each in layers:
        module: Any = model.get_submodule(each.module)
        assert torch.equal(each.up, module.lora_B["default"].weight)
        assert each.weight is not None
        assert each.weight.data_ptr() == module.base_layer.weight.data_ptr()


def test_patterns_dora_and_rslora() -> None:
    plain = by_leaf(adapted(rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 3}))
    assert (plain["v_proj"].rank, plain["v_proj"].alpha, plain["v_proj"].scaling) == (2, 3.0, 1.5)
    assert (plain["q_proj"].dora, plain["q_proj"].rslora) == (False, False)
    dora = by_leaf(adapted(use_dora=True, use_rslora=True))["q_proj"]
    assert (dora.dora, dora.rslora, dora.scaling) == (True, True, 4.0)
    assert dora.others["lora_magnitude_vector"].shape == (6,)


@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match:RuntimeWarning")
def test_parameters_that_stack_experts() -> None:
    model = adapted([], target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    layers = adapter_layers(model)
    assert {each.parameter: (each.kind, each.rank, each.down.shape[0]) for each in layers} == {
        "gate_up_proj": ("stacked", 4, 12),
        "down_proj": ("stacked", 4, 12),
    }
    assert {each.weight.shape for each in layers if each.weight is not None} == {(3, 6, 10), (3, 5, 6)}


def test_an_attention_has_two() -> None:
    from peft import get_peft_model

    model = get_peft_model(nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2)}), lora_config(["attn"]))
    outer, inner = adapter_layers(model)
    assert (outer.parameter, outer.up.shape) == ("in_proj_weight", (24, 4))
    assert (inner.parameter, inner.up.shape) == ("weight", (8, 4))


def test_adalora_folds_its_singular_values_in() -> None:
    from peft import AdaLoraConfig, get_peft_model

    model = get_peft_model(Tiny(), AdaLoraConfig(target_modules=["q_proj"], init_r=4, total_step=10))
    assert adapter_layers(model)[0].changes_nothing
    train(model)
    layer = adapter_layers(model)[0]
    module: Any = model.get_submodule(layer.module)
    torch.testing.assert_close(layer.up @ layer.down * layer.scaling, module.get_delta_weight("default").detach())


@pytest.mark.filterwarnings("ignore:Adapter name 'lora' should not be contained in the prefix:UserWarning")
@pytest.mark.parametrize("name", ["lora", "weight", "lora_A"])
def test_an_adapter_of_an_odd_name(name: str) -> None:
    layers = adapter_layers(adapted(name=name))
    assert [each.adapter for each in layers] == [name, name]
    assert all(each.active for each in layers)


def test_a_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = adapted(trained=False)
    layers = adapter_layers(model)
    assert len(layers) == 2
    assert not any(each.has_data or each.changes_nothing for each in layers)
    assert all(each.finite for each in layers)


def test_what_changes_nothing() -> None:
    fresh = by_leaf(adapted([*LINEAR, "embed"], trained=False))
    assert fresh["embed"].up.any()  # PEFT draws lora_embedding_B, and begins A at zero.
    assert all(each.changes_nothing for each in fresh.values())
    model = adapted()
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.set_scale("default", 0.0)
    assert all(each.changes_nothing for each in adapter_layers(model))


def test_a_bias_on_lora_b_is_an_update_too() -> None:
    model = adapted(["q_proj"], lora_bias=True, trained=False)
    assert adapter_layers(model)[0].changes_nothing
    assert adapter_effect(model, INPUTS).modules == 1
    module: Any = model.get_submodule("base_model.model.layers.0.q_proj")
    module.lora_B["default"].bias.data.fill_(0.5)
    layer = adapter_layers(model)[0]
    assert not layer.changes_nothing
    assert adapter_effect(model, INPUTS).active


def test_no_adapter_and_an_unloaded_one() -> None:
    assert adapter_layers(Tiny()) == []
    assert adapter_layers(adapted().merge_and_unload()) == []


# Other libraries


class Loralib(nn.Linear):
    """As loralib does: eval() merges, train() takes it back."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.lora_A, self.lora_B = nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.ones(4, 2))
        self.lora_alpha, self.scaling, self.merged = 4, 2.0, False

    def train(self, mode: bool = True) -> Any:  # noqa: FBT001, FBT002  # As torch has it.
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.scaling * self.lora_B.data @ self.lora_A.data
            self.merged = not mode
        return self

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return super().forward(input)


def test_loralib_merges_in_eval_mode_and_is_put_back() -> None:
    model = nn.Sequential(Loralib())
    weight = model[0].weight.detach().clone()
    layer = adapter_layers(model)[0]
    assert (layer.module, layer.adapter, layer.rank, layer.alpha, layer.scaling) == ("0", None, 2, 4.0, 2.0)
    assert layer.merged == 0
    assert adapter_effect(model, {"input": torch.ones(1, 4)}).state == "merged"
    assert (model.training, model[0].training, model[0].merged) == (True, True, False)
    torch.testing.assert_close(model[0].weight.detach(), weight)
    model.eval()
    assert adapter_layers(model)[0].merged == 1
    adapter_effect(model, {"input": torch.ones(1, 4)})
    assert (model.training, model[0].training, model[0].merged) == (False, False, True)


@pytest.mark.parametrize(
    ("down", "up"), [("lora_a", "lora_b"), ("lora_down", "lora_up"), ("lora_A", "lora_B"), ("down", "up")]
)
def test_other_conventions_by_name(down: str, up: str) -> None:
    holder = nn.Module()
    setattr(holder, down, nn.Linear(6, 3, bias=False))
    setattr(holder, up, nn.Linear(3, 8, bias=False))
    model = nn.Module()
    model.fc = nn.Module()
    model.fc.linear = nn.Linear(6, 8)
    if down == "down":
        model.fc.lora = holder
    else:
        model.fc.add_module(down, getattr(holder, down))
        model.fc.add_module(up, getattr(holder, up))
    layer = adapter_layers(model)[0]
    assert (layer.module, layer.rank, layer.scaling, layer.rslora, layer.dora) == ("fc", 3, None, None, None)
    assert layer.weight is not None
    assert layer.weight.data_ptr() == model.fc.linear.weight.data_ptr()


def test_half_a_pair_is_no_adapter() -> None:
    model = nn.Module()
    model.fc = nn.Module()
    model.fc.lora_a = nn.Linear(6, 3)
    assert adapter_layers(model) == []


# What is switched on


def test_an_adapter_beside_the_active_one_is_healthy() -> None:
    model = two_adapters()
    states = {(each.adapter, each.active, each.applied) for each in adapter_layers(model)}
    assert states == {("default", True, True), ("b", False, False)}
    effect = adapter_effect(model, INPUTS)
    assert effect.active
    assert effect.state is None
    assert effect.adapters == ("default: 4 modules, active", "b: 4 modules, not active")
    assert_adapter_active(model, INPUTS)


def test_two_active_at_once() -> None:
    model = two_adapters(target_modules=["q_proj"])
    model.base_model.set_adapter(["default", "b"])
    assert all(each.active and each.applied for each in adapter_layers(model))
    assert adapter_effect(model, INPUTS).adapters == ("default: 4 modules, active", "b: 2 modules, active")
    assert adapter_effect(model, INPUTS).active


def test_a_weighted_adapter_of_two() -> None:
    model = two_adapters()
    model.add_weighted_adapter(["default", "b"], [0.5, 0.5], "sum", combination_type="cat")
    model.set_adapter("sum")
    layers = [each for each in adapter_layers(model) if each.active]
    assert {(each.adapter, each.rank, each.scaling) for each in layers} == {("sum", 6, 1.0)}
    assert adapter_effect(model, INPUTS).active


def test_different_active_adapters_and_some_layers_disabled() -> None:
    model = two_adapters()
    model.get_submodule("base_model.model.layers.0.q_proj").set_adapter("b")
    model.get_submodule("base_model.model.layers.1.q_proj").enable_adapters(enabled=False)
    effect = adapter_effect(model, INPUTS)
    assert effect.active
    assert effect.state is None
    assert effect.adapters == (
        "default: 4 modules, active in 3 of 4, disabled in 1 of 4",
        "b: 4 modules, active in 1 of 4, disabled in 1 of 4",
    )
    applied = [(each.module[-8:], each.adapter) for each in adapter_layers(model) if each.applied]
    assert applied == [("0.q_proj", "b"), ("0.v_proj", "default"), ("1.v_proj", "default")]


def test_disabled_everywhere() -> None:
    model = adapted()
    with model.disable_adapter():
        assert not any(each.enabled or each.applied for each in adapter_layers(model))
        assert adapter_effect(model, INPUTS).state == "disabled"
        assert adapter_effect(model, INPUTS).adapters == ("default: 2 modules, active, disabled",)


# What is merged


def test_merged_once_by_merging_two_times() -> None:
    model = adapted()
    model.merge_adapter()
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    assert [each.merged for each in adapter_layers(model)] == [1, 1]
    assert all(each.applied for each in adapter_layers(model))
    assert adapter_effect(model, INPUTS).state == "merged"
    model.unmerge_adapter()
    assert [each.merged for each in adapter_layers(model)] == [0, 0]
    assert adapter_effect(model, INPUTS).active


def test_merged_twice_by_naming_it_twice() -> None:
    model = adapted()
    before = adapter_layers(model)[0].weight
    assert before is not None
    before = before.clone()
    model.merge_adapter(["default", "default"])
    layer = adapter_layers(model)[0]
    assert layer.weight is not None
    torch.testing.assert_close(layer.weight - before, 2 * layer.scaling * layer.up @ layer.down)
    assert layer.merged == 2
    effect = adapter_effect(model, INPUTS)
    assert effect.state == "merged twice"
    with pytest.raises(
        AssertionError, match=r"merged twice into the base weights \(default: 2 modules, active, merged"
    ):
        assert_adapter_active(model, INPUTS)


def test_peft_leaves_out_an_active_adapter_beside_a_merged_one() -> None:
    model = two_adapters()
    model.eval()
    only_default = model(**INPUTS)["x"]
    model.base_model.set_adapter(["default", "b"])
    both = model(**INPUTS)["x"]
    model.merge_adapter(["default"])
    layers = adapter_layers(model)
    assert {(each.adapter, each.merged, each.applied) for each in layers} == {("default", 1, True), ("b", 0, False)}
    assert describe_adapters(layers)[1] == "b: 4 modules, active, left out because another adapter is merged"
    torch.testing.assert_close(model(**INPUTS)["x"], only_default)
    assert not torch.allclose(model(**INPUTS)["x"], both)


# NaN


class Hides(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Any) -> torch.Tensor:
        out: dict[str, torch.Tensor] = self.inner(**inputs)
        return torch.nan_to_num(out["v"])


@pytest.mark.parametrize("place", ["lora_A", "lora_B", "lora_magnitude_vector"])
def test_nan_in_the_adapter_is_told_though_the_output_is_finite(place: str) -> None:
    model = Hides(adapted(blocks=3, use_dora=True))
    for name, parameter in model.named_parameters():
        if place in name and (".layers.0.v_proj" in name or ".layers.2.v_proj" in name):
            parameter.data.view(-1)[0] = float("nan")
    effect = adapter_effect(model, INPUTS)
    assert effect.finite
    assert not effect.active
    assert effect.broken == tuple(f"inner.base_model.model.layers.{block}.v_proj" for block in (0, 2))
    with pytest.raises(AssertionError, match=r"NaN or Inf in 2 modules: inner.base_model.model.layers.\{0,2\}.v_proj"):
        assert_adapter_active(model, INPUTS)


def test_a_query_of_nan_in_a_language_model() -> None:
    model = make_panorama_vlm()
    for name, parameter in model.named_parameters():
        if "q_proj.lora_A" in name:
            parameter.data.fill_(float("nan"))
    effect = adapter_effect(model, replica_inputs())
    assert not effect.active
    assert len(effect.broken) == 2
    assert "q_proj" in effect.why


def test_names_without_end_stay_short() -> None:
    model = adapted(blocks=40)
    for parameter in model.parameters():
        parameter.data.fill_(float("inf"))
    assert len(adapter_effect(model, INPUTS).why) < 300


# One reader of the scaling for the manifest and for the audit


class TorchtuneLoRALinear(nn.Module):
    """What torchtune.modules.peft.LoRALinear holds."""

    def __init__(self) -> None:
        super().__init__()
        self.rank, self.alpha, self.merged, self.disabled = 2, 16, False, False
        self.weight = nn.Parameter(torch.ones(4, 8))
        self.lora_a, self.lora_b = nn.Linear(8, 2, bias=False), nn.Linear(2, 4, bias=False)


class LitgptLoRALinear(nn.Module):
    """What litgpt.lora.LoRALinear holds; loralib's Linear has the weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.r, self.lora_alpha, self.scaling, self.merged = 2, 16, 8.0, False
        self.linear = nn.Linear(8, 4)
        self.lora_A, self.lora_B = nn.Parameter(torch.ones(2, 8)), nn.Parameter(torch.ones(4, 2))


class KohyaLoRAModule(nn.Module):
    """What networks.lora.LoRAModule of kohya's sd-scripts holds."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_dim, self.scale = 2, 8.0
        self.register_buffer("alpha", torch.tensor(16))
        self.lora_down, self.lora_up = nn.Linear(8, 2, bias=False), nn.Linear(2, 4, bias=False)


@pytest.mark.parametrize("layer", [TorchtuneLoRALinear, LitgptLoRALinear, KohyaLoRAModule])
def test_the_manifest_and_the_layers_agree_on_the_scaling(layer: type[nn.Module]) -> None:
    model = nn.ModuleDict({"q_proj": layer()})
    [found] = adapter_layers(model)
    assert (found.module, found.rank, found.scaling, found.alpha) == ("q_proj", 2, 8.0, 16)
    assert module_scalings(adapter_layers(model)) == {"default": {"q_proj": 8.0}}
    [difference] = scaling_differences([found], {"r": 2, "lora_alpha": 4})
    assert (difference.in_force, difference.expected) == (8.0, 2.0)


def test_a_layer_inside_a_checkpoint_wrapper_is_found() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = nn.ModuleDict({"q_proj": checkpoint_wrapper(TorchtuneLoRALinear())})
    assert [each.scaling for each in adapter_layers(model)] == [8.0]
    assert module_scalings(adapter_layers(model)) == {"default": {"q_proj": 8.0}}


def test_a_scaling_that_is_not_a_number() -> None:
    layer = TorchtuneLoRALinear()
    layer.alpha = math.nan
    model = nn.ModuleDict({"q_proj": layer})
    assert [each.finite for each in adapter_layers(model)] == [False]
    assert module_scalings(adapter_layers(model)) == {}
