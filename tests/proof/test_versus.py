"""Two checkpoints against each other, by value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt.checkpoint import open_checkpoint
from pytest_lora_ckpt.proof import versus
from pytest_lora_ckpt.proof.versus import Versus, compare_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint import Checkpoint


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Checkpoint]:
    def save(name: str, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
        torch.save(dict(tensors), tmp_path / name)
        return open_checkpoint(tmp_path / name)

    return save


ONE = torch.tensor([[1.001, -2.0], [3.0, 4.0]])

# What the other has -> the outcome, the cast, the largest difference.
OTHERS: dict[str, tuple[torch.Tensor, tuple[str, str, float | None]]] = {
    "the same": (ONE.clone(), ("equal", "", None)),
    "narrower": (ONE.bfloat16(), ("cast", "float32 to bfloat16", None)),
    "made wider again": (ONE.bfloat16().float(), ("cast", "float32 to bfloat16 to float32", None)),
    "wider": (ONE.double(), ("cast", "float32 to float64", None)),
    "others": (ONE + torch.tensor([[0.0, 0.5], [0.25, 0.0]]), ("differs", "", 0.5)),
    "others, narrower": ((ONE + 1).half(), ("differs", "", 1.001953125 + 1 - 1.001)),
    "not a number": (ONE * torch.nan, ("differs", "", None)),
    "infinite": (ONE / 0, ("differs", "", None)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_one_tensor(saved: Callable[..., Checkpoint], name: str) -> None:
    other, (outcome, how, largest) = OTHERS[name]
    found = compare_values(saved("a.pt", {"a": ONE}), saved("b.pt", {"x.a": other}), {"a": "x.a"}).tensors
    assert [(each.key, each.other_key, each.outcome, each.how) for each in found] == [("a", "x.a", outcome, how)]
    assert found[0].largest == (None if largest is None else pytest.approx(largest, abs=2e-3))


def test_of_many_bytes_the_adapter_alone(saved: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"q.weight": ONE, "q.lora_A.weight": ONE, "q.lora_B.weight": ONE}
    one, two = saved("a.pt", state), saved("b.pt", {**state, "q.weight": ONE + 1, "q.lora_B.weight": ONE + 2})
    same = {key: key for key in state}
    assert compare_values(one, two, same).counts == {"equal": 1, "cast": 0, "differs": 2}
    monkeypatch.setattr(versus, "_SMALL", 40)
    found = compare_values(one, two, same)
    assert (found.counts, found.left) == ({"equal": 1, "cast": 0, "differs": 1}, 1)
    assert found.why.endswith("1 differ by up to 2 (q.lora_B.weight); the values of 1 base weight were not compared.")


def test_nothing_in_common() -> None:
    assert Versus("b.pt", ()).why == "0 tensors compared with b.pt: 0 equal bit for bit."
