from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers.utils import ModelOutput

from pytest_lora_ckpt import assert_generates
from pytest_lora_ckpt.proof import generate
from pytest_lora_ckpt.replicas import PanoramaConfig, SwallowingVLM, make_panorama_vlm, replica_inputs

PROMPT = torch.tensor([[5, 6, 7]])


class Answer(torch.nn.Module):
    """Runs a layer, and answers with what it was given."""

    def __init__(self, answer: Any, *, run: bool = True) -> None:
        super().__init__()
        self.layer, self.answer, self.run = torch.nn.Linear(1, 1), answer, run

    def generate(self, input_ids: torch.Tensor, max_new_tokens: int) -> Any:
        if self.run:
            self.layer(torch.zeros(1))
        return self.answer


@dataclass
class Output(ModelOutput):
    sequences: torch.Tensor | None = None


NEW = torch.tensor([[1, 2]])
WITH_PROMPT = torch.cat([PROMPT, NEW], dim=1)


@pytest.mark.parametrize(
    "answer",
    [
        WITH_PROMPT,
        NEW,
        {"tokens": NEW, "text": "x"},
        {"sequences": WITH_PROMPT, "scores": (torch.zeros(1, 9),)},
        Output(sequences=WITH_PROMPT),
        ("text", NEW),
    ],
    ids=["prompt", "new", "dict", "sequences", "output", "tuple"],
)
def test_what_generate_may_return(answer: Any) -> None:
    found = generate(Answer(answer), {"input_ids": PROMPT})
    assert found.generates
    assert found.new_tokens == 2
    assert found.prompt == 3


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (PROMPT, "no token after the 3 of the prompt"),
        (torch.zeros(1, 0, dtype=torch.long), "no token after"),
        (None, "returned None"),
        ("some text", "a str"),
        ({"text": "fallback"}, "a dict of 1, in which there are no token ids"),
        (torch.zeros(1, 5), "no token ids"),
    ],
    ids=["prompt", "empty", "none", "text", "dict", "floats"],
)
def test_what_is_no_answer(answer: Any, why: str) -> None:
    assert why in generate(Answer(answer), {"input_ids": PROMPT}).why
    with pytest.raises(AssertionError, match=r"-> Call generate by itself"):
        assert_generates(Answer(answer), input_ids=PROMPT)


def test_a_replica_generates() -> None:
    found = generate(make_panorama_vlm(), replica_inputs(), max_new_tokens=4)
    assert (found.new_tokens, found.prompt) == (4, 3)
    assert found.ran > 10


def test_an_exception() -> None:
    found = generate(make_panorama_vlm(), {"input_ids": PROMPT})
    assert not found.generates
    assert "generate raised TypeError" in found.why


def test_an_answer_without_a_forward_pass() -> None:
    found = generate(Answer(WITH_PROMPT, run=False), {"input_ids": PROMPT})
    assert found.is_fallback
    assert "without running any module" in found.why


def test_a_swallowed_exception() -> None:
    """The vision encoder raises for an image of the wrong size; `generate` answers all the same."""
    model = SwallowingVLM(PanoramaConfig())
    inputs = replica_inputs() | {"pixel_values": torch.zeros(1, 3, 30, 30)}
    assert model.generate(**inputs)["text"] == "no answer"
    found = generate(model, inputs)
    assert found.is_fallback
    assert "swallowed" in found.why
    with pytest.raises(AssertionError, match="swallowed"):
        assert_generates(model, **inputs)
    assert_generates(model, **replica_inputs())


def test_an_exception_swallowed_by_a_module_inside() -> None:
    class Lenient(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return self.inner(x)
            except RuntimeError:
                return x

    class Model(Answer):
        def generate(self, input_ids: torch.Tensor, max_new_tokens: int) -> Any:
            self.layer(torch.zeros(7))
            return self.answer

    model = Model(WITH_PROMPT)
    model.layer = Lenient()  # type: ignore[assignment]
    found = generate(model, {"input_ids": PROMPT})
    assert found.swallowed == ("layer.inner",)
    assert found.is_fallback


def test_no_generate_method() -> None:
    assert "Linear has no generate method" in generate(torch.nn.Linear(1, 1), {}).why


def test_hooks_and_state_are_as_before() -> None:
    model = make_panorama_vlm()
    random_state = torch.get_rng_state()
    model.train()
    generate(model, replica_inputs())
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
