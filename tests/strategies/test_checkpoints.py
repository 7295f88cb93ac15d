"""Drawn checkpoints are what they say: real files that load; and the gate passes the healthy, and fails the faulty."""

from __future__ import annotations

import os
import re
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from peft import PeftModel

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.faults import FAULTS
from pytest_lora_ckpt.proof.running import floats_in
from pytest_lora_ckpt.strategies import (
    CheckpointRecipe,
    FaultyCheckpoint,
    HealthyCheckpoint,
    checkpoint_recipes,
    faults,
    faulty_checkpoints,
    healthy_checkpoints,
)
from tests.helpers.gate_means import MEANS, audit, failures, missed
from tests.helpers.loader_mistakes import MISTAKES, Mistake

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# A longer run: LORA_CKPT_EXAMPLES=1000 draws that many, other ones each time; for thousands see `draw_many.py`.
EXAMPLES = int(os.environ.get("LORA_CKPT_EXAMPLES", "0"))


def few(count: int) -> settings:
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )


LAYOUTS = "peft_adapter, torch, lightning, safetensors"
WRONG: list[tuple[Callable[..., object], dict[str, Any], str]] = [
    (checkpoint_recipes, {"layouts": []}, "layouts=[] must hold at least 1"),
    (checkpoint_recipes, {"layouts": ["gguf"]}, f"layouts=['gguf'] must be out of {LAYOUTS}, and 'gguf' is not"),
    (checkpoint_recipes, {"max_layers": 0}, "max_layers=0 must be at least 1"),
    (checkpoint_recipes, {"max_rank": 1.5}, "max_rank=1.5 must be a whole number"),
    (checkpoint_recipes, {"dora": "yes"}, "dora='yes' must be True, False or None"),
    (checkpoint_recipes, {"tied": 0}, "tied=0 must be True, False or None"),
    (checkpoint_recipes, {"vision": 1}, "vision=1 must be True, False or None"),
    (checkpoint_recipes, {"beside": "copy"}, "beside='copy' must be True, False or None"),
    (
        checkpoint_recipes,
        {"layouts": ["torch"], "companion": True},
        "companion=True fits none of layouts=('torch',)",
    ),
    (checkpoint_recipes, {"moved_base": True, "tied": True}, "moved_base=True does not go with tied=True"),
    (checkpoint_recipes, {"merged": "whole"}, "merged='whole' must be True, False or None"),
    (
        checkpoint_recipes,
        {"layouts": ["peft_adapter"], "trained_only": False},
        "trained_only=False fits none of layouts=('peft_adapter',)",
    ),
    (checkpoint_recipes, {"layouts": ["safetensors"], "beside": True}, "beside=True fits none of layouts=('safet"),
    (healthy_checkpoints, {"directory": "nowhere"}, "directory='nowhere' must be a directory that exists"),
    (healthy_checkpoints, {"directory": None}, "directory=None must be a directory that exists"),
    (healthy_checkpoints, {"directory": ".", "layouts": "torch"}, "layouts='torch' must be a collection of names"),
    (healthy_checkpoints, {"directory": ".", "recipes": 1}, "recipes=1 must be a Hypothesis strategy or None"),
    (faults, {"layouts": ["gguf"]}, "layouts=['gguf'] must be out of"),
    (faults, {"seen": ["eye"]}, "seen=['eye'] must be out of file, model, value, manifest, and 'eye' is not"),
    (
        faults,
        {"layouts": ["peft_adapter"], "seen": ["value"]},
        "no fault applies to layouts=['peft_adapter'] and",
    ),
    (faulty_checkpoints, {"directory": "nowhere"}, "directory='nowhere' must be a directory that exists"),
    (faulty_checkpoints, {"directory": ".", "faults": ["nan"]}, "faults=['nan'] must be a Hypothesis strategy or None"),
]


