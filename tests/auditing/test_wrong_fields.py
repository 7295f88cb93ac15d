"""A field of an adapter's config may hold anything that JSON can: the audit says so, and does not fail itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.auditing.render.json import JsonRenderer
from tests.helpers.outputs import forged
from tests.helpers.sections import shown

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "layers_to_transform", "layers_pattern", "bias", "init_lora_weights", "peft_type", "modules_to_save",
    "megatron_config", "alora_invocation_tokens", "layer_replication", "target_parameters", "exclude_modules",
    "trainable_token_indices", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "auto_mapping",
)  # fmt: skip

HUGE = "1" + "0" * 5000

# As JSON's text: Python reads more than JSON has.
VALUES = {
    "huge": HUGE,
    "infinite": "1e999",
    "NaN": "NaN",
    "negative": "-1",
    "zero": "0",
    "null": "null",
    "true": "true",
    "text": '"x"',
    "pattern": '"(a+)+$"',
    "list": "[]",
    "object": "{}",
    "nested lists": "[[[[1]]]]",
    "nested objects": '{"a": {"b": [null]}}',
    "list of null": "[null]",
    "list of infinite": "[1e999]",
    "object of infinite": '{"q_proj": 1e999}',
    "object of huge": f'{{"q_proj": {HUGE}}}',
    "object of null": '{"": null}',
    "long": '["' + "a" * 100_000 + '"]',
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", VALUES)
def test_a_field_of_another_type(tmp_path: Path, field: str, kind: str) -> None:
    name = "base_model.model.layers.0.q_proj"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)}
    torch.save(tensors, tmp_path / "adapter_model.bin")
    config = {"peft_type": '"LORA"', "r": "2", "lora_alpha": "4", "target_modules": '["q_proj"]', field: VALUES[kind]}
    written = ", ".join(f'"{each}": {text}' for each, text in config.items())
    (tmp_path / "adapter_config.json").write_text(f"{{{written}}}", "utf-8")
    result = audit(tmp_path, model={"layers.0.q_proj.weight": (4, 4)})
    assert "internal-error" not in {each.cause for each in result.findings}
    json.loads(JsonRenderer().render([result]), parse_constant=pytest.fail)  # No NaN, which JSON has not.
    assert forged("\n".join(shown(result, verbose=True))) == []
