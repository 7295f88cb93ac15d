"""The reports of several ranks as one."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_lora_ckpt.auditing.ranks import merge_ranks
from pytest_lora_ckpt.auditing.result import CheckReport, Facts, ProofFacts, TensorFacts
from pytest_lora_ckpt.findings import finding

# Outcome and summary of each rank -> of all.
OUTCOMES: list[tuple[list[tuple[str, str]], tuple[str, str]]] = [
    ([("passed", "4 equal.")] * 3, ("passed", "4 equal.")),
    ([("passed", "4 equal."), ("passed", "3 equal, 1 cast.")], ("passed", "rank 0: 4 equal. rank 1: 3 equal, 1 cast.")),
    ([("passed", "a"), ("failed", "b"), ("failed", "b")], ("failed", "ranks 1-2: b")),
    ([("failed", "a"), ("failed", "b"), ("failed", "a")], ("failed", "ranks 0, 2: a; rank 1: b")),
    ([("passed", "a"), ("skipped", "quantised")], ("skipped", "rank 1: quantised")),
    ([("skipped", "no loader")] * 2, ("skipped", "no loader")),
    ([("skipped", "a"), ("failed", "b")], ("failed", "rank 1: b")),
]


@pytest.mark.parametrize(("given", "expected"), OUTCOMES)
def test_the_worst_outcome_counts(given: Any, expected: tuple[str, str]) -> None:
    merged = merge_ranks({rank: CheckReport("loaded", *each) for rank, each in enumerate(given)})
    assert (merged.outcome, merged.summary) == expected


def test_findings_say_which_rank_has_them() -> None:
    everywhere, here = finding("nan-or-inf", "NaN.", ["a"]), finding("values-differ", "1 tensor differs.", ["b"])
    reports = {0: (everywhere,), 1: (everywhere, here), 2: (everywhere, here)}
    merged = merge_ranks({rank: CheckReport("loaded", "failed", "", each) for rank, each in reports.items()})
    assert [(each.message, each.keys) for each in merged.findings] == [
        ("NaN.", ("a",)),
        ("Ranks 1-2: 1 tensor differs.", ("b",)),
    ]


def test_proofs_are_counted_rank_by_rank() -> None:
    row = TensorFacts("a", "a", "state dict", "differs", "0 everywhere")
    proofs = [
        ProofFacts(proved=not wrong, counts={"equal": 4 - wrong}, sources={}, tensors=(row,) * wrong)
        for wrong in (0, 1)
    ]
    reports = {rank: CheckReport("loaded", "passed", "", facts=Facts(proof=proof)) for rank, proof in enumerate(proofs)}
    proof = merge_ranks(reports).facts.proof
    assert proof is not None
    assert not proof.proved
    assert proof.counts == {"equal": 3}
    assert proof.ranks == {"0": {"equal": 4}, "1": {"equal": 3}}
    assert [each.how for each in proof.tensors] == ["rank 1: 0 everywhere"]


def test_silent_ranks_fail() -> None:
    merged = merge_ranks({0: CheckReport("loaded", "passed", "4 equal.")}, {1: "it has ended"})
    assert (merged.outcome, merged.findings[0].cause) == ("failed", "rank-silent")
    assert "Rank 1 gave no result: it has ended." in merged.summary
