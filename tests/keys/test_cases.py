"""The failures that people reported in public (tests/cases), each with its true mapping."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pytest_lora_ckpt.keys import infer_remapping

CASES = Path(__file__).parent.parent / "cases"


def _read_by_the_cases_own_reader() -> Any:
    spec = importlib.util.spec_from_file_location("expand", CASES / "expand.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


expand = _read_by_the_cases_own_reader()


@pytest.fixture(params=[Path(path).stem for path in expand.find_cases([str(CASES)])])
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return expand.load_case(str(CASES / f"{request.param}.json"))


def test_all_cases_are_there() -> None:
    assert len(expand.find_cases([str(CASES)])) == 44


def test_mapping_is_the_truth(case: dict[str, Any]) -> None:
    found = infer_remapping(
        case["checkpoint_keys"],
        case["model_keys"],
        adapter_name=case["adapter"],
        adapter_config=case["adapter_config"],
        aliases=case["tied"],
    )
    assert found.mapping == case["loaded"]
    assert found.shape_mismatches == case["shape_mismatch"]
    assert not found.ambiguities
    for key, goal in {**found.mapping, **found.shape_mismatches}.items():
        assert found.apply(key) == goal
    for key in case["unexpected"]:
        assert found.apply(key) not in case["model_keys"]
    assert all(rule.keys for rule in found.rules)


def test_adapter_file_that_fits_is_peft_alone(case: dict[str, Any]) -> None:
    """Where PEFT's own loader places everything, nothing is left for the user to do."""
    alone = case["truth"].get("loaded_by_adapter_name_insertion")
    found = infer_remapping(case["checkpoint_keys"], case["model_keys"], adapter_name=case["adapter"])
    if alone and alone == len(case["loaded"]):
        assert {rule.by for rule in found.rules} <= {"peft"}
    elif found.rules and alone == 0 and not case["shape_mismatch"]:
        assert "you" in {rule.by for rule in found.rules}
