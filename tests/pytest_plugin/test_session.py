from __future__ import annotations

import itertools
from typing import Any

import pytest

from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.options import Settings
from pytest_lora_ckpt.pytest_plugin.session import LoraAudit

ABOUT = {"path": "a", "layout": "torch"}
VALUES: dict[str, Any] = {"checkpoint": ABOUT, "verdict": "not-compared", "all_zero": True, "as_is": None}
KEYS: dict[str, Any] = {"checkpoint": ABOUT, "verdict": "loads", "all_zero": None, "as_is": {"loaded": 1}}
OTHER: dict[str, Any] = {"checkpoint": ABOUT, "verdict": "not-compared", "all_zero": None, "as_is": None}


@pytest.mark.parametrize("order", list(itertools.permutations([("values", VALUES), ("keys", KEYS), ("stage", OTHER)])))
def test_what_workers_find_out_apart_is_put_together(order: Any, pytestconfig: pytest.Config) -> None:
    """An adapter of zeros is a noop, whichever worker looked at the values and whichever at the keys."""
    audit = LoraAudit(
        pytestconfig, Settings(checkpoints=("a",), model=None, loader=None, demands=Demands(), reports=())
    )
    for name, known in order:
        check = {"name": name, "outcome": "passed", "summary": ""}
        audit.add({"spec": "a", "check": check, "findings": [], "known": dict(known)})
    (run,) = audit.results()
    assert run["verdict"] == "noop"
    assert run["as_is"] == {"loaded": 1}
    assert [check["name"] for check in run["checks"]] == ["values", "keys", "stage"]
    assert "all_zero" not in run
