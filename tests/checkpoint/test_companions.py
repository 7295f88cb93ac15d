"""What lies with an adapter: trained weights in other files, further adapters, and what is neither."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import audit, open_checkpoint
from pytest_lora_ckpt.checkpoint import name_companions
from tests.helpers.gguf_samples import entry, raw_gguf

PREFIX = "base_model.model."
TARGETS = ("layers.0.q_proj", "layers.1.q_proj")


def factors(modules: tuple[str, ...] = TARGETS) -> dict[str, torch.Tensor]:
    made = {}
    for module in modules:
        made[f"{PREFIX}{module}.lora_A.weight"] = torch.ones(2, 4)
        made[f"{PREFIX}{module}.lora_B.weight"] = torch.ones(4, 2)
    return made


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    folder.mkdir()
    save_file(tensors or factors(), folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


PROJECTOR = {f"{PREFIX}projector.weight": torch.ones(4, 3), f"{PREFIX}projector.bias": torch.ones(4)}


class Runs:
    """Asks to run code when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def only(adapter: Path) -> Any:
    (companion,) = open_checkpoint(adapter).companions
    return companion


@pytest.mark.parametrize("name", ["non_lora_trainables.bin", "vit.safetensors", "head.pt", "merger"])
def test_trained_weights_are_found_under_any_name(name: str, adapter: Path) -> None:
    (save_file if name.endswith("safetensors") else torch.save)(PROJECTOR, adapter / name)  # type: ignore[operator]
    companion = only(adapter)
    assert (companion.kind, companion.path.name) == ("weights", name)
    assert set(companion.checkpoint.keys) == set(PROJECTOR)
    assert [each.path for each in open_checkpoint(adapter).trained] == [adapter / name]


def test_the_same_next_to_a_weights_file_that_is_named(adapter: Path) -> None:
    torch.save(PROJECTOR, adapter / "rest.bin")
    assert [each.kind for each in open_checkpoint(adapter / "adapter_model.safetensors").companions] == ["weights"]


def test_the_state_of_the_training_is_not_trained_weights(adapter: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), adapter / "optimizer.pt")
    torch.save(optimizer.state_dict(), adapter / "of-any-name.pt")
    torch.save({"python": (3, 1), "cpu": torch.get_rng_state()}, adapter / "rng_state_0.pth")
    torch.save({"cpu": torch.get_rng_state()}, adapter / "generator.pth")
    torch.save({}, adapter / "scaler.pt")
    torch.save({"scale": torch.ones(1)}, adapter / "scaler_1.pt")
    torch.save({"last_epoch": 3}, adapter / "scheduler.pt")
    torch.save(Path("a"), adapter / "training_args.bin")
    (adapter / "optimizer_1.pt").write_bytes((adapter / "optimizer.pt").read_bytes()[:-100])
    (adapter / "README.md").write_text("An adapter.")
    (adapter / "vocabulary.bin").write_bytes(bytes(range(1, 200)))
    assert open_checkpoint(adapter).companions == ()


