from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.manifest import BaseModel, Manifest, ManifestComparison, compare_checkpoint, make_manifest
from pytest_lora_ckpt.manifest.differences import base_differences
from pytest_lora_ckpt.replicas import make_panorama_vlm, save_adapter, save_replica, save_stage_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Recorded

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")

State = dict[str, torch.Tensor]
LAYERS = "language_model.base_model.model.model.layers"


def _saved(recorded: Recorded, path: Path, edit: Callable[[State], State | None] = lambda _: None) -> Any:
    state = {key: value.clone() for key, value in recorded.model.state_dict().items()}
    torch.save(edit(state) or state, path)
    return open_checkpoint(path)


def _slugs(found: ManifestComparison) -> list[str]:
    return [difference.cause for difference in found.differences]


@pytest.fixture(scope="module")
def adapter_manifest(recorded: Recorded) -> Manifest:
    """Of the language model alone, whose adapter is then complete in PEFT's directory."""
    return make_manifest(recorded.model.language_model)


def test_lightnings_checkpoint_is_the_recorded_one(recorded: Recorded) -> None:
    found = compare_checkpoint(recorded.manifest, open_checkpoint(recorded.path))
    assert not found.differences
    assert (found.same, found.cast, found.differing, found.not_compared) == (173, 0, 0, {})
    assert found.summary == "173 tensors match the manifest."


def test_only_what_was_trained(tmp_path: Path) -> None:
    model = make_panorama_vlm()
    path = save_stage_checkpoint(tmp_path, model=model, keep="trained")
    found = compare_checkpoint(make_manifest(model), open_checkpoint(path))
    assert not found.differences
    assert found.same == 32


@pytest.mark.parametrize("stage", ["vision", "resampler"])
def test_an_early_stage(tmp_path: Path, stage: str) -> None:
    model = make_panorama_vlm(stage=stage)
    path = save_stage_checkpoint(tmp_path, model=model, stage=stage)
    found = compare_checkpoint(make_manifest(model), open_checkpoint(path))
    assert not found.differences
    assert found.same == len(open_checkpoint(path).keys)


@pytest.mark.parametrize("layout", ["torch", "torch-legacy", "safetensors"])
def test_other_layouts(tmp_path: Path, layout: str) -> None:
    found = compare_checkpoint(
        make_manifest(make_panorama_vlm()), open_checkpoint(save_replica(tmp_path, layout=layout))
    )
    assert not found.differences
    assert found.same == (
        173 if layout != "safetensors" else len(open_checkpoint(tmp_path / "panorama-finetune.safetensors").keys)
    )


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("name", ["default", "trained"])
def test_an_adapter_directory(tmp_path: Path, *, safe: bool, name: str) -> None:
    model = make_panorama_vlm(adapter_name=name, use_dora=True, modules_to_save=["norm"])
    folder = save_adapter(model, tmp_path, safe_serialization=safe)
    found = compare_checkpoint(make_manifest(model.language_model), open_checkpoint(folder))
    assert not found.differences
    assert found.same == len(open_checkpoint(folder).keys) == 14 * 3 + 9
    assert found.notes == ()


def test_one_adapter_of_two_is_not_the_other(tmp_path: Path) -> None:
    from peft import LoraConfig

    model = make_panorama_vlm().language_model
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    manifest = make_manifest(model)
    # The second lies below the first, and counts with it.
    for folder, count in ((tmp_path, 32), (tmp_path / "second", 4)):
        found = compare_checkpoint(manifest, open_checkpoint(folder))
        assert not found.differences, found
        assert found.same == count


def test_an_adapter_beside_the_checkpoint(tmp_path: Path, recorded: Recorded) -> None:
    checkpoint = _saved(recorded, tmp_path / "a.pt", lambda state: {k: v for k, v in state.items() if "lora_" not in k})
    assert _slugs(compare_checkpoint(recorded.manifest, checkpoint)) == ["trained-weights-missing"]
    save_adapter(recorded.model, tmp_path / "lora_weights")
    found = compare_checkpoint(recorded.manifest, open_checkpoint(tmp_path / "a.pt"))
    assert not found.differences
    assert found.same == 173


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_saved_in_half_precision(tmp_path: Path, recorded: Recorded, dtype: torch.dtype) -> None:
    checkpoint = _saved(recorded, tmp_path / "a.pt", lambda state: {key: one.to(dtype) for key, one in state.items()})
    found = compare_checkpoint(recorded.manifest, checkpoint)
    assert not found.differences
    assert found.cast == 32
    told = f"{str(dtype).removeprefix('torch.')} here, float32 in the manifest"
    assert found.not_compared == {told: 141}
    assert f"141 not compared ({told})" in found.summary


