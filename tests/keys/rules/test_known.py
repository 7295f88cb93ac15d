from __future__ import annotations

import re

import pytest

from pytest_lora_ckpt.keys.rules.known import known_steps


def results(now: str, then: str) -> set[str]:
    return {re.sub(step.pattern, step.replacement, now) for step in known_steps([(now, then)])}


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ("base_model.model.fc.weight", "fc.weight"),
        ("fc.lora_A.weight", "fc.lora_A.x.weight"),
        ("fc.lora_embedding_A", "fc.lora_embedding_A.x"),
        ("fc.lora_magnitude_vector", "fc.lora_magnitude_vector.x.weight"),
        ("fc.lora_B.x.weight", r"fc.lora_B.\1.weight"),
        ("fc.lora_down.weight", "fc.lora_A.weight"),
        ("fc.lora.up.weight", "fc.lora_B.weight"),
        ("fc.lora_b.weight", "fc.lora_B.weight"),
        ("attn.processor.to_q_lora.down.weight", "attn.to_q.lora_A.weight"),
    ],
)
def test_a_known_step_does_it_at_once(now: str, then: str) -> None:
    assert then in results(now, then)


def test_base_layers_of_several_modules_are_one_step() -> None:
    ways = [(f"a.b.{leaf}.weight", f"a.b.{leaf}.base_layer.weight") for leaf in ("q", "v")]
    anywhere, in_tower, *_ = (step for step in known_steps(ways) if "q|v" in step.pattern)
    for step in (anywhere, in_tower):
        assert all(re.sub(step.pattern, step.replacement, now) == then for now, then in ways)
    assert re.sub(in_tower.pattern, in_tower.replacement, "other.b.q.weight") == "other.b.q.weight"
