"""A field of another type is a finding that names it, the tensors are judged all the same; what PEFT writes passes."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.findings.from_config import config_findings
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.models import as_key_set

if TYPE_CHECKING:
    from pathlib import Path

HEALTHY: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "bias": "none",
    "target_modules": ["q_proj"],
}
SHAPES = {
    f"base_model.model.layers.{layer}.q_proj.lora_{factor}.weight": shape
    for layer in range(3)
    for factor, shape in (("A", (4, 8)), ("B", (8, 4)))
}
KEYS = as_key_set(SHAPES)
# One of each kind that JSON has, and of what Python's reader takes for JSON.
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "number": 3,
    "fraction": 0.5,
    "negative": -7,
    "digits": 10**400,
    "NaN": math.nan,
    "infinity": math.inf,
    "text": "x",
    "list": [],
    "list of lists": [[]],
    "list of numbers": [7],
    "list of names": ["x"],
    "list of true": [True],
    "list of NaN": [math.nan],
    "pairs": [[0, 2]],
    "object": {},
    "object of texts": {"q": "x"},
    "object of numbers": {"q": 2},
    "object of lists": {"q": [2]},
}
NAMES = {"list", "list of names"}
NUMBERS = {"list", "list of numbers"}
# What PEFT's classes of configs allow (peft/tuners/lora/config.py).
ALLOWED: dict[str, set[str]] = {
    "peft_type": {"text"},
    "task_type": {"text"},
    "r": {"number"},
    "lora_alpha": {"number", "fraction"},
    "use_rslora": {"true"},
    "use_dora": {"true"},
    "bias": set(),
    "target_modules": {"text", *NAMES},
    "exclude_modules": {"text", *NAMES},
    "target_parameters": NAMES,
    "modules_to_save": NAMES,
    "layers_to_transform": {"number", *NUMBERS},
    "layers_pattern": {"text", *NAMES},
    "rank_pattern": {"object", "object of numbers"},
    "alpha_pattern": {"object", "object of numbers"},
    "init_lora_weights": {"true", "text"},
    "layer_replication": {"list", "pairs"},
    "trainable_token_indices": {"number", *NUMBERS, "object", "object of numbers", "object of lists"},
    "ensure_weight_tying": {"true"},
    "alora_invocation_tokens": {"number", *NUMBERS},
    "base_model_name_or_path": {"text"},
    "revision": {"text"},
}
NOT_NULL = {"r", "lora_alpha"}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("field", ALLOWED)
def test_each_field_with_each_kind_of_value(field: str, kind: str) -> None:
    findings = config_findings({**HEALTHY, field: VALUES[kind]}, KEYS)
    broken = [each.message for each in findings if each.cause == "config-field-broken"]
    fits = kind in ALLOWED[field] or (kind == "null" and field not in NOT_NULL)
    assert [each.split()[0] for each in broken] == ([] if fits else [field])
    assert all(len(each) < 300 for each in broken)


def test_all_fields_that_are_read_are_in_the_table() -> None:
    read: set[str] = set()

    class Asked(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            read.add(name)
            return super().get(name, default)

    AdapterConfig.of(Asked())
    assert read == set(ALLOWED)


@pytest.mark.parametrize("field", ["r", "rank_pattern", "bias", "target_modules"])
def test_the_tensors_are_judged_all_the_same(tmp_path: Path, field: str) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({key: torch.ones(shape) for key, shape in SHAPES.items()}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({**HEALTHY, field: [[7]]}))
    result = audit(tmp_path)
    assert result.check("config").outcome == "failed"
    assert [(each.cause, field in each.message) for each in result.findings] == [("config-field-broken", True)]
    assert {result.check(name).outcome for name in ("readable", "lora-complete", "values")} == {"passed"}


def test_a_field_that_stands_there_twice(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({key: torch.ones(shape) for key, shape in SHAPES.items()}, tmp_path / "adapter_model.safetensors")
    text = json.dumps(HEALTHY)
    config = tmp_path / "adapter_config.json"
    config.write_text(text.replace('"r": 4', '"r": 8, "r": 4'))
    [found] = audit(tmp_path).findings
    assert (found.cause, found.severity) == ("config-field-broken", "error")
    assert found.message == "r in adapter_config.json stands there twice."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(ALLOWED)) | st.text(max_size=4), JSON, max_size=6))
@settings(deadline=None)
def test_no_config_raises(content: dict[str, Any]) -> None:
    config_findings({**HEALTHY, **content}, KEYS)


def _configs() -> dict[str, Any]:
    """Every class of configs of the installed PEFT that can be made without arguments that hang together."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    made: dict[str, Any] = {}
    for name, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        fields = {each.name for each in dataclasses.fields(kind)}
        arguments = {"target_modules": ["q_proj"]} if "target_modules" in fields else {}
        try:
            made[str(name)] = kind(**arguments)
        except (ImportError, TypeError, ValueError):
            continue
    return made


@pytest.mark.filterwarnings("ignore")  # Some methods warn about settings that go together.
def test_what_peft_writes_passes(tmp_path: Path) -> None:
    configs = _configs()
    assert len(configs) >= 20
    for name, config in configs.items():
        config.save_pretrained(str(tmp_path))
        content = json.loads((tmp_path / "adapter_config.json").read_text())
        assert not AdapterConfig.of(content).problems, name
        # A later release has fields that are not known here.
        assert not AdapterConfig.of({**content, "use_something": {"new": [1]}, "r_of_it": None}).problems, name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": r".*\.q_proj", "exclude_modules": ["k"]},
        {"rank_pattern": {"^a": 2}, "alpha_pattern": {"b": 3}, "use_rslora": True, "modules_to_save": ["lm_head"]},
        {"layers_to_transform": 1, "layers_pattern": "layers", "bias": "lora_only", "target_modules": ["q"]},
        {"layers_to_transform": [1, 2], "layers_pattern": ["layers"], "lora_alpha": 0.5, "target_modules": ["q"]},
        {"init_lora_weights": "pissa_niter_4", "use_dora": True, "task_type": "CAUSAL_LM"},
        {"layer_replication": [(0, 2), (1, 3)], "trainable_token_indices": [1, 2]},
        {"trainable_token_indices": {"embed_tokens": [1]}, "target_parameters": ["experts.w"]},
        {"alora_invocation_tokens": [1, 2], "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/name"},
    ],
    ids=lambda settings: ",".join(settings) or "default",
)
def test_what_lora_config_writes_passes(tmp_path: Path, settings: dict[str, Any]) -> None:
    from peft import LoraConfig

    LoraConfig(**settings).save_pretrained(str(tmp_path))
    assert not AdapterConfig.of(json.loads((tmp_path / "adapter_config.json").read_text())).problems