@pytest.mark.parametrize(
    ("strategy", "arguments", "message"), WRONG, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_wrong_argument_is_named_with_its_value(
    strategy: Callable[..., object], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        strategy(**arguments)


@pytest.mark.parametrize("strategy", [checkpoint_recipes, healthy_checkpoints, faults, faulty_checkpoints])
def test_arguments_are_given_by_name(strategy: Callable[..., object]) -> None:
    with pytest.raises(TypeError):
        strategy(1)


Wanted = "Callable[[CheckpointRecipe], Any]"
KINDS: dict[str, Wanted] = {
    "lightning": lambda drawn: drawn.layout == "lightning",
    "legacy torch": lambda drawn: drawn.layout == "torch" and drawn.older,
    "bin": lambda drawn: drawn.layout == "peft_adapter" and drawn.older,
    "rsLoRA": lambda drawn: drawn.rslora,
    "DoRA in float16": lambda drawn: drawn.dora and drawn.dtype == "float16",
    "bfloat16": lambda drawn: drawn.dtype == "bfloat16",
    "patterns": lambda drawn: drawn.ranks and drawn.alphas,
    "some layers": lambda drawn: drawn.only_layers is not None,
    "regular expression": lambda drawn: drawn.by_pattern,
    "biases": lambda drawn: drawn.bias == "all",
    "modules_to_save": lambda drawn: "lm_head" in drawn.modules_to_save,
    "embedding": lambda drawn: "embed_tokens" in drawn.targets,
    "tied": lambda drawn: drawn.tied,
    "vision": lambda drawn: drawn.vision and drawn.trained_only,
    "other adapter name": lambda drawn: drawn.adapter_name == "policy",
    "in place": lambda drawn: drawn.injected,
    "two wrappers": lambda drawn: len(drawn.wrappers) == 2,
    "unwrapped": lambda drawn: drawn.unwrapped,
    "beside": lambda drawn: drawn.beside == "only",
    "companion": lambda drawn: drawn.companion == "mm_projector.bin",
    "value head": lambda drawn: drawn.companion == "value_head.safetensors" and drawn.merged,
    "second adapter": lambda drawn: drawn.second,
    "PiSSA": lambda drawn: drawn.start == "pissa" and not drawn.converted,
    "converted": lambda drawn: drawn.converted and drawn.merged,
    "new words": lambda drawn: drawn.new_words and drawn.companion,
    "stacked experts": lambda drawn: drawn.experts and drawn.merged,
    "fused": lambda drawn: drawn.merged == "fused",
    "merged in part": lambda drawn: drawn.merged == "in_part" and drawn.layout == "lightning",
}


@pytest.mark.parametrize("wanted", KINDS.values(), ids=KINDS)
def test_each_kind_is_drawn(wanted: Callable[[CheckpointRecipe], Any]) -> None:
    quick = settings(max_examples=2000, database=None, phases=[Phase.generate], derandomize=True)
    assert wanted(find(checkpoint_recipes(), lambda drawn: bool(wanted(drawn)), settings=quick))


@few(200)
@given(
    checkpoint_recipes(
        layouts=["torch", "lightning"], max_layers=2, max_rank=2, dora=True, tied=False, vision=True, trained_only=True
    )
)
def test_what_is_asked_for_is_drawn(drawn: CheckpointRecipe) -> None:
    assert drawn.layout in {"torch", "lightning"}
    assert drawn.layers <= 2 >= drawn.rank
    assert drawn.dora
    assert drawn.vision
    assert not drawn.tied
    assert drawn.trained_only or drawn.beside == "only"


@few(200)
@given(checkpoint_recipes())
def test_a_recipe_prints_as_the_call_that_makes_it(drawn: CheckpointRecipe) -> None:
    assert eval(repr(drawn)) == drawn  # noqa: S307


def test_every_fault_is_drawn() -> None:
    drawn: set[str] = set()

    @settings(max_examples=3000, database=None, derandomize=True, phases=[Phase.generate])
    @given(faults())
    def draw(fault: Any) -> None:
        drawn.add(fault.name)

    draw()
    assert drawn == set(FAULTS)


@few(100)
@given(faults(layouts=["lightning"], seen=["value", "manifest"]))
def test_faults_are_those_that_are_asked_for(fault: Any) -> None:
    assert "lightning" in fault.layouts
    assert fault.seen in {"value", "manifest"}


@few(12)
@given(data=st.data())
def test_files_are_what_they_say_and_load_what_was_trained(data: st.DataObject, tmp_path: Path) -> None:
    recipes = checkpoint_recipes(merged=False).filter(lambda drawn: not (drawn.converted or drawn.new_words))
    checkpoint = data.draw(healthy_checkpoints(directory=tmp_path, recipes=recipes))
    opened = open_checkpoint(checkpoint.path)
    assert opened.layout == checkpoint.layout
    trained, loaded = checkpoint.trained_model().state_dict(), checkpoint.load()
    wrappers = "".join(f"{name}." for name in checkpoint.recipe.wrappers) if checkpoint.recipe.unwrapped else ""
    held = loaded.state_dict()
    assert all(torch.equal(tensor, held[key.removeprefix(wrappers)]) for key, tensor in trained.items())
    assert all(each.isfinite().all() for each in floats_in(loaded(**checkpoint.inputs)))
    fresh = checkpoint.make_model().state_dict()
    assert fresh.keys() == held.keys()
    assert any(not torch.equal(fresh[key], held[key]) for key in held)
    checkpoint.remove()
    assert not checkpoint.folder.exists()


@few(12)
@given(data=st.data())
def test_moved_and_merged_ones_compute_what_was_trained(data: st.DataObject, tmp_path: Path) -> None:
    recipes = checkpoint_recipes(merged=True).filter(lambda drawn: drawn.dtype == "float32")
    moved = checkpoint_recipes(layouts=["peft_adapter"], moved_base=True).filter(lambda drawn: drawn.dtype == "float32")
    checkpoint = data.draw(healthy_checkpoints(directory=tmp_path, recipes=recipes | moved))
    results = [model(**checkpoint.inputs) for model in (checkpoint.load(), checkpoint.trained_model())]
    for now, then in zip(*map(floats_in, results), strict=True):
        assert torch.allclose(now, then, atol=1e-4)


@few(6)
@given(data=st.data())
def test_adapters_load_by_peft_without_a_warning(data: st.DataObject, tmp_path: Path) -> None:
    plain = checkpoint_recipes(layouts=["peft_adapter"], companion=False, moved_base=False, merged=False)
    recipes = plain.filter(lambda drawn: not drawn.second)
    checkpoint = data.draw(healthy_checkpoints(directory=tmp_path, recipes=recipes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = PeftModel.from_pretrained(checkpoint.base_model(), str(checkpoint.path))
    trained = checkpoint.trained_model()
    assert torch.equal(loaded(**checkpoint.inputs), trained(**checkpoint.inputs))


def test_peft_saves_the_same_adapter(tmp_path: Path) -> None:
    recipe = CheckpointRecipe(layers=2, rank=2, modules_to_save=("lm_head",), targets=("q_proj", "v_proj"), dora=True)
    checkpoint = HealthyCheckpoint.write(recipe, tmp_path)
    checkpoint.trained_model().save_pretrained(tmp_path / "peft")
    ours, theirs = open_checkpoint(checkpoint.path), open_checkpoint(tmp_path / "peft")
    assert dict(ours.keys) == dict(theirs.keys)
    assert {key: bytes(ours.read_bytes(key)) for key in ours.keys} == {
        key: bytes(theirs.read_bytes(key)) for key in theirs.keys
    }
    # A set in PEFT, which writes it in the order of that day's hashes.
    assert {**ours.adapter_config, "target_modules": {*recipe.targets}} == {
        **theirs.adapter_config,
        "target_modules": {*theirs.adapter_config["target_modules"]},
    }


@few(6)
@given(data=st.data())
def test_state_dicts_load_by_torch_without_a_complaint(data: st.DataObject, tmp_path: Path) -> None:
    recipes = checkpoint_recipes(layouts=["torch"], trained_only=False, beside=False, merged=False)
    checkpoint = data.draw(healthy_checkpoints(directory=tmp_path, recipes=recipes.filter(lambda r: not r.unwrapped)))
    checkpoint.make_model().load_state_dict(torch.load(checkpoint.path, weights_only=True), strict=True)


def test_equal_recipes_give_equal_tensors_in_directories_of_their_own(tmp_path: Path) -> None:
    recipe = CheckpointRecipe(layout="safetensors", seed=3)
    one, other = HealthyCheckpoint.write(recipe, tmp_path), HealthyCheckpoint.write(recipe, tmp_path)
    assert one.folder != other.folder
    assert one.path.read_bytes() == other.path.read_bytes()
    state = torch.random.get_rng_state()
    HealthyCheckpoint.write(recipe, tmp_path).load()
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_manifest_does_not_lie_beside_it(tmp_path: Path) -> None:
    checkpoint = HealthyCheckpoint.write(CheckpointRecipe(layout="torch"), tmp_path)
    assert checkpoint.manifest.is_file()
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["model.pt"]


@few(6)
@given(data=st.data())
def test_a_faulty_checkpoint_is_a_copy_with_the_fault_that_was_asked_for(data: st.DataObject, tmp_path: Path) -> None:
    drawn = faulty_checkpoints(directory=tmp_path, layouts=["torch"], faults=faults(layouts=["torch"], seen=["file"]))
    faulty = data.draw(drawn)
    assert faulty.fault.seen == "file"
    assert faulty.path.is_relative_to(faulty.healthy.folder)
    assert faulty.path.read_bytes() != faulty.healthy.path.read_bytes() or faulty.healthy.recipe.beside
    assert "FaultyCheckpoint.write(HealthyCheckpoint.write(CheckpointRecipe(" in repr(faulty)


@few(25)
@given(data=st.data())
def test_the_gate_passes_every_healthy_checkpoint(data: st.DataObject, tmp_path: Path) -> None:
    checkpoint = data.draw(healthy_checkpoints(directory=tmp_path))
    assert not [told for means in MEANS for told in failures(checkpoint, means)]
    checkpoint.remove()


@few(8)
@given(data=st.data())
@pytest.mark.parametrize("recipes", [{"companion": True}, {"moved_base": True}, {"merged": True}], ids=str)
def test_and_those_with_companions_moved_bases_and_merges(
    recipes: dict[str, Any], data: st.DataObject, tmp_path: Path
) -> None:
    checkpoint = data.draw(healthy_checkpoints(directory=tmp_path, recipes=checkpoint_recipes(**recipes)))
    assert not [told for means in MEANS for told in failures(checkpoint, means)]
    checkpoint.remove()


@few(4)
@given(data=st.data())
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_the_gate_names_what_a_loader_does_wrong(mistake: Mistake, data: st.DataObject, tmp_path: Path) -> None:
    recipes = checkpoint_recipes(**mistake.recipes).filter(mistake.where)
    checkpoint = data.draw(healthy_checkpoints(directory=tmp_path, recipes=recipes))
    _, results = audit(checkpoint, checkpoint.path, "manifest", mistake.load)
    found = {each.cause for result in results.values() for each in result.findings}
    assert found & mistake.causes, found
    assert any(result.outcome == "failed" for result in results.values())
    checkpoint.remove()


COMPANION_FAULTS = [name for name in FAULTS if name.startswith("companion-")]


@few(3)
@given(data=st.data())
@pytest.mark.parametrize("name", COMPANION_FAULTS)
def test_the_gate_names_a_companion_that_is_damaged(name: str, data: st.DataObject, tmp_path: Path) -> None:
    checkpoint = data.draw(healthy_checkpoints(directory=tmp_path, recipes=checkpoint_recipes(companion=True)))
    faulty = FaultyCheckpoint.write(checkpoint, name)
    assert not missed(faulty, "manifest")
    checkpoint.remove()


@few(40)
@given(data=st.data())
def test_the_gate_fails_every_faulty_checkpoint_whose_fault_it_can_see(data: st.DataObject, tmp_path: Path) -> None:
    # Of a merged adapter that is dropped nothing is left to see where no W is at hand.
    recipes = checkpoint_recipes(merged=False)
    faulty: FaultyCheckpoint = data.draw(faulty_checkpoints(directory=tmp_path, recipes=recipes))
    assert not [told for means in MEANS for told in missed(faulty, means)]
    faulty.healthy.remove()
