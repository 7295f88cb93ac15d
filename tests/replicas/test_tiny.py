"""A tiny model with LoRA of each architecture family."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

from pytest_lora_ckpt import audit, default_inputs, tiny_base, tiny_lora
from pytest_lora_ckpt.replicas import FAMILIES, FamilyNotAvailable, tiny

ROOT = Path(__file__).parents[2]
MOST = 1_000_000
NOT_FOR_ADAPTERS = {"stage", "manifest"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_adapter_of_each_family_is_healthy(name: str, tmp_path: Path) -> None:
    """PEFT saves it, PEFT loads it, and the audit says so: every tensor, the base, the output, what is generated."""
    model = tiny_lora(name)
    assert sum(each.numel() for each in model.parameters()) < MOST
    assert not model.training
    model.save_pretrained(tmp_path)
    result = audit(
        tmp_path,
        loader=lambda path: PeftModel.from_pretrained(tiny_base(name), path),
        base_model=lambda: tiny_base(name),
    )
    assert result.named("failed") == ()
    assert result.verdict == "loads-after-remap"  # PEFT puts the adapter's name in.
    without = set() if model.can_generate() else {"generate"}
    assert {*result.named("skipped")} == NOT_FOR_ADAPTERS | without
    assert [each.cause for each in result.findings if each.severity != "note"] == []


# One of each kind, without code: the base model lies in a directory, and its config alone is enough to compare names.
KINDS = ("qwen3", "gpt2", "mixtral", "bert", "t5", "whisper", "siglip", "vit", "llava", "qwen2_5_vl")


@pytest.mark.parametrize("name", KINDS)
def test_without_code(name: str, tmp_path: Path) -> None:
    tiny_lora(name).save_pretrained(tmp_path / "adapter")
    tiny_base(name).save_pretrained(tmp_path / "base")
    result = audit(tmp_path / "adapter", base=tmp_path / "base")
    assert (result.verdict, result.named("failed")) == ("loads-after-remap", ())
    result = audit(tmp_path / "adapter", loader="peft", base=tmp_path / "base", checks=["loaded", "adapter-active"])
    assert result.named("passed") == ("loaded", "adapter-active")


def numbers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_equal_arguments_give_equal_weights_and_nothing_global_changes(name: str) -> None:
    torch.manual_seed(5)
    before, python = torch.get_rng_state(), random.getstate()
    one = numbers(tiny_lora(name))
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python
    torch.manual_seed(6)
    two, other = numbers(tiny_lora(name)), numbers(tiny_lora(name, seed=1))
    assert one.keys() == two.keys() == other.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one if "lora_" in key)


def test_the_base_does_not_depend_on_the_adapter() -> None:
    base = numbers(tiny_base("qwen3"))
    for kwargs in ({}, {"rank": 2, "targets": ["q_proj"]}, {"use_dora": True}):
        adapted = tiny_lora("qwen3", **kwargs)
        found = {key.replace("base_layer.", ""): value for key, value in adapted.get_base_model().state_dict().items()}
        assert all(torch.equal(value, found[key]) for key, value in base.items())


def test_it_takes_what_peft_and_the_config_take() -> None:
    model = tiny_lora(
        "qwen3", rank=2, alpha=6, targets="all-linear", use_rslora=True, num_hidden_layers=3, adapter_name="mine"
    )
    config = model.peft_config["mine"]
    assert (config.r, config.lora_alpha, config.use_rslora) == (2, 6, True)
    assert model.config.num_hidden_layers == 3
    layers = {name.split(".")[4] for name, _ in model.named_parameters() if "lora_A.mine" in name}
    assert layers == {"0", "1", "2"}
    assert all(parameter.any() for name, parameter in model.named_parameters() if "lora_B" in name)


def test_a_dict_changes_single_fields_of_an_inner_config() -> None:
    text = tiny_base("llava", text_config={"num_hidden_layers": 1}).config.text_config
    assert (text.num_hidden_layers, text.hidden_size, text.model_type) == (1, 32, "llama")


@pytest.mark.parametrize("name", ["deberta_v2", "deberta-v2", "DeBERTa-v2"])
def test_names_are_read_kindly(name: str) -> None:
    assert type(tiny_base(name)).__name__ == "DebertaV2Model"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"family": "qwen4"}, r"no family 'qwen4'\. Did you mean qwen.*The families are llama, .*qwen3_vl"),
        ({"rank": 0}, "rank=0 must be an integer, 1 or more"),
        ({"rank": True}, "rank=True must be"),
        ({"alpha": -1}, "alpha=-1 must be a number above 0"),
        ({"seed": -1}, "seed=-1 must be an integer, 0 or more"),
        ({"hiden_size": 8}, "'hiden_size' is no field of Qwen3Config.*did you mean hidden_size"),
        ({"use_dorra": True}, "'use_dorra' is no field.*did you mean use_dora"),
        ({"lora_alpha": 16}, "lora_alpha: say alpha"),
        ({"r": 16, "target_modules": ["q_proj"]}, "r, target_modules: say rank, targets"),
    ],
    ids=str,
)
def test_wrong_arguments(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_lora(given.pop("family", "qwen3"), **given)


def test_a_family_that_the_installed_transformers_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    row = FAMILIES["qwen3"]
    future = {"qwen9": type(row)("qwen9", "Qwen9ForCausalLM", row.config)}
    monkeypatch.setattr(tiny, "FAMILIES", future)
    with pytest.raises(FamilyNotAvailable, match=rf"transformers {transformers.__version__} does not have qwen9"):
        tiny_lora("qwen9")


def test_a_family_for_which_a_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(config: object) -> None:
        raise ImportError("TimmWrapperModel requires the timm library\nIt was not found.")

    monkeypatch.setattr("transformers.Qwen3ForCausalLM", lacking)
    with pytest.raises(FamilyNotAvailable, match="cannot build qwen3 here: TimmWrapperModel requires the timm library"):
        tiny_base("qwen3", num_hidden_layers=1)


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5_vl"])
def test_it_is_built_within_half_a_second(name: str) -> None:
    tiny_lora(name)  # Imports the family.
    started = time.process_time()
    tiny_lora(name)
    assert time.process_time() - started < 0.5


def test_the_names_cost_no_heavy_import() -> None:
    code = (
        "import sys, pytest_lora_ckpt.replicas as r; assert 'qwen3' in r.FAMILIES\n"
        "sys.exit(bool({'torch', 'peft', 'transformers', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_inputs_by_the_config_of_any_family() -> None:
    model = tiny_lora("qwen2_5_vl")
    inputs = default_inputs(model)
    assert inputs is not None
    assert {"pixel_values", "image_grid_thw", "input_ids"} <= inputs.keys()
    assert model.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2


def test_the_page_lists_every_family() -> None:
    page = (ROOT / "docs" / "suites.md").read_text("utf-8")
    listed = [name for line in page.splitlines() if line.startswith("| ") for name in line.split("`")[1::2]]
    assert [name for name in listed if name in FAMILIES] == [*FAMILIES]