def test_trained_in_half_precision_and_saved_wider(tmp_path: Path) -> None:
    model = make_panorama_vlm().bfloat16()
    manifest = make_manifest(model)
    torch.save({key: value.float() for key, value in model.state_dict().items()}, tmp_path / "a.pt")
    found = compare_checkpoint(manifest, open_checkpoint(tmp_path / "a.pt"))
    assert not found.differences
    assert found.cast == 173
    torch.save({key: value.half() for key, value in model.state_dict().items()}, tmp_path / "b.pt")
    assert compare_checkpoint(manifest, open_checkpoint(tmp_path / "b.pt")).cast == 32


def test_other_values_in_half_precision_are_seen(tmp_path: Path, recorded: Recorded) -> None:
    def edit(state: State) -> State:
        state["projector.linear.bias"][0] += 1
        return {key: one.bfloat16() for key, one in state.items()}

    found = compare_checkpoint(recorded.manifest, _saved(recorded, tmp_path / "a.pt", edit))
    assert _slugs(found) == ["values-differ"]
    assert found.differences[0].keys == ("projector.linear.bias",)


def test_the_projector_is_missing(tmp_path: Path, recorded: Recorded) -> None:
    found = compare_checkpoint(recorded.manifest, open_checkpoint(save_adapter(recorded.model, tmp_path)))
    assert _slugs(found) == ["trained-weights-missing"]
    assert found.differences[0].keys == ("projector.linear.bias", "projector.linear.weight")
    message = "2 of 30 trained tensors are missing from the checkpoint: projector.linear.{bias,weight}"
    assert message in found.differences[0].message


def test_one_name_of_a_tensor_is_enough(tmp_path: Path, recorded: Recorded) -> None:
    def edit(state: State) -> State:
        return {key: one for key, one in state.items() if not key.startswith(("projector.", "resampler."))}

    assert not compare_checkpoint(recorded.manifest, _saved(recorded, tmp_path / "a.pt", edit)).differences


@pytest.mark.parametrize("cast", [torch.float32, torch.bfloat16])
def test_exchanged_layers(tmp_path: Path, recorded: Recorded, cast: torch.dtype) -> None:
    def edit(state: State) -> State:
        swapped = {}
        for key, one in state.items():
            there = key.replace("layers.0", "layers.#").replace("layers.1", "layers.0").replace("layers.#", "layers.1")
            swapped[key] = (state[there] if key.startswith(LAYERS) and "lora_" in key else one).to(cast)
        return swapped

    found = compare_checkpoint(recorded.manifest, _saved(recorded, tmp_path / "a.pt", edit))
    assert _slugs(found) == ["exchanged-tensors"]
    assert f"{LAYERS} 0 and 1 are exchanged (28 tensors)" in found.differences[0].message
    assert len(found.differences[0].keys) == 28


def test_exchanged_tensors_of_two_names(tmp_path: Path, recorded: Recorded) -> None:
    def edit(state: State) -> None:
        for path in ("resampler_module.resampler.blocks", "resampler.blocks"):
            keys = [f"{path}.{number}.mlp.fc1.weight" for number in (0, 1)]
            state[keys[0]], state[keys[1]] = state[keys[1]], state[keys[0]]

    found = compare_checkpoint(recorded.manifest, _saved(recorded, tmp_path / "a.pt", edit))
    assert _slugs(found) == ["exchanged-tensors"]
    assert "resampler.blocks 0 and 1 are exchanged (2 tensors)." in found.differences[0].message


def test_exchanged_projections_and_a_copied_one(tmp_path: Path, recorded: Recorded) -> None:
    def edit(state: State) -> None:
        at = f"{LAYERS}.0.self_attn"
        keys = [f"{at}.{name}.lora_A.default.weight" for name in ("k_proj", "v_proj")]
        state[keys[0]], state[keys[1]] = state[keys[1]], state[keys[0]]
        state[f"{at}.q_proj.lora_A.default.weight"] = state[f"{LAYERS}.1.self_attn.q_proj.lora_A.default.weight"]

    found = compare_checkpoint(recorded.manifest, _saved(recorded, tmp_path / "a.pt", edit))
    assert _slugs(found) == ["exchanged-tensors"]
    assert f"{LAYERS}.0.self_attn k_proj and v_proj are exchanged (2 tensors)" in found.differences[0].message
    assert f"{LAYERS} 0 holds 1 (1 tensor)" in found.differences[0].message


