from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import compare, open_checkpoint
from pytest_lora_ckpt.manifest import SCHEMA, Manifest, make_manifest, read_manifest, write_manifest
from pytest_lora_ckpt.manifest import write as writing
from pytest_lora_ckpt.manifest.digests import digest_tensors
from pytest_lora_ckpt.models import as_key_set, model_keys
from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs
from tests.helpers.digests import digest_tensor

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Recorded

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.* is deprecated:FutureWarning")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    model = make_panorama_vlm(modules_to_save=["norm"], use_dora=True)
    made = make_manifest(model, probe=replica_inputs(model))
    path = write_manifest(model, tmp_path, probe=replica_inputs(model))
    assert path == tmp_path / "lora_manifest.json"
    read = read_manifest(path)
    assert read == made
    assert read.path == path
    assert read_manifest(tmp_path) == read


def test_keys_shapes_dtypes_and_aliases_are_the_models(recorded: Recorded) -> None:
    keys = model_keys(recorded.model)
    assert set(recorded.manifest.keys) == set(keys)
    assert recorded.manifest.keys.shapes == {key: keys[key].shape for key in recorded.manifest.keys}
    assert recorded.manifest.keys.aliases == keys.aliases
    assert all(
        recorded.manifest.tensors[key].digest == digest_tensor(tensor)
        for key, tensor in recorded.model.state_dict().items()
    )


def test_it_stands_in_for_the_model(recorded: Recorded) -> None:
    assert as_key_set(recorded.manifest) is recorded.manifest.keys
    checkpoint = open_checkpoint(recorded.path)
    with_model, with_manifest = compare(checkpoint, recorded.model), compare(checkpoint, recorded.manifest)
    assert with_manifest.verdict == with_model.verdict == "loads-after-remap"
    assert with_manifest.mapping == with_model.mapping


def test_what_is_trained(recorded: Recorded) -> None:
    assert len(recorded.manifest.trained) == 28 + 4  # Both factors of 14 modules; the projector under two names.
    assert "projector.linear.weight" in recorded.manifest.trained
    tensors = recorded.manifest.tensors
    assert all(set(tensors[key].casts) == {"bfloat16", "float16"} for key in recorded.manifest.trained)
    assert not any(entry.casts for entry in tensors.values() if not entry.trained)


def test_the_adapter_is_trained_even_when_frozen_for_inference() -> None:
    model = make_panorama_vlm().requires_grad_(requires_grad=False)
    assert len(make_manifest(model).trained) == 28


def test_the_config_and_what_is_in_force(recorded: Recorded) -> None:
    config = recorded.manifest.adapters["default"]
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["use_dora"]) == (4, 8, False, False)
    assert config["bias"] == "none"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert recorded.manifest.active == ("default",)
    assert recorded.manifest.scalings == {"default": 2.0}


def test_rslora_and_patterns() -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, target_modules=["0", "1"], rank_pattern={"1": 1}, modules_to_save=["2"]
    )
    model = get_peft_model(torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3))), config)
    manifest = make_manifest(model)
    assert manifest.adapters["default"]["rank_pattern"] == {"1": 1}
    assert manifest.adapters["default"]["modules_to_save"] == ["2"]
    assert manifest.scalings["default"] == {"base_model.model.0": 4.0, "base_model.model.1": 8.0}
    assert "base_model.model.2.modules_to_save.default.weight" in manifest.trained
    assert "base_model.model.2.original_module.weight" not in manifest.trained


def test_two_adapters() -> None:
    from peft import LoraConfig

    model = make_panorama_vlm()
    model.language_model.add_adapter("other", LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj"]))
    manifest = make_manifest(model)
    assert set(manifest.adapters) == {"default", "other"}
    assert manifest.active == ("default",)
    assert manifest.scalings == {"default": 2.0, "other": 1.0}


class _OtherLora(torch.nn.Module):
    """LoRA as loralib has it."""

    def __init__(self, scaling: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, 4), requires_grad=False)
        self.lora_A = torch.nn.Parameter(torch.ones(2, 4))
        self.lora_B = torch.nn.Parameter(torch.ones(4, 2))
        self.scaling = scaling


def test_lora_of_another_library() -> None:
    manifest = make_manifest(torch.nn.Sequential(_OtherLora(0.5), _OtherLora(0.5)))
    assert manifest.scalings == {"default": 0.5}
    assert manifest.adapters == {}
    assert manifest.trained == ("0.lora_A", "0.lora_B", "1.lora_A", "1.lora_B")


def test_a_model_without_an_adapter() -> None:
    manifest = make_manifest(make_panorama_vlm(stage="vision"))
    assert manifest.adapters == manifest.scalings == {}
    assert all(key.startswith("vision_encoder.") for key in manifest.trained)


def test_the_fingerprint_follows_the_base_alone() -> None:
    def base(model: torch.nn.Module) -> str | None:
        return make_manifest(model).base.fingerprint

    adapted = make_panorama_vlm().language_model
    plain = make_panorama_vlm(lora=False).language_model.requires_grad_(requires_grad=False)
    assert base(adapted) == base(plain) == base(make_panorama_vlm(rank=2).language_model)
    assert base(torch.nn.ModuleDict({"model": adapted})) == base(plain)
    assert base(adapted) != base(make_panorama_vlm(seed=1).language_model)
    with torch.no_grad():
        next(plain.parameters())[0] += 1e-3
    assert base(adapted) != base(plain)


