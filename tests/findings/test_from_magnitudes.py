from __future__ import annotations

from typing import Any

import pytest

from pytest_lora_ckpt.findings.from_names import lora_pair_findings
from pytest_lora_ckpt.models import as_key_set

NAMES = {"lora_magnitude_vector": "as PEFT saves", "lora_magnitude_vector.default.weight": "as in a state dict"}


def dora(name: str, *, layers: int = 3, leaf: str = "q_proj", root: str = "") -> dict[str, tuple[int, ...]]:
    adapter = ".default" if "default" in name else ""
    return {
        f"{root}layers.{n}.{leaf}.{part}": shape
        for n in range(layers)
        for part, shape in (
            (f"lora_A{adapter}.weight", (2, 8)),
            (f"lora_B{adapter}.weight", (8, 2)),
            (name, (8,)),
        )
    }


def found(keys: dict[str, tuple[int, ...]], config: dict[str, Any] | None = None) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.cause, each.keys) for each in lora_pair_findings(as_key_set(keys), config)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", [None, {"use_dora": True}], ids=str)
def test_one_magnitude_missing(name: str, config: dict[str, Any] | None) -> None:
    keys = dora(name)
    assert found(keys, config) == []
    del keys[f"layers.1.q_proj.{name}"]
    ((cause, told),) = found(keys, config)
    assert cause == "lora-pair-incomplete"
    assert told == tuple(sorted(key for key in keys if "layers.1." in key))


@pytest.mark.parametrize("name", NAMES)
def test_a_magnitude_without_its_factors(name: str) -> None:
    keys = dora(name) | {f"layers.3.q_proj.{name}": (8,)}
    assert found(keys, {"use_dora": True}) == [("lora-pair-incomplete", (f"layers.3.q_proj.{name}",))]


def test_two_adapters_of_which_one_is_dora() -> None:
    """Towers with adapters of their own, both called `default`, in one state dict."""
    name = "lora_magnitude_vector.default.weight"
    plain = {key: shape for key, shape in dora(name, root="vision.", leaf="qkv").items() if "magnitude" not in key}
    assert found({**dora(name), **plain}) == []
    other = {key.replace(".default.", ".other."): shape for key, shape in dora(name).items() if "magnitude" not in key}
    assert found({**dora(name), **other}) == []


def test_another_convention_is_left_alone() -> None:
    keys = {
        key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): shape
        for key, shape in dora("lora_magnitude_vector.default.weight").items()
    }
    assert found(keys) == []


def test_a_config_says_that_every_module_has_one() -> None:
    name = "lora_magnitude_vector"
    keys = {**dora(name), "lm_head.lora_A.weight": (2, 8), "lm_head.lora_B.weight": (8, 2)}
    assert found(keys) == []
    ((cause, told),) = found(keys, {"use_dora": True})
    assert (cause, told) == ("lora-pair-incomplete", ("lm_head.lora_A.weight", "lm_head.lora_B.weight"))