def test_zeros_are_not_some_other_tensor(tmp_path: Path, recorded: Recorded) -> None:
    def edit(state: State) -> None:
        for key in ("resampler_module.resampler.blocks.0.ln_q.weight", "resampler.blocks.0.ln_q.weight"):
            state[key].zero_()

    found = compare_checkpoint(recorded.manifest, _saved(recorded, tmp_path / "a.pt", edit))
    assert _slugs(found) == ["base-changed"]


def test_a_later_step_is_one_finding(tmp_path: Path, recorded: Recorded) -> None:
    def edit(state: State) -> None:
        for key in recorded.manifest.trained:
            if "layers.1.mlp.down_proj" not in key:
                state[key] += 1e-3

    found = compare_checkpoint(recorded.manifest, _saved(recorded, tmp_path / "a.pt", edit))
    assert _slugs(found) == ["other-step"]
    assert "30 of 32 trained tensors" in found.differences[0].message
    assert found.same == 143


def test_some_values_differ(tmp_path: Path, recorded: Recorded) -> None:
    key = f"{LAYERS}.0.mlp.up_proj.lora_B.default.weight"

    def edit(state: State) -> None:
        state[key].view(-1)[0] += 1e-6

    found = compare_checkpoint(recorded.manifest, _saved(recorded, tmp_path / "a.pt", edit))
    assert _slugs(found) == ["values-differ"]
    assert found.differences[0].keys == (key,)
    assert "1 of 32 trained tensors in the checkpoint differ from training" in found.differences[0].message


def test_another_base_model(tmp_path: Path, recorded: Recorded) -> None:
    other = make_panorama_vlm(seed=1).state_dict()

    def edit(state: State) -> State:
        return {key: one if recorded.manifest.tensors[key].trained else other[key] for key, one in state.items()}

    checkpoint = _saved(recorded, tmp_path / "a.pt", edit)
    found = compare_checkpoint(recorded.manifest, checkpoint)
    assert _slugs(found) == ["other-base"]
    assert "it is another base model" in found.differences[0].message
    only_trained = compare_checkpoint(recorded.manifest, checkpoint, base=False)
    assert not only_trained.differences
    assert only_trained.same == 32


def test_a_base_weight_was_changed(tmp_path: Path, recorded: Recorded) -> None:
    key = f"{LAYERS}.0.self_attn.q_proj.base_layer.weight"

    def edit(state: State) -> None:
        state[key][0, 0] += 1

    found = compare_checkpoint(recorded.manifest, _saved(recorded, tmp_path / "a.pt", edit))
    assert [(one.cause, one.keys) for one in found.differences] == [("base-changed", (key,))]


def test_tensors_that_are_like_others_do_not_make_another_base(tmp_path: Path, recorded: Recorded) -> None:
    def edit(state: State) -> State:
        constant = {key for key, one in state.items() if not recorded.manifest.tensors[key].trained and one.std() == 0}
        assert len(constant) > 50
        return {key: one + 1 if key in constant else one for key, one in state.items()}

    assert _slugs(compare_checkpoint(recorded.manifest, _saved(recorded, tmp_path / "a.pt", edit))) == ["base-changed"]


def test_another_rank(tmp_path: Path, adapter_manifest: Manifest) -> None:
    folder = save_adapter(make_panorama_vlm(rank=2), tmp_path)
    found = compare_checkpoint(adapter_manifest, open_checkpoint(folder))
    assert _slugs(found) == ["values-differ", "config-differs"]
    assert "28 tensors with another shape" in found.differences[0].message
    assert "[2, " in found.differences[0].message
    assert "r is 2 and was 4" in found.differences[1].message


def test_another_model_altogether(tmp_path: Path, recorded: Recorded) -> None:
    torch.save({"conv.weight": torch.ones(3, 3, 2, 2)}, tmp_path / "a.pt")
    found = compare_checkpoint(recorded.manifest, open_checkpoint(tmp_path / "a.pt"))
    assert _slugs(found) == ["other-manifest"]
    assert not found.same


def test_what_the_manifest_does_not_know_is_told(tmp_path: Path, recorded: Recorded) -> None:
    checkpoint = _saved(recorded, tmp_path / "a.pt", lambda state: {**state, "extra.head": torch.ones(3)})
    found = compare_checkpoint(recorded.manifest, checkpoint)
    assert not found.differences
    assert found.notes == ("1 tensor of the checkpoint not in the manifest: extra.head (1).",)


