"""Two adapters against each other: modules, updates, whatever else was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import assert_same_adapter, compare_adapters, open_checkpoint
from tests.helpers.adapter_samples import Mixed, llama, wear

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Saved = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")

PROJECTIONS = 6


def adapted(**settings: Any) -> Any:
    torch.manual_seed(1)
    return wear(llama(tie_word_embeddings=False), **{"lora_alpha": 6, **settings})


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    def save(model: Any, name: str = "adapter") -> Path:
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


def each_factor(model: Any, kind: str) -> list[torch.nn.Parameter]:
    return [parameter for name, parameter in model.named_parameters() if kind in name]


def message(one: Any, two: Any, **how: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_same_adapter(one, two, **how)
    return " ".join(str(caught.value).split())


def test_paths_checkpoints_models_and_mappings_in_any_combination(saved: Saved) -> None:
    model = adapted()
    path = saved(model)
    sides = (model, path, str(path), open_checkpoint(path), dict(model.state_dict()))
    for one in sides:
        for two in sides:
            assert_same_adapter(one, two)


def test_two_pairs_of_factors_with_one_product_are_one_update(saved: Saved) -> None:
    model = adapted()
    path = saved(model)
    with torch.no_grad():
        for down, up in zip(each_factor(model, "lora_A"), each_factor(model, "lora_B"), strict=True):
            down.mul_(3.0)
            up.div_(3.0)
    found = compare_adapters(path, model)
    assert found.same
    assert {each.factors for each in found.modules} == {"differ"}
    assert "6 of 6 modules have the same update (A and B are equal: 6 not)" in found.why


def test_the_scaling_counts(saved: Saved) -> None:
    """The same tensors under another alpha are another adapter; and twice B under half the alpha is the same one."""
    one, two = adapted(), adapted(lora_alpha=12)
    text = message(saved(one, "a"), saved(two, "b"))
    assert "6 modules have the same A and B, scaled by 3 here and by 6 there. [scaling-differs]" in text
    assert "-> Write the same lora_alpha, rank and use_rslora beside both." in text
    with torch.no_grad():
        for up in each_factor(two, "lora_B"):
            up.div_(2.0)
    assert_same_adapter(saved(one, "a"), saved(two, "b"))


def test_rslora_counts(saved: Saved) -> None:
    text = message(saved(adapted(), "a"), saved(adapted(use_rslora=True), "b"))
    assert "scaled by 3 here and by 4.24264 there" in text


def test_where_one_does_not_say_its_scaling_it_is_told(saved: Saved) -> None:
    model = adapted()
    found = compare_adapters(saved(model), dict(model.state_dict()))
    assert found.same
    assert len(found.unscaled) == PROJECTIONS
    assert found.why.endswith("the scaling of 6 is not written down in both and was taken to be one.")


def test_other_values(saved: Saved) -> None:
    model = adapted()
    path = saved(model)
    with torch.no_grad():
        first, second, *_ = each_factor(model, "lora_B")
        first.mul_(1.5)
        second.mul_(1.001)
    text = message(path, model)
    assert "4 of 6 modules have the same update" in text
    assert "The updates of 2 modules differ: by up to 33.33% (model.layers.0.self_attn.q_proj). [values-differ]" in text
    assert "model.layers.0.self_attn.{q,v}_proj" in text
    assert message(path, model, rtol=0.01).count("differ: by up to 33.33%") == 1
    assert_same_adapter(path, model, rtol=0.34)
    assert_same_adapter(path, model, atol=1e9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_is_within_the_tolerance_of_its_dtype(saved: Saved, dtype: torch.dtype) -> None:
    model = adapted()
    path = saved(model)
    found = compare_adapters(path, model.to(dtype))
    assert found.same
    assert {each.factors for each in found.modules} == {"cast"}
    assert not compare_adapters(path, model, rtol=1e-7).same


@pytest.mark.parametrize(("dtype", "share"), [(torch.bfloat16, 0.01), (torch.float16, 0.003)])
def test_a_small_step_of_training_is_no_rounding(saved: Saved, dtype: torch.dtype, share: float) -> None:
    model = adapted().to(dtype)
    path = saved(model)
    with torch.no_grad():
        for factor in each_factor(model, "lora_B"):
            factor.add_(share * factor.float().norm() / factor.numel() ** 0.5 * torch.randn(factor.shape).to(dtype))
    assert len(compare_adapters(path, model).differing) == 6


def test_other_modules(saved: Saved) -> None:
    one, two = adapted(), adapted(target_modules=["q_proj", "v_proj", "o_proj"])
    found = compare_adapters(saved(one, "a"), saved(two, "b"))
    assert found.only_one == ()
    assert found.only_two == tuple(f"model.layers.{n}.self_attn.o_proj" for n in range(3))
    text = message(saved(two, "b"), saved(one, "a"))
    assert "3 modules are adapted in b alone." in text
    assert "3 model.layers.{0..2}.self_attn.o_proj" in text
    assert "-> Save both from one model" in text


def test_another_rank_may_be_the_same_update(saved: Saved) -> None:
    """A factor with rows of zeros adds nothing, where the scaling is the same."""
    one, two = adapted(r=2, lora_alpha=2), adapted(r=4, lora_alpha=4)
    with torch.no_grad():
        for kind, axis in (("lora_A", 0), ("lora_B", 1)):
            for small, large in zip(each_factor(one, kind), each_factor(two, kind), strict=True):
                large.zero_().narrow(axis, 0, 2).copy_(small)
    assert_same_adapter(saved(one, "a"), dict(two.state_dict()))


def test_whole_modules_that_were_trained(saved: Saved) -> None:
    model = adapted(modules_to_save=["lm_head"])
    path = saved(model)
    found = compare_adapters(path, model)
    assert found.same
    assert [each.outcome for each in found.trained] == ["equal"]
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.add_(1.0)
    assert "1 other trained tensor differ" in message(path, model)
    without = saved(adapted(), "without")
    assert compare_adapters(path, without).lost == ("base_model.model.lm_head.weight",)
    assert "1 trained tensor is in one alone" in message(without, path)


def test_magnitudes_of_dora(saved: Saved) -> None:
    model = adapted(use_dora=True)
    path = saved(model)
    assert len(compare_adapters(path, model).trained) == PROJECTIONS
    assert_same_adapter(model, path)
    with torch.no_grad():
        each_factor(model, "magnitude")[0].mul_(2.0)
    assert "1 other trained tensor differ" in message(path, model)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_convolutions_in_groups_and_embeddings(saved: Saved) -> None:
    def mixed() -> Any:
        torch.manual_seed(3)
        return wear(Mixed(), target_modules=["grouped", "conv", "linear", "table"])

    model, path = mixed(), saved(mixed())
    assert len(compare_adapters(path, model).modules) == 4
    assert_same_adapter(path, model)
    for name in ("grouped", "conv", "table"):
        model = mixed()
        with torch.no_grad():
            each_factor(model, f"{name}.lora")[-1].mul_(2.0)
        assert [each.module for each in compare_adapters(path, model).differing] == [name]


def test_one_of_several_adapters_by_its_name(saved: Saved) -> None:
    model = adapted()
    path = saved(model)
    model.add_adapter("other", model.peft_config["default"])
    assert_same_adapter(path, model, adapter="default")
    assert "in PeftModel alone" in message(path, model)
    with pytest.raises(AssertionError, match="0 of 6 modules have the same update"):
        assert_same_adapter(path, model, adapter="other")


def test_not_finite_values_are_the_same_only_bit_for_bit(saved: Saved) -> None:
    model = adapted()
    with torch.no_grad():
        each_factor(model, "lora_B")[0].fill_(torch.nan)
    path = saved(model)
    assert_same_adapter(path, path)
    with torch.no_grad():
        each_factor(model, "lora_B")[0].fill_(torch.inf)
    assert "The updates of 1 module differ" in message(path, model)


def test_what_holds_no_adapter() -> None:
    base = {"q.weight": torch.ones(2, 2)}
    assert "Neither of the two holds LoRA" in message(base, base)
    with pytest.raises(TypeError, match=r"This takes a path, a Checkpoint, an nn\.Module, or a mapping"):
        assert_same_adapter(3, base)
