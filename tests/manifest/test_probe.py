from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt.manifest import ManifestError, make_manifest, read_manifest, replay_probe, write_manifest
from pytest_lora_ckpt.manifest.probe import follow_recipes, make_recipe
from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Recorded

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")


def _made(value: Any, seed: int = 0) -> Any:
    recipe = json.loads(json.dumps(make_recipe("x", value)))
    return follow_recipes({"x": recipe}, seed, torch.device("cpu"))["x"]


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([[1, 5, 5, 5, 2]]),
        torch.tensor([True, True, False]),
        torch.ones(2, 3),
        torch.ones(1, 7, dtype=torch.int64),
        torch.zeros(0, 3),
        torch.tensor(3),
        torch.full((2, 2), 0.5, dtype=torch.bfloat16),
        torch.cat([torch.full((1, 500), 9), torch.arange(300)[None]], dim=1),
    ],
    ids=lambda value: f"{tuple(value.shape)}-{value.dtype}",
)
def test_what_fits_is_kept_as_it_is(value: torch.Tensor) -> None:
    made = _made(value)
    assert made.dtype == value.dtype
    assert torch.equal(made, value)


@pytest.mark.parametrize("value", [None, True, 3, 1.5, "text"])
def test_plain_values(value: Any) -> None:
    assert _made(value) == value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_floats_keep_shape_mean_and_spread(dtype: torch.dtype) -> None:
    value = (torch.randn(3, 50, 60, generator=torch.Generator().manual_seed(1)) * 2 + 5).to(dtype)
    made = _made(value)
    assert (made.shape, made.dtype) == (value.shape, dtype)
    assert float(made.double().mean()) == pytest.approx(5, abs=0.2)
    assert float(made.double().std()) == pytest.approx(2, abs=0.1)
    assert not torch.equal(made, value)
    assert torch.equal(made, _made(value))
    assert not torch.equal(made, _made(value, seed=1))


def test_many_integers_keep_their_range() -> None:
    value = torch.arange(5000) % 17
    made = _made(value)
    assert made.dtype == torch.int64
    assert set(made.tolist()) == set(range(17))


def test_the_same_values_on_every_machine() -> None:
    # Written down, so that a change of the recipe's meaning is seen: it would need another schema.
    made = follow_recipes(
        {"x": {"kind": "normal", "shape": [3], "dtype": "float64", "mean": 0.0, "spread": 1.0}}, 0, torch.device("cpu")
    )
    assert made["x"].tolist() == PINNED


PINNED = [-0.7911256237762845, -0.6612006699951588, 0.21299129424778102]


def test_no_input_is_stored(recorded: Recorded) -> None:
    assert recorded.manifest.probe is not None
    assert len(json.dumps(recorded.manifest.probe)) < 4_000
    assert recorded.manifest.probe["inputs"]["pixel_values"]["kind"] == "normal"
    output = recorded.manifest.probe["output"]
    assert len(output["on"]) == len(output["off"]) == 64
    assert output["on"] != output["off"]


@pytest.mark.parametrize("value", [object(), [1, 2], torch.ones(2, device="meta"), torch.tensor([float("nan")]), 1e400])
def test_an_input_that_no_recipe_can_make(value: Any) -> None:
    with pytest.raises(TypeError, match="probe='x' should"):
        make_recipe("x", value)


def test_the_probe_is_a_mapping() -> None:
    with pytest.raises(TypeError, match="should be a mapping"):
        make_manifest(torch.nn.Linear(2, 2), probe=torch.ones(2))  # type: ignore[arg-type]


def test_the_same_model_answers_the_same(recorded: Recorded) -> None:
    result = replay_probe(recorded.manifest, recorded.model)
    assert result.same
    assert not result.blind
    assert (result.on, result.off) == (0.0, 0.0)
    assert result.effect is not None
    assert result.effect > 0.5
    assert "matches training" in result.why


def test_alpha_is_seen(recorded: Recorded) -> None:
    model = make_panorama_vlm(alpha=9)
    model.load_state_dict(recorded.model.state_dict())
    result = replay_probe(recorded.manifest, model)
    assert not result.same
    assert result.off == 0.0
    assert "matches training, the adapter's is off by" in result.why


def test_another_base_is_seen(recorded: Recorded) -> None:
    result = replay_probe(recorded.manifest, make_panorama_vlm(seed=1))
    assert not result.same
    assert "The base model's output on the recorded probe differs from training" in result.why


