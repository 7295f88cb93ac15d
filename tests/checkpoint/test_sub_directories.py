"""Adapters and components in sub-directories: all of them are of the checkpoint, and all are judged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import audit, open_checkpoint
from pytest_lora_ckpt.checkpoint import CheckpointError
from tests.checkpoint.test_companions import factors, write_adapter
from tests.helpers.adapter_samples import llama, wear
from tests.helpers.checkpoint_samples import Call, same_bits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def several(*names: str) -> Any:
    """A model with an adapter for each name, each of another rank."""
    from peft import LoraConfig

    torch.manual_seed(0)
    model = llama(tie_word_embeddings=False)
    first, *others = names
    from peft import get_peft_model

    def config(rank: int) -> LoraConfig:
        return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], init_lora_weights=False)

    adapted = get_peft_model(model, config(2), adapter_name=first)
    for rank, name in enumerate(others, start=3):
        adapted.add_adapter(name, config(rank))
    return adapted


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """Save a model with adapters of these names, once."""
    made: dict[tuple[str, ...], tuple[Any, Path]] = {}

    def save(*names: str) -> tuple[Any, Path]:
        if names not in made:
            model, folder = several(*names), tmp_path_factory.mktemp("-".join(names))
            model.save_pretrained(folder)
            made[names] = model, folder
        return made[names]

    return save


@pytest.mark.parametrize("names", [("style", "words"), ("words", "style"), ("default", "style"), ("only",)])
def test_all_adapters_are_of_the_checkpoint(saved: Callable[..., tuple[Any, Path]], names: tuple[str, ...]) -> None:
    _, folder = saved(*names)
    found = open_checkpoint(folder)
    assert (found.path, found.layout) == (folder, "peft_adapter")
    expected = {name: (rank, 2 * rank, 6) for rank, name in enumerate(names, start=2)}
    assert {name: (each.rank, each.alpha, each.modules) for name, each in found.adapters.items()} == expected


@pytest.mark.parametrize("names", [("style", "words"), ("words", "style"), ("default", "style"), ("only",)])
@pytest.mark.parametrize("active", [0, -1])
def test_all_are_compared_and_judged(
    saved: Callable[..., tuple[Any, Path]], names: tuple[str, ...], active: int
) -> None:
    model, folder = saved(*names)
    model.set_adapter(names[active])
    result = audit(folder, model=lambda: model)
    assert result.passed, result.findings
    assert result.verdict == "loads-after-remap"  # PEFT puts the names in.
    assert f"{6 * len(names)} adapted modules" in result.check("lora-complete").summary
    assert f"{12 * len(names)} adapter tensors" in result.check("values").summary
    assert result.check("config").outcome == "passed"
    assert not [each for each in result.findings if each.severity != "note"]


@pytest.mark.parametrize("names", [("style", "words"), ("default", "style")])
def test_all_are_proved_by_value(saved: Callable[..., tuple[Any, Path]], names: tuple[str, ...]) -> None:
    from peft import PeftModel

    def load(path: Path) -> Any:
        torch.manual_seed(0)
        base = llama(tie_word_embeddings=False)
        places = {name: path if name == "default" else path / name for name in names}
        first, *others = names
        model = PeftModel.from_pretrained(base, places[first], adapter_name=first)
        for name in others:
            model.load_adapter(places[name], adapter_name=name)
        return model

    def load_one_wrong(path: Path) -> Any:
        model = load(path)
        with torch.no_grad():
            next(each for key, each in model.named_parameters() if f"lora_B.{names[1]}" in key).add_(1)
        return model

    _, folder = saved(*names)
    inputs = {"input_ids": torch.tensor([[1, 2, 3]])}
    assert audit(folder, loader=load, inputs=inputs).check("loaded").outcome == "passed"
    loaded = audit(folder, loader=load_one_wrong, inputs=inputs).check("loaded")
    assert loaded.outcome == "failed"
    assert names[1] in loaded.summary


DAMAGE: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "nan": (lambda state: next(iter(state.values())).fill_(float("nan")), "values"),
    "half a pair": (lambda state: state.pop(next(key for key in state if "lora_B" in key)), "lora-complete"),
    "another rank": (
        lambda state: state.update({key: each[:1].clone() for key, each in state.items() if "lora_A" in key}),
        "lora-complete",
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("top", ["none", "adapter", "model"])
def test_what_is_wrong_with_one_of_them_is_seen_wherever_it_lies(tmp_path: Path, how: str, top: str) -> None:
    if top == "adapter":
        write_adapter(tmp_path / "top")
    else:
        (tmp_path / "top").mkdir()
        (tmp_path / "top" / "README.md").touch()
        if top == "model":
            weights = {f"layers.{n}.q_proj.weight": torch.ones(4, 4) for n in range(2)}
            save_file(weights, tmp_path / "top" / "model.safetensors")
    write_adapter(tmp_path / "top" / "first")
    state = factors()
    damage, check = DAMAGE[how]
    damage(state)
    write_adapter(tmp_path / "top" / "second", state)
    result = audit(tmp_path / "top")
    assert check in result.named("failed")
    assert set(result.checkpoint.adapters) == {"first", "second", *(["default"] if top == "adapter" else [])}


def test_a_second_adapter_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    (write_adapter(tmp_path / "a" / "second") / "adapter_model.safetensors").write_bytes(b"")
    result = audit(tmp_path / "a")
    (found,) = [each for each in result.findings if each.severity == "error"]
    assert (found.cause, result.named("failed")) == ("companion-empty", ("readable",))


def test_a_stale_second_adapter_that_the_model_does_not_have_is_said(
    saved: Callable[..., tuple[Any, Path]], tmp_path: Path
) -> None:
    import shutil

    _, folder = saved("default", "style")
    shutil.copytree(folder, tmp_path / "a")
    result = audit(tmp_path / "a", model=lambda: wear(llama(tie_word_embeddings=False)))
    assert {each.cause for each in result.findings} >= {"companion-not-judged"}
    assert result.passed


@pytest.mark.parametrize("cards", [(), ("a", "b"), (".", "a", "b")])
def test_directories_that_were_saved_one_by_one_are_no_one_checkpoint(tmp_path: Path, cards: tuple[str, ...]) -> None:
    for name in "ab":
        write_adapter(tmp_path / name)
    for name in cards:
        (tmp_path / name / "README.md").touch()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.problem == "directory-of-checkpoints"


def test_the_pickles_of_all_of_them_are_scanned(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    for name in "ab":
        write_adapter(tmp_path / name)
    torch.save({"x": Call(print, "ran")}, tmp_path / "b" / "extra.bin")
    assert "b/extra.bin" in audit(tmp_path).check("safe").summary


# ---------------------------------------------------------------------------------------------- modules of a pipeline


def test_modules_of_sentence_transformers_are_trained_weights(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a")
    (adapter / "modules.json").write_text("[]")
    for name in ("1_Pooling", "2_Dense", "elsewhere"):
        (adapter / name).mkdir()
        (adapter / name / "config.json").write_text("{}")
    for name in ("2_Dense", "elsewhere"):
        save_file({"linear.weight": torch.ones(3, 4)}, adapter / name / "model.safetensors")
    found = open_checkpoint(adapter)
    (dense,) = found.trained
    assert (dense.kind, dense.path.name, dense.why) == ("weights", "2_Dense", "")
    assert dense.checkpoint is not None
    assert dense.checkpoint.read("2.linear.weight").shape == (3, 4)
    torch.save({"x": Call(print, "ran")}, adapter / "2_Dense" / "pytorch_model.bin")
    assert "2_Dense/pytorch_model.bin" in audit(adapter).check("safe").summary


COMPONENTS = {"unet": ["diffusers", "UNet2DModel"], "text_encoder": ["transformers", "CLIPTextModel"]}
OTHERS = {"scheduler": ["diffusers", "DDPM"], "safety_checker": [None, None], "_class_name": "X", "_version": [1]}


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """Write a pipeline of two components, one of them in shards, and a scheduler."""
    from tests.checkpoint.test_what_is_meant import write_shards

    folder = tmp_path / "pipe"
    (folder / "scheduler").mkdir(parents=True)
    index = {**COMPONENTS, **{key: value for key, value in OTHERS.items() if key != "_version"}}
    (folder / "model_index.json").write_text(json.dumps(index))
    write_shards(folder / "unet", "diffusion_pytorch_model")
    (folder / "text_encoder").mkdir()
    save_file({"layers.1.weight": torch.full((2,), 5.0)}, folder / "text_encoder" / "model.fp16.safetensors")
    for name in COMPONENTS:
        (folder / name / "config.json").write_text("{}")
    return folder


def test_a_pipeline_is_one_checkpoint(pipeline: Path) -> None:
    found = open_checkpoint(pipeline)
    assert (found.path, found.layout) == (pipeline, "diffusers")
    assert set(found.keys) == {"unet.layers.1.weight", "unet.layers.2.weight", "text_encoder.layers.1.weight"}
    assert same_bits(found.read("text_encoder.layers.1.weight"), torch.full((2,), 5.0))
    assert len(found.files) == 3
    assert found.damaged(found.keys) == ()
    assert open_checkpoint(pipeline / "model_index.json").layout == "diffusers"
    assert open_checkpoint(pipeline / "unet").layout == "transformers"


def test_doubts_of_a_component_name_it(pipeline: Path) -> None:
    save_file({"z": torch.ones(1)}, pipeline / "unet" / "diffusion_pytorch_model-00003-of-00003.safetensors")
    (doubt,) = open_checkpoint(pipeline).doubts
    assert doubt.startswith("in unet/, diffusion_pytorch_model.safetensors.index.json does not name")


@pytest.mark.parametrize(
    ("spoil", "problem", "where"),
    [
        (lambda top: (top / "text_encoder" / "model.fp16.safetensors").unlink(), "no-weights", "text_encoder"),
        (lambda top: (top / "text_encoder").rename(top / "other"), "missing-component", "text_encoder"),
        (lambda top: (top / "model_index.json").write_text('{"../x": ["a", "b"]}'), "broken-index", "model_index.json"),
        (lambda top: (top / "model_index.json").write_text('{"scheduler": ["a", "b"]}'), "no-weights", ""),
        (lambda top: (top / "model_index.json").write_text("[]"), "broken-index", "model_index.json"),
    ],
)
def test_a_pipeline_that_is_not_whole(pipeline: Path, spoil: Any, problem: str, where: str) -> None:
    spoil(pipeline)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(pipeline)
    assert (caught.value.problem, caught.value.path) == (problem, pipeline / where)


def test_the_pickles_of_a_pipeline_are_scanned(pipeline: Path) -> None:
    torch.save({"x": Call(print, "ran")}, pipeline / "scheduler" / "state.bin")
    assert "scheduler/state.bin" in audit(pipeline).check("safe").summary
