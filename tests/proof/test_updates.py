from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_lora_ckpt.lora.layers import AdapterLayer, adapter_layers
from pytest_lora_ckpt.proof import updates
from pytest_lora_ckpt.proof.updates import update_sizes
from tests.helpers.tiny_adapters import KINDS, adapted, lora_config, train

pytestmark = pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def delta(model: Any, layer: AdapterLayer) -> torch.Tensor:
    """The update as PEFT forms it."""
    result: torch.Tensor = model.get_submodule(layer.module).get_delta_weight(layer.adapter)
    return result.detach().double()


def linear(down: torch.Tensor, up: torch.Tensor, **other: Any) -> AdapterLayer:
    return AdapterLayer("q", "default", "linear", down, up, **other)


@pytest.mark.parametrize(
    "config",
    [
        {"targets": [name for name in KINDS if name != "grouped"]},
        {"targets": KINDS[:2], "use_rslora": True},
        {"targets": KINDS[:2], "use_dora": True},
        {"targets": KINDS[:2], "rank_pattern": {"q_proj": 1}, "alpha_pattern": {"v_proj": 5}},
        {"targets": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    ],
    ids=["kinds", "rslora", "dora", "patterns", "stacked"],
)
def test_the_norms_of_what_peft_forms(config: dict[str, Any]) -> None:
    model = adapted(**config)
    layers = adapter_layers(model)
    sizes = update_sizes(layers)
    assert [(each.module, each.adapter) for each in sizes] == [(each.module, each.adapter) for each in layers]
    for layer, size in zip(layers, sizes, strict=True):
        assert layer.weight is not None
        assert size.update == pytest.approx(float(delta(model, layer).norm()), rel=1e-5)
        assert size.weight == pytest.approx(float(layer.weight.double().norm()), rel=1e-9)
        assert size.relative == pytest.approx(
            float(delta(model, layer).norm() / layer.weight.double().norm()), rel=1e-5
        )
        assert size.finite
        assert not size.zero


def test_a_convolution_in_groups_by_its_response_to_impulses() -> None:
    model = adapted(["grouped"])
    layer = adapter_layers(model)[0]
    module: Any = model.get_submodule(layer.module)
    impulses = torch.zeros(4, 4, 5, 5)
    impulses[range(4), range(4), 2, 2] = 1.0
    with torch.no_grad():
        response = module.lora_B["default"](module.lora_A["default"](impulses)) * layer.scaling
    assert update_sizes([layer])[0].update == pytest.approx(float(response.norm()), rel=1e-5)


@st.composite
def factors(draw: st.DrawFn) -> tuple[AdapterLayer, torch.Tensor]:
    """Factors of any shape, dtype and size, and the update that they make."""
    rank, blocks = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rows, columns = draw(st.integers(1, 9)) * blocks, draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["linear", "stacked"]))
    dtype = draw(st.sampled_from(DTYPES))
    torch.manual_seed(draw(st.integers(0, 999)))
    powers = st.integers(-4, 2) if dtype == torch.float16 else st.integers(-30, 30)
    down = (torch.randn(rank * blocks, columns, dtype=torch.float64) * 10.0 ** draw(powers)).to(dtype)
    scaling = draw(st.sampled_from([1.0, 0.25, -2.0, 1e-3]))
    factor = 10.0 ** draw(powers)
    if kind == "stacked":
        up = (torch.randn(rows, rank * blocks, dtype=torch.float64) * factor).to(dtype)
        experts = down.double().reshape(blocks, rank, columns), up.double().reshape(rows, rank, blocks)
        update = torch.einsum("eri,ore->eoi", *experts)
    else:
        up = (torch.randn(rows, rank, dtype=torch.float64) * factor).to(dtype)
        parts = zip(up.double().chunk(blocks), down.double().chunk(blocks), strict=True)
        update = torch.cat([b @ a for b, a in parts])
    layer = AdapterLayer("m", None, kind, down, up, scaling=scaling, rank=rank)  # type: ignore[arg-type]
    return layer, scaling * update


@settings(deadline=None)
@given(factors())
def test_the_gram_matrices_give_the_norm_of_the_product(case: tuple[AdapterLayer, torch.Tensor]) -> None:
    layer, update = case
    size = update_sizes([layer])[0]
    product = abs(layer.scaling or 0.0) * float(layer.down.double().norm() * layer.up.double().norm())
    # Where terms cancel, the root of the rounding of a double is left.
    assert size.update == pytest.approx(float(update.norm()), rel=1e-9, abs=1e-7 * product)
    assert size.finite
    assert size.zero == (not update.any())