def test_merged_answers_the_same_with_nothing_to_switch_off(recorded: Recorded) -> None:
    model = copy.deepcopy(recorded.model)
    model.language_model.merge_adapter()
    in_place = replay_probe(recorded.manifest, model)
    model = copy.deepcopy(recorded.model)
    model.language_model = model.language_model.merge_and_unload()
    for result in (in_place, replay_probe(recorded.manifest, model)):
        assert result.same
        assert result.off is None
        assert 0 < result.on < 1e-4


def test_without_the_adapter_it_does_not(recorded: Recorded) -> None:
    plain = make_panorama_vlm(lora=False)
    plain.projector.load_state_dict(recorded.model.projector.state_dict())
    result = replay_probe(recorded.manifest, plain)
    assert not result.same
    assert "has no adapter to switch off" in result.why


def test_the_tolerance_follows_the_dtype(recorded: Recorded) -> None:
    result = replay_probe(recorded.manifest, copy.deepcopy(recorded.model).double())
    assert result.tolerance == 1e-3  # What was recorded has no more.
    assert result.same
    assert result.on > 0


def test_a_cast_model_is_held_to_less() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    manifest = make_manifest(model, probe={"input": torch.arange(8)[None] / 8})
    model.bfloat16().register_forward_pre_hook(
        lambda _, args, kwargs: (args, {"input": kwargs["input"].bfloat16()}), with_kwargs=True
    )
    result = replay_probe(manifest, model)
    assert result.tolerance == 5e-2
    assert result.same
    assert result.on > 0


def test_a_small_effect_proves_nothing() -> None:
    model = make_panorama_vlm()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(1e-6)
    manifest = make_manifest(model, probe=replica_inputs(model))
    result = replay_probe(manifest, model)
    assert result.same
    assert result.blind
    assert "too small for this precision" in result.why


def test_a_model_that_never_had_an_adapter_is_not_blind() -> None:
    model = make_panorama_vlm(lora=False)
    result = replay_probe(make_manifest(model, probe=replica_inputs(model)), model)
    assert result.same
    assert not result.blind
    assert result.effect is None


def test_a_forward_pass_that_raises(tmp_path: Path) -> None:
    model = make_panorama_vlm()
    with pytest.raises(ManifestError, match="forward pass raised TypeError"):
        write_manifest(model, tmp_path, probe={"nonsense": 1})
    assert list(tmp_path.iterdir()) == []


def test_no_floating_output() -> None:
    class Counts(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.long()

    with pytest.raises(ManifestError, match="no floating tensor"):
        make_manifest(Counts(), probe={"x": torch.ones(2)})


def test_logits_are_taken_even_after_a_loss() -> None:
    class Scored(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": x.mean(), "logits": x[:, None].repeat(1, 5, 1)}

    probe = make_manifest(Scored(), probe={"x": torch.ones(2, 3)}).probe
    assert probe is not None
    assert probe["output"]["shape"] == [2, 5, 3]
    assert len(probe["output"]["on"]) == 6


def test_values_that_are_not_finite_survive(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    model.bias.data[0] = float("nan")
    manifest = read_manifest(write_manifest(model, tmp_path, probe={"input": torch.ones(1, 2)}))
    assert replay_probe(manifest, model).on == 0.0
    model.bias.data[0] = 0.0
    assert replay_probe(manifest, model).on == float("inf")


def test_what_cannot_be_compared_is_told(recorded: Recorded) -> None:
    assert replay_probe(dataclasses.replace(recorded.manifest, probe=None), recorded.model).error
    assert "shape" in (replay_probe(recorded.manifest, _Other()).error or "")
    broken = {**(recorded.manifest.probe or {}), "inputs": {"x": {"kind": "psychic"}}}
    told = replay_probe(dataclasses.replace(recorded.manifest, probe=broken), recorded.model).why
    assert "psychic" in told
    failed = replay_probe(recorded.manifest, torch.nn.Linear(2, 2))
    assert not failed.same
    assert "forward pass raised TypeError" in failed.why


class _Other(torch.nn.Module):
    def forward(self, **_: Any) -> torch.Tensor:
        return torch.ones(3)


@pytest.mark.parametrize("kind", ["constant", "normal", "range"])
def test_a_recipe_for_more_than_memory_is_refused(kind: str) -> None:
    recipe = {"kind": kind, "shape": [1 << 20, 1 << 20], "dtype": "float32", "value": 0}
    with pytest.raises(ManifestError, match="elements, and at most"):
        follow_recipes({"x": recipe}, 0, torch.device("cpu"))