def test_a_whole_model_in_shards_is_one_and_not_judged(adapter: Path) -> None:
    shards = {
        "model-00001-of-00002.safetensors": {"layers.0.q_proj.weight": torch.ones(4, 4)},
        "model-00002-of-00002.safetensors": {"layers.1.q_proj.weight": torch.ones(4, 4), "head.weight": torch.ones(2)},
    }
    for name, tensors in shards.items():
        save_file(tensors, adapter / name)
    where = {key: name for name, tensors in shards.items() for key in tensors}
    (adapter / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    companion = only(adapter)
    assert companion.kind == "other"
    assert companion.why == "a whole model: it holds the weights of 2 modules that are adapted"
    assert open_checkpoint(adapter).trained == ()


def test_shards_without_their_index_are_not_judged(adapter: Path) -> None:
    save_file({"embed.weight": torch.ones(4, 4)}, adapter / "model-00001-of-00002.safetensors")
    assert only(adapter).why == "a shard of a whole model"


def test_a_tower_with_layers_of_the_same_names_is_trained_weights(adapter: Path) -> None:
    save_file({f"vision.{module}.weight": torch.ones(4, 4) for module in TARGETS}, adapter / "vit.safetensors")
    assert only(adapter).kind == "weights"


def in_directory(adapter: Path, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    (adapter / name).mkdir()
    torch.save(tensors, adapter / name / "pytorch_model.bin")
    return only(adapter)


W = torch.ones(4, 4)


@pytest.mark.parametrize(
    ("name", "tensors", "kind"),
    [
        ("connector", {"proj.weight": torch.ones(4, 3)}, "weights"),
        ("vision", {"layers.0.fc1.weight": W}, "weights"),
        ("vision", {"layers.0.q_proj.weight": W}, "other"),  # A model of its own, or the base.
        ("llm", {"q_proj.base_layer.weight": W}, "weights"),  # One name says too little.
        ("llm", {f"{each}.base_layer.weight": W for each in TARGETS} | {"embed.weight": W}, "base"),
        ("merged", {f"{each}.weight": W for each in TARGETS}, "other"),
    ],
)
def test_components_in_directories_of_their_own(
    adapter: Path, name: str, tensors: dict[str, torch.Tensor], kind: str
) -> None:
    """As TinyLLaVA Factory saves them."""
    found = in_directory(adapter, name, tensors)
    assert (found.kind, found.path, set(found.checkpoint.keys)) == (
        kind,
        adapter / name,
        {f"{name}.{key}" for key in tensors},
    )


def test_a_component_below_its_name_in_the_adapter(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", factors(tuple(f"language_model.{each}" for each in TARGETS)))
    base = {f"{each}.base_layer.weight": W for each in TARGETS}
    assert in_directory(adapter, "language_model", base).kind == "base"
    vision = tmp_path / "vision"
    shutil.copytree(adapter, vision)
    shutil.rmtree(vision / "language_model")
    assert in_directory(vision, "vision_tower", {f"{each}.weight": W for each in TARGETS}).kind == "other"


@pytest.mark.parametrize("name", ["checkpoint-500", "epoch_1", "global_step10"])
def test_steps_are_no_components(adapter: Path, name: str) -> None:
    (adapter / name).mkdir()
    torch.save({"proj.weight": torch.ones(4, 3)}, adapter / name / "pytorch_model.bin")
    torch.save({"state": {}}, adapter / name / "optimizer.pt")
    assert open_checkpoint(adapter).companions == ()


def test_a_model_that_cannot_be_read_is_not_the_adapters_fault(adapter: Path) -> None:
    save_file({"layers.0.q_proj.weight": torch.ones(4, 4)}, adapter / "model.safetensors")
    (adapter / "model.safetensors").write_bytes((adapter / "model.safetensors").read_bytes()[:-8])
    companion = only(adapter)
    assert (companion.kind, companion.why) == ("other", "a model that cannot be read")


def test_another_copy_of_the_adapter_is_not_judged(adapter: Path) -> None:
    save_file(factors(TARGETS[:1]), adapter / "older.safetensors")
    assert only(adapter).why == "another copy of the adapter, of 1 module"


def test_factors_of_other_modules_are_trained_weights(adapter: Path) -> None:
    save_file(factors(("vision.fc1",)), adapter / "vision_lora.safetensors")
    assert only(adapter).kind == "weights"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data[:-100], "truncated"),
        (lambda _: b"", "empty-file"),
        (lambda data: bytes(len(data)), "zeros"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git-lfs-pointer"),
    ],
)
def test_trained_weights_that_cannot_be_read_are_named(damage: Any, problem: str, adapter: Path) -> None:
    torch.save(PROJECTOR, adapter / "rest.bin")
    (adapter / "rest.bin").write_bytes(damage((adapter / "rest.bin").read_bytes()))
    companion = only(adapter)
    assert (companion.kind, companion.path.name, companion.error.problem) == ("weights", "rest.bin", problem)


def test_an_empty_state_dict_is_named(adapter: Path) -> None:
    torch.save({}, adapter / "rest.bin")
    assert only(adapter).error.problem == "empty"


@pytest.mark.parametrize("around", [lambda evil: evil, lambda evil: {**PROJECTOR, "more": evil}])
def test_a_pickle_that_asks_for_code_is_named_and_not_run(around: Any, adapter: Path) -> None:
    torch.save(around(Runs(f"touch {adapter}/ran")), adapter / "rest.bin")
    (asked,) = [each for each in open_checkpoint(adapter).globals if each.module == "posix"]
    assert (asked.entry, asked.called) == ("rest.bin: rest/data.pkl", True)
    assert not (adapter / "ran").exists()


def test_further_adapters_are_found_and_steps_of_the_run_are_not(adapter: Path) -> None:
    write_adapter(adapter / "second")
    write_adapter(adapter / "checkpoint-500")
    write_adapter(adapter / "last")
    torch.save({}, adapter / "last" / "optimizer.pt")
    write_adapter(adapter / "third")
    (adapter / "third" / "adapter_model.safetensors").unlink()
    found = open_checkpoint(adapter)
    assert [(each.kind, each.path.name) for each in found.companions] == [("adapter", "second"), ("adapter", "third")]
    assert [each.error and each.error.problem for each in found.trained] == [None, "no-weights"]
    assert found.adapter_beside is None


def test_next_to_a_torch_file_the_directory_is_the_adapter_and_what_lies_in_it_is_further(tmp_path: Path) -> None:
    torch.save({"projector.weight": torch.ones(4, 3)}, tmp_path / "last.pt")
    torch.save(PROJECTOR, write_adapter(tmp_path / "lora_weights") / "rest.bin")
    found = open_checkpoint(tmp_path / "last.pt")
    assert found.adapter_beside is not None
    assert [(each.path.name, each.is_own) for each in found.trained] == [("lora_weights", True), ("rest.bin", False)]


def test_a_project_names_files_wherever_they_lie(adapter: Path, tmp_path: Path) -> None:
    torch.save(PROJECTOR, tmp_path / "projector.bin")
    shutil.copy(adapter / "adapter_model.safetensors", adapter / "older.safetensors")
    write_adapter(tmp_path / "more")
    paths = [tmp_path / "projector.bin", adapter / "older.safetensors", tmp_path / "more", tmp_path / "none.bin"]
    named = name_companions(open_checkpoint(adapter), paths).companions
    assert [each.kind for each in named] == ["weights", "weights", "adapter", "weights"]
    assert all(each.named for each in named)
    assert named[3].error is not None
    assert named[3].error.problem == "missing"


GGUF = {
    "adapter": raw_gguf([entry("blk.0.attn_q.weight.lora_a")], [], bytes(32)),
    "merged model": raw_gguf(
        [entry("blk.0.attn_q.weight", (32, 2), 8), entry("output_norm.weight", offset=96)], [], bytes(128)
    ),
    "cut off": raw_gguf([entry("blk.0.attn_q.weight.lora_a")], [], bytes(8)),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_file_for_llama_cpp_is_no_part_of_what_was_trained(adapter: Path, name: str) -> None:
    (adapter / "adapter-F16.gguf").write_bytes(GGUF[name])
    companions = [(each.kind, each.why) for each in open_checkpoint(adapter).companions]
    assert companions == ([] if name == "cut off" else [("other", "a file for llama.cpp")])
    assert audit(adapter).passed


TUNE = {
    f"layers.{n}.attn.q_proj.lora_{letter}.weight": torch.ones(shape)
    for n in range(2)
    for letter, shape in {"a": (2, 4), "b": (4, 2)}.items()
}


@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        (TUNE, "other"),
        ({key: tensor for key, tensor in TUNE.items() if "layers.0" in key}, "weights"),  # Another adapter.
        ({key: torch.cat([tensor, tensor], tensor.shape.index(2)) for key, tensor in TUNE.items()}, "weights"),
        (TUNE | {"output.weight": torch.ones(4, 4)}, "weights"),
    ],
    ids=["the same", "one layer", "another rank", "with a head"],
)
def test_the_adapter_again_under_torchtunes_names(adapter: Path, tensors: dict[str, torch.Tensor], kind: str) -> None:
    torch.save(tensors, adapter / "adapter_model.pt")
    assert only(adapter).kind == kind
