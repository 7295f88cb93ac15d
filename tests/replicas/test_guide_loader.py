"""The guide's own way of loading, run twice: the logs are equal, the models are not."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt.faults import FAULTS
from pytest_lora_ckpt.replicas import LORA_WEIGHTS, make_panorama_vlm, save_adapter
from tests.helpers.guide_loader import (
    GuideLog,
    SwallowingVLM,
    load_and_log_like_the_guide,
    load_like_the_guide,
    load_swallowing,
)

if TYPE_CHECKING:
    from tests.replicas.conftest import Trained


@pytest.fixture
def beside(tmp_path: Path, trained: Trained) -> Path:
    """The checkpoint with `lora_weights/` beside it."""
    save_adapter(trained.model, tmp_path / LORA_WEIGHTS)
    return Path(shutil.copy(trained.path, tmp_path))


def test_with_lora_weights_it_generates_as_trained(trained: Trained, beside: Path, inputs: dict[str, Any]) -> None:
    model = load_like_the_guide(beside)
    assert torch.equal(model.generate(**inputs), trained.model.generate(**inputs))
    assert torch.equal(model(**inputs).logits, trained.model(**inputs).logits)


def test_without_lora_weights_it_generates_as_the_base(trained: Trained, inputs: dict[str, Any]) -> None:
    model = load_like_the_guide(trained.path)
    tokens = model.generate(**inputs)
    assert not torch.equal(tokens, trained.model.generate(**inputs))
    with trained.model.language_model.disable_adapter():
        assert torch.equal(tokens, trained.model.generate(**inputs))


def test_both_print_the_same_log(trained: Trained, beside: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tests.helpers.guide_loader"):
        load_like_the_guide(trained.path)
        load_like_the_guide(beside)
    without, with_adapter = caplog.messages
    assert without == with_adapter
    _, log = load_and_log_like_the_guide(trained.path)
    total = len(trained.model.state_dict())
    language_model = len(make_panorama_vlm(lora=False).language_model.state_dict())
    lora = language_model + 2 * 7 * 2
    assert log == GuideLog(total - language_model, total, language_model, 0, lora, 0)


def test_it_prints_nothing(trained: Trained, beside: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_like_the_guide(trained.path)
    load_like_the_guide(beside)
    assert capfd.readouterr() == ("", "")


def test_it_overlooks_a_lost_component(tmp_path: Path, trained: Trained) -> None:
    path = FAULTS["component-missing"].inject(trained.path, tmp_path)
    _, log = load_and_log_like_the_guide(path)
    assert log.missing_other > 0


def test_a_generate_that_swallows(inputs: dict[str, Any]) -> None:
    model = make_panorama_vlm()
    swallowing = SwallowingVLM(model.config, model.lora)
    swallowing.load_state_dict(model.state_dict())
    answer = swallowing.generate(**inputs)
    assert torch.equal(answer["tokens"], model.generate(**inputs)[:, 3:])
    assert answer["text"]
    swallowing.projector.linear = None
    fallback = swallowing.generate(**inputs)
    assert fallback["tokens"].shape == (1, 10)
    assert fallback["text"] == "no answer"


def test_from_checkpoint_of_the_swallowing_class(trained: Trained) -> None:
    assert isinstance(SwallowingVLM.from_checkpoint(trained.path), SwallowingVLM)


def test_a_loader_that_swallows(tmp_path: Path, trained: Trained, inputs: dict[str, Any]) -> None:
    right = load_swallowing(trained.path)
    assert torch.equal(right.generate(**inputs), trained.model.generate(**inputs))
    path = FAULTS["no-lora"].inject(trained.path, tmp_path)
    wrong = load_swallowing(path)
    assert not torch.equal(wrong.generate(**inputs), trained.model.generate(**inputs))