def _edited_config(folder: Path, **fields: Any) -> Any:
    path = folder / "adapter_config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))
    return open_checkpoint(folder)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"lora_alpha": 16}, "lora_alpha is 16 and was 8"),
        ({"use_rslora": True}, "use_rslora is True and was False"),
        ({"use_dora": True}, "use_dora is True and was False"),
        ({"bias": "all"}, "bias is 'all' and was 'none'"),
        ({"target_modules": ["q_proj", "v_proj", "x_proj"]}, "target_modules lacks down_proj, gate_proj"),
        ({"target_modules": ["q_proj", "v_proj", "x_proj"]}, "and adds x_proj"),
        ({"target_modules": ".*_proj"}, "target_modules is '.*_proj' and was ['down_proj'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head'] and was None"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is {'q_proj': 2} and was {}"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern is {'q_proj': 2} and was {}"),
        ({"layers_to_transform": 1}, "layers_to_transform is 1 and was None"),
    ],
)
def test_the_config_differs(
    tmp_path: Path, recorded: Recorded, adapter_manifest: Manifest, fields: dict[str, Any], told: str
) -> None:
    save_adapter(recorded.model, tmp_path)
    found = compare_checkpoint(adapter_manifest, _edited_config(tmp_path, **fields))
    assert _slugs(found) == ["config-differs"]
    assert found.differences[0].message.startswith("adapter_config.json differs from training: ")
    assert told in found.differences[0].message
    assert found.same == 28


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": "absent", "lora_bias": "absent", "rank_pattern": None, "modules_to_save": []},
        {"target_modules": ["v_proj", "q_proj", "k_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]},
        {"lora_alpha": 8.0, "inference_mode": False, "init_lora_weights": "pissa"},
    ],
)
def test_another_spelling_of_the_config_is_no_difference(
    tmp_path: Path, recorded: Recorded, adapter_manifest: Manifest, fields: dict[str, Any]
) -> None:
    save_adapter(recorded.model, tmp_path)
    assert not compare_checkpoint(adapter_manifest, _edited_config(tmp_path, **fields)).differences


CACHED = f"/root/.cache/hub/models--Qwen--Qwen3-8B/snapshots/{'0' * 40}"


@pytest.mark.parametrize(
    ("then", "now", "kind"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "same"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-4B", "difference"),
        ("Qwen/Qwen3-8B", "gpt2", "difference"),
        ("Qwen/Qwen3-8B", "/models/qwen3-8b", "note"),
        ("./qwen", "Qwen/Qwen3-8B", "note"),
        ("/a/qwen", "/b/qwen", "note"),
        (r"C:\models\qwen", "Qwen/Qwen3-8B", "note"),
        (CACHED, "Qwen/Qwen3-8B", "same"),
        (CACHED, "Qwen/Qwen3-4B", "difference"),
        (None, "Qwen/Qwen3-8B", "same"),
        ("Qwen/Qwen3-8B", None, "same"),
    ],
)
def test_the_bases_name(then: str | None, now: str | None, kind: str) -> None:
    differences, notes = base_differences(Manifest({}, base=BaseModel(then)), {"base_model_name_or_path": now})
    assert [one.cause for one in differences] == (["other-base"] if kind == "difference" else [])
    assert len(notes) == (kind == "note")


def test_the_bases_revision(tmp_path: Path, recorded: Recorded, adapter_manifest: Manifest) -> None:
    save_adapter(recorded.model, tmp_path)
    manifest = dataclasses.replace(adapter_manifest, base=BaseModel("org/base", "v1"))
    checkpoint = _edited_config(tmp_path, base_model_name_or_path="org/base", revision="v2")
    found = compare_checkpoint(manifest, checkpoint)
    assert _slugs(found) == ["other-base"]
    assert "revision 'v2'" in found.differences[0].message
    assert not compare_checkpoint(manifest, _edited_config(tmp_path, revision="v1")).differences
    assert not compare_checkpoint(manifest, _edited_config(tmp_path, revision=None)).differences


def test_damaged_adapter_values(tmp_path: Path, recorded: Recorded, adapter_manifest: Manifest) -> None:
    folder = save_adapter(recorded.model, tmp_path)
    state = load_file(folder / "adapter_model.safetensors")
    key = next(iter(state))
    state[key] = state[key] * 2
    save_file(state, folder / "adapter_model.safetensors")
    found = compare_checkpoint(adapter_manifest, open_checkpoint(folder))
    assert _slugs(found) == ["values-differ"]
    assert "1 of 28" in found.differences[0].message


def test_a_manifest_without_values_compares_the_names(recorded: Recorded) -> None:
    blank = {
        key: dataclasses.replace(entry, digest=None, casts={}, why="on the meta device")
        for key, entry in recorded.manifest.tensors.items()
    }
    found = compare_checkpoint(dataclasses.replace(recorded.manifest, tensors=blank), open_checkpoint(recorded.path))
    assert not found.differences
    assert found.not_compared == {"on the meta device": 173}
