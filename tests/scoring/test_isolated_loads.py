from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.scoring import ScoringError, score_loader
from tests.helpers import scored_loaders as loaders

if TYPE_CHECKING:
    from pathlib import Path


def test_a_load_that_hangs_or_ends_the_process_is_reported_and_the_table_goes_on(tiny: Path) -> None:
    names = ["wrapper-prefix", "compile-prefix", "no-tensors"]
    score = score_loader(
        loaders.hanging_or_dying, tiny, faults=names, inputs=loaders.inputs, timeout=3, at_one_path=True
    )
    hung, died, raised = score.rows
    assert hung.trial.load.outcome == "hung"
    assert hung.trial.load.messages == ("did not return within 3 s",)
    assert (hung.noticed, hung.trial.lines) == (False, "hang")
    assert died.trial.load.outcome == "exited"
    assert died.trial.load.messages == ("ended the process with code 3",)
    assert died.noticed
    assert raised.trial.load.outcome == "raised"
    # The file is judged all the same.
    assert all("keys" in row.trial.gate.checks or "readable" in row.trial.gate.checks for row in score.rows)
    assert multiprocessing.active_children() == []


def test_what_cannot_be_sent_to_another_process_is_told_before_it_is_tried(tiny: Path) -> None:
    def local(path: Any) -> Any:
        return loaders.strict(path)

    with pytest.raises(ScoringError, match="name it as 'module:function'"):
        score_loader(local, tiny, timeout=3)


def test_an_unhealthy_start_is_told_from_the_other_process(tiny: Path) -> None:
    with pytest.raises(ScoringError, match=r"does not load the healthy checkpoint .*KeyError: 'SCORED_CHECKPOINT'"):
        score_loader("tests.helpers.scored_loaders:deaf", tiny, timeout=3)
    assert multiprocessing.active_children() == []
