"""The guide's eleven points, as code, at the guide's own scale (PanoramaVLM with Qwen3-0.6B, on the meta device)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import (
    STAGES,
    assert_generates,
    assert_loaded_ratio,
    assert_lora_complete,
    assert_lora_loaded,
    assert_no_nonlora_missing,
    assert_stage,
    compare,
    model_keys,
    open_checkpoint,
)
from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs, save_adapter, save_stage_checkpoint
from tests.helpers.guide_loader import load_like_the_guide

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.results import LoadReport
    from pytest_lora_ckpt.tensors import KeySet

LANGUAGE_MODEL = 311
ADAPTER = 392
PLAIN = 943
WITH_LORA = 1335


@pytest.fixture(scope="module")
def plain() -> KeySet:
    return model_keys(make_panorama_vlm(scale="guide", lora=False))


@pytest.fixture(scope="module")
def with_lora() -> KeySet:
    return model_keys(make_panorama_vlm(scale="guide", lora=True))


@pytest.fixture(scope="module")
def broken(plain: KeySet, with_lora: KeySet) -> LoadReport:
    """The guide's "healthy" log: a checkpoint with LoRA, in a model without."""
    return compare(with_lora, plain)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A trained tiny replica, and its Lightning checkpoint."""
    model = make_panorama_vlm()
    return model, save_stage_checkpoint(tmp_path_factory.mktemp("trained"), model=model)


def test_point_1_lora_changes_the_key_structure(plain: KeySet, with_lora: KeySet) -> None:
    layer = "model.layers.0.self_attn.q_proj"
    assert f"language_model.{layer}.weight" in plain
    wrapped = f"language_model.base_model.model.{layer}"
    assert {f"{wrapped}.base_layer.weight", f"{wrapped}.lora_A.default.weight", f"{wrapped}.lora_B.default.weight"} <= {
        *with_lora
    }
    assert len(plain) == PLAIN
    assert len(with_lora) == WITH_LORA
    assert sum(key.startswith("language_model.") for key in plain) == LANGUAGE_MODEL
    assert sum(key.startswith("language_model.") for key in with_lora) == LANGUAGE_MODEL + ADAPTER


def test_point_2_the_envelope_is_not_keys(trained: tuple[Any, Path]) -> None:
    checkpoint = open_checkpoint(trained[1])
    assert checkpoint.layout == "lightning"
    assert {"optimizer_states", "lr_schedulers", "hyper_parameters", "loops", "pytorch-lightning_version"} <= {
        *checkpoint.envelope
    }
    assert all(key.startswith("model.") for key in checkpoint.keys)
    assert len(checkpoint.keys) == len(model_keys(trained[0]))


def test_points_3_and_4_counts_by_torchs_definition(broken: LoadReport) -> None:
    assert broken.as_is is not None
    assert len(broken.as_is.loaded) == 632
    assert broken.as_is.missing.counts == dict.fromkeys(broken.as_is.missing.counts, 0) | {"lora_wrapped": 311}
    assert broken.as_is.unexpected.counts == dict.fromkeys(broken.as_is.unexpected.counts, 0) | {
        "lora": 392,
        "lora_wrapped": 311,
    }
    assert broken.loaded_ratio(of="model", when="as_is") == pytest.approx(632 / 943)
    assert broken.loaded_ratio(of="checkpoint", when="as_is") == pytest.approx(632 / 1335)


def test_points_3_and_4_after_the_remapping_the_adapter_is_what_is_lost(broken: LoadReport) -> None:
    assert broken.remapped is not None
    assert len(broken.remapped.loaded) == PLAIN
    assert not broken.remapped.missing
    assert broken.remapped.unexpected.counts["lora"] == len(broken.remapped.unexpected) == ADAPTER
    assert broken.verdict == "partial"
    assert "adapter-not-loaded" in {finding.cause for finding in broken.findings}
    assert_no_nonlora_missing(broken)
    with pytest.raises(AssertionError, match="392 LoRA keys of the checkpoint have no place"):
        assert_lora_loaded(broken)


def test_point_4_everything_loads_into_a_model_with_lora(with_lora: KeySet) -> None:
    report = compare(with_lora, with_lora)
    assert report.verdict == "loads"
    assert report.as_is is not None
    assert len(report.as_is.loaded) == WITH_LORA
    assert_lora_loaded(report)
    assert_loaded_ratio(report, 1.0, when="as_is")


@pytest.mark.parametrize("kept", [50, 100])
def test_point_4_a_sick_log(with_lora: KeySet, kept: int) -> None:
    report = compare({key: with_lora[key] for key in list(with_lora)[:kept]}, with_lora)
    assert report.verdict == "partial"
    assert {"wrong-stage", "too-few-loaded"} <= {finding.cause for finding in report.findings}
    with pytest.raises(AssertionError, match="of the model's keys are loaded"):
        assert_loaded_ratio(report)


def test_point_5_the_components(broken: LoadReport, with_lora: KeySet) -> None:
    rows = {(row.name, row.lora): row for row in compare(with_lora, with_lora).components}
    assert rows["vision_encoder", False].remapped == 448
    assert rows["resampler_module", False].remapped == 90
    assert rows["language_model", False].remapped == LANGUAGE_MODEL
    assert rows["language_model", True].remapped == ADAPTER
    lost = {(row.name, row.lora): row for row in broken.components}["language_model", True]
    assert (lost.in_file, lost.in_model, lost.remapped) == (ADAPTER, 0, 0)


def test_point_6_a_real_forward_test(trained: tuple[Any, Path]) -> None:
    inputs = replica_inputs()
    assert inputs["pixel_values"].shape == (1, 3, 224, 224)
    assert inputs["input_ids"].shape == (1, 3)
    assert_generates(trained[0], max_new_tokens=10, **inputs)


def test_point_7_trouble_1_a_checkpoint_of_the_wrong_stage(tmp_path: Path) -> None:
    report = compare(open_checkpoint(save_stage_checkpoint(tmp_path, stage="vision")), make_panorama_vlm())
    found = {finding.cause: finding for finding in report.findings}
    assert "resampler_module" in found["wrong-stage"].message
    assert "training stage" in found["wrong-stage"].remedy
    with pytest.raises(AssertionError, match="lacks resampler_module, language_model, LoRA"):
        assert_stage(report, "finetune")
    assert_stage(report, "vision")


def test_point_8_trouble_2_too_few_keys() -> None:
    report = compare({"other.weight": (3, 3)}, {f"layer.{n}.weight": (4, 4) for n in range(20)})
    found = {finding.cause: finding for finding in report.findings}
    assert "0 of the 20 keys" in found["too-few-loaded"].message
    assert "top-level entries" in found["too-few-loaded"].remedy
    assert report.verdict == "noop"


def test_point_9_trouble_3_lora_never_saved(plain: KeySet, with_lora: KeySet) -> None:
    report = compare(plain, with_lora)
    found = {finding.cause: finding for finding in report.findings}
    assert len(found["lora-not-saved"].keys) == ADAPTER
    assert "lora_weights" in found["lora-not-saved"].remedy
    with pytest.raises(AssertionError, match="no LoRA keys"):
        assert_lora_loaded(report)
    with pytest.raises(AssertionError, match="There is no LoRA"):
        assert_lora_complete(plain)


def test_point_9_the_adapter_directory_beside(trained: tuple[Any, Path]) -> None:
    model, path = trained
    assert open_checkpoint(path).adapter_beside is None
    adapter = save_adapter(model, path.parent / "lora_weights")
    try:
        beside = open_checkpoint(path).adapter_beside
        assert beside is not None
        assert beside.layout == "peft_adapter"
        assert_lora_complete(beside)
        assert_lora_loaded(compare(beside, model))
    finally:
        for file in adapter.iterdir():
            file.unlink()
        adapter.rmdir()


def test_point_10_stage_statistics_finetune(with_lora: KeySet) -> None:
    report = compare(with_lora, with_lora, stage=STAGES["finetune"])
    assert_stage(report, "finetune")
    assert report.remapped is not None
    assert not report.remapped.missing


def test_point_10_stage_statistics_resampler_excuses_the_language_model(plain: KeySet) -> None:
    kept = {key: info for key, info in plain.items() if not key.startswith("language_model.")}
    report = compare(kept, plain, stage=STAGES["resampler"])
    assert report.remapped is not None
    assert report.remapped.missing.counts["excused"] == len(report.remapped.missing) == LANGUAGE_MODEL
    assert report.verdict == "loads"
    assert report.loaded_ratio() == 1.0
    assert_stage(report, "resampler")
    assert compare(kept, plain).verdict == "partial"


def test_point_11_the_same_log_for_a_good_and_a_broken_load(trained: tuple[Any, Path]) -> None:
    """The guide's loader without `lora_weights/` passes a gate on non-LoRA keys; it does not pass ours."""
    model, path = trained
    loaded = load_like_the_guide(path)
    report = compare(open_checkpoint(path), loaded)
    assert_no_nonlora_missing(report)
    with pytest.raises(AssertionError, match="adapter-not-loaded"):
        assert_lora_loaded(report)
    assert_lora_loaded(compare(open_checkpoint(path), model))
