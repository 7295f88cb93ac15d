from __future__ import annotations

import pytest

from pytest_lora_ckpt.findings.from_names import empty_findings
from pytest_lora_ckpt.models import as_key_set


def told(keys: dict[str, tuple[int, ...]]) -> list[tuple[str, ...]]:
    found = list(empty_findings(as_key_set(keys)))
    assert {each.cause for each in found} <= {"zero3-empty"}
    return [each.keys for each in found]


@pytest.mark.parametrize(
    "keys",
    [
        {"fc.weight": (4, 4), "fc.bias": (4,)},
        {"fc.weight": (0, 4), "fc.bias": (0,)},
        {"fc.weight": (4, 0), "fc.bias": (4,)},
        {"embed.weight": (0, 4)},
        {"rotary.cached": (0,), "seen": (0,), "bias": (0,), "scale": ()},
    ],
    ids=str,
)
def test_what_may_be_empty(keys: dict[str, tuple[int, ...]]) -> None:
    assert told(keys) == []


def test_base_weights_that_zero3_left() -> None:
    keys = {"fc.weight": (0,), "fc.bias": (0,), "ln.weight": (0,), "ln.bias": (4,), "cache": (0,)}
    assert told(keys) == [("fc.bias", "fc.weight", "ln.weight")]
    assert told({"q.base_layer.weight": (0,), "q.lora_A.default.weight": (2, 4)}) == [("q.base_layer.weight",)]


def test_adapter_and_base_are_told_apart() -> None:
    keys = {
        "q.weight": (0,),
        "q.lora_A.weight": (0,),
        "q.lora_B.weight": (4, 0),
        "score.modules_to_save.default.weight": (0, 4),
    }
    adapter = ("q.lora_A.weight", "q.lora_B.weight", "score.modules_to_save.default.weight")
    assert told(keys) == [adapter, ("q.weight",)]
