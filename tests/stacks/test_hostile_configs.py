"""Configs that somebody wrote to do harm: no code runs, nothing is imported, and no size is believed."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import audit
from tests.helpers.families import configured

if TYPE_CHECKING:
    from pathlib import Path


SECONDS = 60
BASE = "base/config.json"
CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.fixture
def run(families: Path, tmp_path: Path) -> Path:
    shutil.copytree(families / "plain", tmp_path / "run")
    configured(tmp_path / "run", base_model_name_or_path=str(tmp_path / "run" / "base"))
    return tmp_path / "run"


def keys_of(result: Any) -> str:
    (summary,) = (each.summary for each in result.checks if each.name == "keys")
    return summary


@pytest.mark.parametrize("loader", [None, "peft", "transformers"])
def test_code_next_to_the_config_does_not_run(run: Path, loader: str | None) -> None:
    names = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "evil.Evil")
    configured(run, BASE, auto_map=names)
    for folder in ("base", "adapter"):
        (run / folder / "evil.py").write_text(CODE)
    assert audit(run / "adapter", loader=loader).named("failed") == ()
    assert not [*run.rglob("ran")]


def test_a_model_that_is_only_code_is_not_built(run: Path) -> None:
    configured(run, BASE, auto_map={"AutoConfig": "evil.Evil"}, model_type="evil", architectures=["Evil"])
    (run / "base" / "evil.py").write_text(CODE)
    assert audit(run / "adapter").verdict == "not-compared"
    assert not audit(run / "adapter", loader="peft").passed
    assert not [*run.rglob("ran")]


def test_no_module_of_a_name_in_the_config_is_imported(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "evil_module.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(run))
    configured(run, megatron_config={"size": 1}, megatron_core="evil_module")
    audit(run / "adapter")
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": "evil_module"}
    configured(run, task_type=None, auto_mapping=mapping, megatron_config=None)
    assert audit(run / "adapter", loader="peft").named("failed") == ()
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 10_000_000},
        {"hidden_size": 1 << 40},
        {"vocab_size": 1 << 40},
        {"num_hidden_layers": -1},
        {"num_attention_heads": 0},
        {"hidden_size": "wide"},
        {"architectures": ["__class__"]},
        {"architectures": 7},
        {"model_type": ["llama"]},
        {"text_config": {"num_hidden_layers": 1 << 30}},
        {"attn_implementation": "evil/kernels", "_attn_implementation": "evil/kernels"},
    ],
    ids=str,
)
def test_no_size_of_a_base_config_is_believed(run: Path, fields: dict[str, Any]) -> None:
    configured(run, BASE, **fields)
    began = time.process_time()
    result = audit(run / "adapter")
    assert time.process_time() - began < SECONDS
    assert "internal-error" not in {each.cause for each in result.findings}
    assert result.verdict == "not-compared" or result.passed, keys_of(result)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "(a+)+$" * 3},
        {"target_modules": "(.*.*.*.*.*)*x"},
        {"target_modules": [f"m{number}" for number in range(200_000)]},
        {"rank_pattern": {"(.*a)+(.*b)+(.*c)+(.*d)+$": 4}},
        {"layer_replication": [[0, 1_000_000]]},
        {"layers_to_transform": [0], "layers_pattern": "(.*)*x"},
        {"r": 1 << 50},
        {"target_modules": {"a": 1}},
        {"loftq_config": {"bits": 4}, "init_lora_weights": "loftq"},
        {"eva_config": {"rho": 2}, "init_lora_weights": "eva"},
        {"trainable_token_indices": [1 << 40]},
        {"modules_to_save": [7]},
    ],
    ids=lambda fields: next(iter(fields)) + str(next(iter(fields.values())))[:20],
)
def test_no_pattern_and_no_number_of_an_adapter_config_is_believed(run: Path, fields: dict[str, Any]) -> None:
    configured(run, **fields)
    began = time.process_time()
    result = audit(run / "adapter")
    assert time.process_time() - began < SECONDS
    assert "internal-error" not in {each.cause for each in result.findings}


def test_what_a_config_says_is_printed_in_one_safe_line(run: Path) -> None:
    configured(run, BASE, model_type="llama\n::error::forged")
    result = audit(run / "adapter")
    assert "\n" not in keys_of(result)
    json.dumps(result.to_dict())