def test_long_factors_are_summed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = linear(torch.randn(3, 70), torch.randn(50, 3), weight=torch.randn(50, 70).T.contiguous().T)
    whole = update_sizes([layer])[0]
    monkeypatch.setattr(updates, "_PIECE", 8)
    pieces = update_sizes([layer])[0]
    assert pieces.update == pytest.approx(whole.update)
    assert pieces.weight == pytest.approx(whole.weight)
    assert whole.weight == pytest.approx(float(torch.as_tensor(layer.weight).double().norm()))


def test_a_tiny_update_is_not_lost() -> None:
    tiny = linear(torch.full((2, 3), 1e-30), torch.full((3, 2), 1e-30), scaling=1e-3)
    size = update_sizes([tiny])[0]
    assert size.update == pytest.approx(1e-3 * 2e-60 * 3, rel=1e-6)
    assert not size.zero


def test_a_huge_one_is_finite() -> None:
    size = update_sizes([linear(torch.full((2, 3), 1e30), torch.full((3, 2), 1e30))])[0]
    assert size.update == pytest.approx(6e60)
    assert size.finite
    huge = torch.full((2, 3), 1e200, dtype=torch.float64)
    size = update_sizes([linear(huge, huge.T)])[0]
    assert (size.update, size.finite) == (math.inf, True)


def test_factors_that_cancel() -> None:
    half = torch.randn(1, 100, generator=torch.Generator().manual_seed(0))
    layer = linear(torch.cat([half, half]), torch.cat([half.T, -half.T], 1))
    size = update_sizes([layer])[0]
    assert size.update == pytest.approx(0.0, abs=1e-6 * float(half.norm()) ** 2)


def test_zero_updates() -> None:
    model = adapted([*KINDS[:2], "embed"], trained=False)
    assert all(each.zero and each.update == 0 and each.relative == 0 for each in update_sizes(adapter_layers(model)))
    assert update_sizes([linear(torch.ones(2, 3), torch.ones(3, 2), scaling=0.0)])[0].zero


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["down", "up", "others", "scaling"])
def test_nan_and_inf(value: float, place: str) -> None:
    parts: dict[str, Any] = {"down": torch.ones(2, 3), "up": torch.zeros(3, 2), "scaling": 1.0, "others": {}}
    if place == "others":
        parts["others"] = {"lora_magnitude_vector": torch.tensor([1.0, value])}
    elif place == "scaling":
        parts["scaling"] = value
    else:
        parts[place][1, 1] = value
    size = update_sizes([linear(**parts)])[0]
    assert not size.finite
    assert not size.zero


def test_a_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = adapted(trained=False)
    sizes = update_sizes(adapter_layers(model))
    assert [(each.update, each.weight, each.relative, each.finite, each.zero) for each in sizes] == [
        (None, None, None, True, False)
    ] * 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_have_no_norm(dtype: torch.dtype) -> None:
    model = adapted()
    for module in model.modules():
        if hasattr(module, "lora_A"):
            base = module.get_base_layer()
            base.weight = torch.nn.Parameter(base.weight.data.to(dtype), requires_grad=False)
    sizes = update_sizes(adapter_layers(model))
    assert all(each.weight is None and each.relative is None and each.update for each in sizes)


def test_weights_are_measured_when_asked_for_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted()
    model.add_adapter("b", lora_config())
    train(model, "b")
    layers = adapter_layers(model)
    measured: list[torch.Tensor] = []
    norm = updates._norm
    monkeypatch.setattr(updates, "_norm", lambda weight: measured.append(weight) or norm(weight))
    assert all(each.weight is None for each in update_sizes(layers, weights=False))
    assert not measured
    sizes = update_sizes(layers)
    assert len(sizes) == 4
    assert len(measured) == 2
    assert sizes[0].weight == sizes[1].weight != sizes[2].weight


@pytest.mark.parametrize("shapes", [((3, 4), (5, 2)), ((0, 4), (5, 0)), ((4,), (5, 1))])
def test_factors_that_do_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    size = update_sizes([linear(torch.ones(shapes[0]), torch.ones(shapes[1]))])[0]
    assert size.update is None
    assert not size.zero


class Largest(TorchDispatchMode):
    """How many elements the largest tensor has that an operation made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        held = {each.untyped_storage().data_ptr() for each in args if isinstance(each, torch.Tensor)}
        for each in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(each, torch.Tensor) and each.untyped_storage().data_ptr() not in held:
                self.numel = max(self.numel, each.numel())
        return out


def test_nothing_of_the_size_of_a_weight_is_made() -> None:
    layer = linear(torch.ones(8, 2048), torch.ones(1024, 8), weight=torch.ones(1024, 2048))
    with Largest() as largest:
        size = update_sizes([layer])[0]
    assert size.update == pytest.approx(8 * math.sqrt(1024 * 2048))
    assert size.weight == pytest.approx(math.sqrt(1024 * 2048))
    assert 0 < largest.numel <= updates._PIECE < 1024 * 2048


def test_the_number_of_threads_is_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(AttributeError):
            update_sizes([None])  # type: ignore[list-item]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
