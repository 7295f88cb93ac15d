from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import compare, open_checkpoint
from pytest_lora_ckpt.auditing.checks import run_check
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.proof import LoadedModel, Merge, find_merge
from pytest_lora_ckpt.replicas import PanoramaVLM, make_panorama_vlm, replica_inputs, save_stage_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def merged(path: Path) -> Any:
    model = PanoramaVLM.from_checkpoint(path)
    model.language_model = model.language_model.merge_and_unload()
    return model


def merge_of(model: Any, path: Path) -> Merge:
    checkpoint = open_checkpoint(path)
    return find_merge(LoadedModel(model), checkpoint, compare(checkpoint, model).mapping)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stage_checkpoint(tmp_path_factory.mktemp("full"), rank=4, alpha=12)


def test_a_merged_adapter(path: Path) -> None:
    found = merge_of(merged(path), path)
    assert found.proved
    assert tuple(map(found.count, ("merged", "base", "other"))) == (14, 0, 0)
    assert found.scaling == pytest.approx(3.0, rel=1e-3)


def test_in_half_precision(path: Path) -> None:
    assert merge_of(merged(path).to(torch.bfloat16), path).proved


@pytest.mark.parametrize("size", [0.001, 1.0, 100.0])
@pytest.mark.slow
def test_an_update_of_any_size(size: float, tmp_path: Path) -> None:
    model = make_panorama_vlm()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(size)
    path = save_stage_checkpoint(tmp_path, model=model)
    assert merge_of(merged(path), path).proved
    assert not merge_of(make_panorama_vlm(lora=False), path).proved


def test_the_base_model(path: Path) -> None:
    found = merge_of(make_panorama_vlm(lora=False), path)
    assert not found.proved
    assert found.count("base") == 14


def test_one_module_left_out(path: Path) -> None:
    model = merged(path)
    weight = model.language_model.model.layers[0].mlp.up_proj.weight
    weight.data = make_panorama_vlm(lora=False).language_model.model.layers[0].mlp.up_proj.weight.data
    found = merge_of(model, path)
    assert not found.proved
    assert (found.count("merged"), found.count("base")) == (13, 1)


def test_other_weights(path: Path) -> None:
    found = merge_of(make_panorama_vlm(lora=False, seed=5), path)
    assert not found.proved
    assert found.count("other") == 14


def test_an_update_of_the_wrong_sign(path: Path) -> None:
    model = merged(path)
    plain = make_panorama_vlm(lora=False)
    for ours, base in zip(model.language_model.model.layers, plain.language_model.model.layers, strict=True):
        for name in ("gate_proj", "up_proj", "down_proj"):
            weight, before = getattr(ours.mlp, name).weight.data, getattr(base.mlp, name).weight.data
            weight.copy_(2 * before - weight)
    found = merge_of(model, path)
    assert (found.count("merged"), found.count("other")) == (8, 6)


def test_another_scaling_in_one_module(path: Path) -> None:
    model = merged(path)
    plain = make_panorama_vlm(lora=False)
    weight, base = (m.language_model.model.layers[1].mlp.up_proj.weight.data for m in (model, plain))
    weight.add_(weight - base)
    assert not merge_of(model, path).proved


@pytest.mark.parametrize(
    ("loader", "outcome"), [(merged, "passed"), (lambda _: make_panorama_vlm(lora=False), "failed")]
)
def test_the_checks_tell_a_merge_from_a_loss(loader: Any, outcome: str, path: Path) -> None:
    run = AuditContext(path, Demands())
    run.project.connect(loader=lambda: loader, inputs=replica_inputs)
    results = {name: run_check(name, run) for name in ("keys", "adapter-active", "generate")}
    assert results["keys"].outcome == results["adapter-active"].outcome == outcome
    assert results["generate"].outcome == "passed"
    causes = {found.cause for found in run.report.findings}
    assert ("adapter-merged" in causes) == (outcome == "passed")
    assert ("adapter-not-loaded" in causes) == (outcome == "failed")
