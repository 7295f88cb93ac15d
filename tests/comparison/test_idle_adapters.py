"""An adapter that changes nothing is a noop by its values, whatever its names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import compare, open_checkpoint
from pytest_lora_ckpt.comparison.companion import compare_with_companion
from pytest_lora_ckpt.findings.from_values import audit_values, look
from pytest_lora_ckpt.replicas import make_panorama_vlm, save_stage_checkpoint
from tests.helpers.adapter_samples import Mixed, llama, save, wear

if TYPE_CHECKING:
    from pathlib import Path


def fill(model: Any, factor: str, value: float = 0.0) -> Any:
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if factor in key:
                parameter.fill_(value)
    return model


@pytest.mark.parametrize(("fresh", "verdict"), [(True, "noop"), (False, "loads-after-remap")])
def test_peft_adapter(tmp_path: Path, *, fresh: bool, verdict: str) -> None:
    model = wear(llama(), init_lora_weights=fresh)
    assert compare(save(model, tmp_path), model).verdict == verdict


@pytest.mark.parametrize(("fresh", "verdict"), [(True, "noop"), (False, "loads-after-remap")])
def test_embedding_begins_with_a_zero_lora_embedding_a(tmp_path: Path, *, fresh: bool, verdict: str) -> None:
    model = wear(Mixed(), target_modules=["table"], init_lora_weights=fresh)
    assert compare(save(model, tmp_path, save_embedding_layers=False), model).verdict == verdict


def test_one_module_that_changes_something_is_enough(tmp_path: Path) -> None:
    model = fill(wear(llama(), init_lora_weights=True), "layers.2.self_attn.v_proj.lora_B", 0.5)
    assert compare(save(model, tmp_path), model).verdict == "loads-after-remap"


@pytest.mark.parametrize(("value", "verdict"), [(0.0, "noop"), (-0.0, "noop"), (0.5, "loads")])
def test_full_lightning_file(tmp_path: Path, value: float, verdict: str) -> None:
    path = save_stage_checkpoint(tmp_path, layers=1)
    contents = torch.load(path, weights_only=True)
    state = contents["state_dict"]
    for key, tensor in state.items():
        if "lora_B" in key:
            tensor.fill_(value)
    torch.save(contents, path)
    report = compare(open_checkpoint(path), {key: tuple(tensor.shape) for key, tensor in state.items()})
    assert report.verdict == verdict


@pytest.mark.parametrize("as_mapping", [False, True])
@pytest.mark.parametrize(("value", "verdict"), [(0.0, "noop"), (0.5, "loads")])
def test_live_tensors(*, as_mapping: bool, value: float, verdict: str) -> None:
    model = fill(wear(llama()), "lora_B", value)
    assert compare(model.state_dict() if as_mapping else model, model).verdict == verdict


def test_names_and_shapes_say_nothing_of_values() -> None:
    model = fill(wear(llama()), "lora_B")
    assert compare({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}, model).verdict == "loads"
    assert compare(model.to("meta").state_dict(), model).verdict == "loads"


def test_what_does_not_load_is_partial_though_it_is_zero() -> None:
    model = fill(wear(llama()), "lora_B")
    state = {key: tensor for key, tensor in model.state_dict().items() if "norm" not in key}
    assert compare(state, model).verdict == "partial"


@pytest.mark.parametrize(("value", "verdict"), [(0.0, "noop"), (0.5, "loads")])
def test_adapter_next_to_the_file(tmp_path: Path, value: float, verdict: str) -> None:
    model = fill(wear(llama()), "lora_B", value)
    state = {key: tensor for key, tensor in model.state_dict().items() if "lora_" not in key}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    model.save_pretrained(tmp_path / "lora_weights")
    assert compare_with_companion(open_checkpoint(tmp_path / "last.ckpt"), model).report.verdict == verdict


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"])
def test_zero_has_two_signs_and_nothing_else_is_zero(dtype: str) -> None:
    for value, is_zero in ((0.0, True), (-0.0, True), (2.0, False), (-2.0, False), (2.0**-6, False)):
        tensor = torch.zeros(5)
        tensor[3] = value
        data = bytes(tensor.to(getattr(torch, dtype)).view(torch.uint8).numpy())
        assert look(data, dtype)[1] != is_zero


def test_smallest_numbers_are_not_zero() -> None:
    # The lowest bit of a byte that may also hold a sign.
    assert look(b"\x80\x00\x00\x00", "float32")[1]
    assert look(bytes(1 << 20) + b"\x00\x01", "bfloat16")[1]


def test_replica_fresh_from_its_factory_is_idle() -> None:
    model = fill(make_panorama_vlm(layers=1), "lora_B")
    assert compare(model, model).verdict == "noop"


def test_embedding_that_stayed_as_initialised_is_no_error(tmp_path: Path) -> None:
    model = fill(wear(Mixed(), target_modules=["table", "linear"]), "lora_embedding_A")
    checkpoint = save(model, tmp_path, save_embedding_layers=False)
    found = {each.cause: each.keys for each in audit_values(checkpoint.keys, checkpoint.read_bytes).findings}
    assert found == {"adapter-partly-zero": ("base_model.model.table.lora_embedding_A",)}
