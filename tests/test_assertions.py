from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import (
    Stage,
    assert_adapter_active,
    assert_loaded_ratio,
    assert_lora_complete,
    assert_lora_loaded,
    assert_no_nonlora_missing,
    assert_stage,
    compare,
    open_checkpoint,
)
from pytest_lora_ckpt.faults import FAULTS
from pytest_lora_ckpt.replicas import make_panorama_vlm, save_replica

if TYPE_CHECKING:
    from pathlib import Path

PAIR: dict[str, tuple[int, ...]] = {"q.lora_A.default.weight": (4, 8), "q.lora_B.default.weight": (8, 4)}
WRAPPED = {"q.base_layer.weight": (8, 8), **PAIR}


@pytest.fixture(scope="module")
def healthy() -> Any:
    """What torch says of a full checkpoint in a model with LoRA."""
    model = make_panorama_vlm()
    return model, model.load_state_dict(make_panorama_vlm(seed=1).state_dict(), strict=False)


@pytest.fixture(scope="module")
def broken() -> Any:
    """What torch says of the same checkpoint in a plain model."""
    model = make_panorama_vlm(lora=False)
    return model, model.load_state_dict(make_panorama_vlm().state_dict(), strict=False)


def test_what_load_state_dict_returns(healthy: Any, broken: Any) -> None:
    model, result = healthy
    assert_no_nonlora_missing(result)
    assert_lora_loaded(result)
    assert_loaded_ratio(result, 1.0, model=model)
    plain, result = broken
    assert_no_nonlora_missing(result)
    with pytest.raises(AssertionError, match="28 LoRA keys of the checkpoint have no place"):
        assert_lora_loaded(result)
    with pytest.raises(AssertionError, match=r"82\.8% of the model's keys are loaded as is"):
        assert_loaded_ratio(result, 0.9, model=plain)
    assert_loaded_ratio(result, 0.69, of="checkpoint", model=plain)
    with pytest.raises(AssertionError, match=r"69\.4% of the checkpoint's"):
        assert_loaded_ratio(result, 0.7, of="checkpoint", model=plain)


def test_base_weights_that_are_lost(healthy: Any) -> None:
    model, _ = healthy
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("vision_encoder.")}
    for report in (compare(state, model), make_panorama_vlm().load_state_dict(state, strict=False)):
        with pytest.raises(AssertionError, match=r"48 model keys are missing|48 of 173 model keys") as caught:
            assert_no_nonlora_missing(report)
        assert "vision_encoder." in str(caught.value)
        assert "-> Check the path" in str(caught.value)


def test_totals_need_the_model(healthy: Any) -> None:
    with pytest.raises(ValueError, match="give the module as model="):
        assert_loaded_ratio(healthy[1])


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_a_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"from 0\.0 to 1\.0"):
        assert_loaded_ratio(compare(PAIR, PAIR), ratio)


@pytest.mark.parametrize("odd", [None, {}, "report"])
def test_what_is_no_report(odd: object) -> None:
    with pytest.raises(TypeError, match="takes a LoadReport"):
        assert_no_nonlora_missing(odd)


def test_a_ratio_of_something_else(healthy: Any) -> None:
    with pytest.raises(ValueError, match="of= is 'model' or 'checkpoint', and was 'file'"):
        assert_loaded_ratio(healthy[1], of="file", model=healthy[0])


def test_the_ratio_counts_what_is_needed() -> None:
    assert_loaded_ratio(compare(PAIR, WRAPPED), 1.0)
    with pytest.raises(
        AssertionError, match=r"50.0% of the model's keys are loaded after remapping, and at least 75.0%"
    ):
        assert_loaded_ratio(compare({"a.weight": (1,)}, {"a.weight": (1,), "b.weight": (1,)}))


def test_lora_loaded() -> None:
    assert_lora_loaded(compare(PAIR, WRAPPED))
    half = dict(list(PAIR.items())[:1])
    with pytest.raises(AssertionError, match="1 LoRA keys of the model are not in the checkpoint"):
        assert_lora_loaded(compare(half, WRAPPED))
    with pytest.raises(AssertionError, match="another shape"):
        assert_lora_loaded(compare(dict.fromkeys(PAIR, (2, 2)), WRAPPED))


def test_lora_loaded_wants_an_adapter() -> None:
    plain = {"q.weight": (8, 8)}
    with pytest.raises(AssertionError, match=r"^The checkpoint has no LoRA keys\."):
        assert_lora_loaded(compare(plain, plain))


def test_a_message_is_bounded_and_loses_nothing() -> None:
    lost = {f"tower.{n}.{'x' * 300}.{m}.weight": (1,) for n in range(60) for m in range(20)}
    with pytest.raises(AssertionError) as caught:
        assert_no_nonlora_missing(compare({"a.weight": (1,)}, {"a.weight": (1,), **lost}))
    assert len(str(caught.value)) < 3000
    assert "1200" in str(caught.value)


@pytest.mark.parametrize("layout", ["lightning", "torch", "safetensors", "peft_adapter"])
@pytest.mark.slow
def test_lora_complete_on_real_checkpoints(layout: str, tmp_path: Path) -> None:
    good = save_replica(tmp_path / "good", layout=layout)
    assert_lora_complete(open_checkpoint(good))
    for fault, cause in (("one-lora-b-missing", "lora-pair-incomplete"), ("lora-b-zero", "adapter-all-zero"),
                         ("nan", "nan-or-inf")):  # fmt: skip
        with pytest.raises(AssertionError, match=cause):
            assert_lora_complete(open_checkpoint(FAULTS[fault].inject(good, tmp_path / fault)))


def test_lora_complete_on_live_models_and_state_dicts() -> None:
    model = make_panorama_vlm()
    assert_lora_complete(model)
    state = model.state_dict()
    assert_lora_complete(state)
    assert_lora_complete({key: tuple(value.shape) for key, value in state.items()})
    state["language_model.base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight"].fill_(torch.nan)
    with pytest.raises(AssertionError, match="nan-or-inf"):
        assert_lora_complete(model)


def test_stage() -> None:
    keys = {
        "tower.weight": (1,),
        "llm.q.base_layer.weight": (8, 8),
        **{f"llm.{key}": shape for key, shape in PAIR.items()},
    }
    own = Stage("sft", holds=("tower", "llm"), lora=True)
    assert_stage(compare(keys, keys), own)
    with pytest.raises(AssertionError, match="lacks LoRA of the stage sft"):
        assert_stage(compare({"tower.weight": (1,), "llm.weight": (8, 8)}, keys), own)
    with pytest.raises(AssertionError, match="1 model keys are missing that the stage sft trains"):
        assert_stage(compare(keys, {**keys, "tower.bias": (1,)}), own)
    with pytest.raises(ValueError, match="The stages are vision, resampler, finetune, and this was 'sft'"):
        assert_stage(compare(keys, keys), "sft")


def test_inputs_that_nobody_gave_are_made_from_the_config() -> None:
    vlm = make_panorama_vlm(random_lora_b=True)
    assert_adapter_active(vlm.language_model)
    with pytest.raises(AssertionError, match=r"no inputs for the forward pass, .* override the fixture lora_inputs"):
        assert_adapter_active(torch.nn.Linear(1, 1))