def test_the_fingerprint_sees_exchanged_layers() -> None:
    plain = make_panorama_vlm(lora=False).language_model.requires_grad_(requires_grad=False)
    before = make_manifest(plain).base.fingerprint
    plain.model.layers[0], plain.model.layers[1] = plain.model.layers[1], plain.model.layers[0]
    assert make_manifest(plain).base.fingerprint != before


def test_the_bases_names() -> None:
    model = make_panorama_vlm()
    model.language_model.peft_config["default"].base_model_name_or_path = "Qwen/Qwen3-0.6B"
    model.language_model.peft_config["default"].revision = "main"
    model.language_model.config._commit_hash = "c1899de289a04d12100db370d81485cdf75e47ca"
    base = make_manifest(model).base
    assert (base.name, base.revision, base.commit) == (
        "Qwen/Qwen3-0.6B",
        "main",
        "c1899de289a04d12100db370d81485cdf75e47ca",
    )


def test_a_compiled_and_a_data_parallel_model_as_they_are() -> None:
    model = torch.nn.DataParallel(make_panorama_vlm().language_model)
    manifest = make_manifest(model)
    assert all(key.startswith("module.") for key in manifest.tensors)
    assert manifest.scalings == {"default": 2.0}
    assert manifest.adapters["default"]["r"] == 4


@pytest.mark.slow
def test_a_model_without_data() -> None:
    manifest = make_manifest(make_panorama_vlm(scale="guide"))
    assert {entry.digest for entry in manifest.tensors.values()} == {None}
    assert {entry.why for entry in manifest.tensors.values()} == {"on the meta device"}
    assert manifest.base.fingerprint is None


def test_merged_weights_are_not_the_bases() -> None:
    model = make_panorama_vlm()
    model.language_model.merge_adapter()
    merged = {key: entry for key, entry in make_manifest(model).tensors.items() if entry.why}
    assert len(merged) == 14
    assert all("base_layer.weight" in key and entry.digest is None for key, entry in merged.items())


def test_values_of_the_state_dict_that_is_saved_count() -> None:
    model = torch.nn.Linear(2, 2)
    averaged = {"weight": torch.eye(2), "bias": torch.zeros(2, dtype=torch.float64)}
    tensors = make_manifest(model, values=averaged).tensors
    assert tensors["weight"].digest == digest_tensor(torch.eye(2))
    assert tensors["bias"].digest == digest_tensor(model.bias)  # Another dtype: only the model's own is known.


def test_everything_is_as_before(tmp_path: Path) -> None:
    model = make_panorama_vlm()
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    grads = [parameter.requires_grad for parameter in model.parameters()]
    random_state = torch.get_rng_state()
    write_manifest(model, tmp_path, probe=replica_inputs(model))
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_tensor_of_several_names_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counting(tensor: torch.Tensor, dtypes: Any) -> dict[str, str]:
        read.append(tensor.data_ptr())
        return digest_tensors(tensor, dtypes)

    monkeypatch.setattr(writing, "digest_tensors", counting)
    manifest = make_manifest(make_panorama_vlm())
    assert len(read) == len(set(read)) == len(manifest.tensors) - sum(len(one) - 1 for one in manifest.keys.aliases)


def test_it_is_small(recorded: Recorded) -> None:
    assert recorded.manifest.path is not None
    size = recorded.manifest.path.stat().st_size
    assert size < 45_000
    assert size < recorded.path.stat().st_size / 10


def test_a_diff_shows_what_changed(tmp_path: Path) -> None:
    model = make_panorama_vlm()
    before = write_manifest(model, tmp_path / "before.json").read_text(encoding="utf-8").splitlines()
    assert write_manifest(model, tmp_path / "again.json").read_text(encoding="utf-8").splitlines() == before
    with torch.no_grad():
        model.projector.linear.bias[0] += 1
    after = write_manifest(model, tmp_path / "after.json").read_text(encoding="utf-8").splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 2
    assert all("bias" in line for line in changed)
    assert json.loads("\n".join(before))["schema"] == SCHEMA


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_manifest(torch.nn.Linear(2, 2), tmp_path)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_manifest(torch.nn.Linear(3, 3), tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("model", [None, {}, torch.nn.Linear])
def test_what_is_no_model(model: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, and was given"):
        write_manifest(model, tmp_path)


def test_a_directory_of_the_path_is_made(tmp_path: Path) -> None:
    assert write_manifest(torch.nn.Linear(2, 2), tmp_path / "new" / "m.json").is_file()


def test_reading_needs_no_torch(tmp_path: Path, recorded: Recorded) -> None:
    code = (
        "import sys; from pytest_lora_ckpt import open_checkpoint\n"
        "from pytest_lora_ckpt.manifest import compare_checkpoint, read_manifest\n"
        "found = compare_checkpoint(read_manifest(sys.argv[1]), open_checkpoint(sys.argv[2]))\n"
        "assert not found.differences and found.same == 173, found\n"
        "print([name for name in ('torch', 'peft', 'lightning', 'transformers') if name in sys.modules])"
    )
    arguments = [sys.executable, "-c", code, str(recorded.manifest.path), str(recorded.path)]
    assert subprocess.run(arguments, check=True, capture_output=True, text=True).stdout == "[]\n"


def test_an_empty_manifest_is_one() -> None:
    assert Manifest({}).keys.aliases == ()
    assert make_manifest(torch.nn.Identity()).tensors == {}
