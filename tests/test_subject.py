from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from pytest_lora_ckpt.subject import ProjectError, Subject


def subject(model: Any = None, loader: Any = None, inputs: Any = None) -> Subject:
    made = Subject("best.ckpt")
    made.connect(lambda: model, lambda: loader, lambda: inputs)
    return made


def test_nothing_given() -> None:
    for made in (subject(), Subject("best.ckpt")):
        assert made.model is None
        assert made.loaded is None
        assert made.inputs is None


def test_everything_is_asked_for_once() -> None:
    asked: list[str] = []

    def source(name: str, value: Any) -> Any:
        return lambda: (asked.append(name), value)[1]

    made = Subject("best.ckpt")
    model = torch.nn.Linear(1, 1)
    made.connect(
        source("model", model), source("loader", lambda path: (asked.append(path), model)[1]), source("in", {})
    )
    for _ in range(2):
        assert made.model is model
        assert made.loaded is model
        assert made.inputs == {}
    assert asked == ["model", "loader", "best.ckpt", "in"]


def test_a_loader_that_raises_is_called_once() -> None:
    calls = []

    def loader(path: str) -> None:
        calls.append(path)
        raise RuntimeError("no such layer")

    made = subject(loader=loader)
    for _ in range(3):
        with pytest.raises(ProjectError, match="The loader raised RuntimeError: no such layer") as caught:
            _ = made.loaded
        assert caught.value.cause == "loader-failed"
    assert calls == ["best.ckpt"]


@pytest.mark.parametrize(
    ("returned", "told"),
    [(None, "None"), ((1, 2), "a tuple of 2"), ({"model": 1}, "a dict of 1"), ("model", "a str of 5")],
)
def test_a_loader_that_returns_no_model(returned: Any, told: str) -> None:
    with pytest.raises(ProjectError, match=rf"returned {told.removesuffix(' of 5')}.* and should return the loaded"):
        _ = subject(loader=lambda _: returned).loaded


def test_what_is_no_loader_no_model_and_no_inputs() -> None:
    with pytest.raises(ProjectError, match="lora_loader gave a str, and should give a callable"):
        _ = subject(loader="my.loader").loaded
    with pytest.raises(ProjectError, match=r"lora_model gave a list of 1, and should give an nn\.Module"):
        _ = subject(model=[1]).model
    with pytest.raises(ProjectError, match=r"lora_inputs gave a torch\.Tensor, and should give a dict"):
        _ = subject(inputs=torch.zeros(1)).inputs


def test_a_fixture_that_raises() -> None:
    def broken() -> None:
        raise KeyError("x")

    made = Subject("best.ckpt")
    made.connect(broken, broken, broken)
    for name, cause in (("model", "model-failed"), ("loaded", "loader-failed"), ("inputs", "inputs-failed")):
        with pytest.raises(ProjectError, match="raised KeyError: 'x'") as caught:
            getattr(made, name)
        assert caught.value.cause == cause


def test_a_fixture_that_skips_skips() -> None:
    def skipping() -> None:
        pytest.skip("no GPU")

    made = Subject("best.ckpt")
    made.connect(skipping, skipping, skipping)
    with pytest.raises(pytest.skip.Exception):
        _ = made.model


def test_global_state_is_as_before() -> None:
    def loader(_: str) -> torch.nn.Module:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002  # The global state is what this is about.
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return torch.nn.Linear(1, 1)

    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert subject(loader=loader).loaded is not None
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
