from __future__ import annotations

import os
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt.auditing.project import Project, ProjectError, TestOutcomes

OUTCOMES = TestOutcomes((pytest.skip.Exception,), (pytest.fail.Exception,), (pytest.exit.Exception,))


def project(model: Any = None, loader: Any = None, inputs: Any = None) -> Project:
    made = Project("best.ckpt", OUTCOMES)
    made.connect(model=lambda: model, loader=lambda: loader, inputs=lambda: inputs)
    return made


def test_nothing_given() -> None:
    for made in (project(), Project("best.ckpt", OUTCOMES)):
        assert made.model is None
        assert made.loaded is None
        assert made.inputs is None


def test_everything_is_asked_for_once() -> None:
    asked: list[str] = []

    def source(name: str, value: Any) -> Any:
        return lambda: (asked.append(name), value)[1]

    made = Project("best.ckpt", OUTCOMES)
    model = torch.nn.Linear(1, 1)
    made.connect(
        model=source("model", model),
        loader=source("loader", lambda path: (asked.append(path), model)[1]),
        inputs=source("in", {}),
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

    made = project(loader=loader)
    for _ in range(3):
        with pytest.raises(ProjectError, match="The loader raised RuntimeError: no such layer") as caught:
            _ = made.loaded
        assert caught.value.cause == "loader-failed"
    assert calls == ["best.ckpt"]


def test_an_exception_that_cannot_be_written() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    def loader(_: str) -> None:
        raise MuteError

    with pytest.raises(ProjectError, match=r"The loader raised MuteError: \(its text cannot be had: ValueError\)"):
        _ = project(loader=loader).loaded


@pytest.mark.parametrize(
    ("returned", "told"),
    [(None, "None"), ((1, 2), "a tuple of 2"), ({"model": 1}, "a dict of 1"), ("model", "a str of 5")],
)
def test_a_loader_that_returns_no_model(returned: Any, told: str) -> None:
    with pytest.raises(ProjectError, match=rf"returned {told.removesuffix(' of 5')}.* and should return the loaded"):
        _ = project(loader=lambda _: returned).loaded


def test_what_is_no_loader_no_model_and_no_inputs() -> None:
    with pytest.raises(ProjectError, match="lora_loader gave a str, and should give a callable"):
        _ = project(loader="my.loader").loaded
    with pytest.raises(ProjectError, match=r"lora_model gave a list of 1, and should give an nn\.Module"):
        _ = project(model=[1]).model
    with pytest.raises(ProjectError, match=r"lora_inputs gave a torch\.Tensor, and should give a dict"):
        _ = project(inputs=torch.zeros(1)).inputs


def test_a_fixture_that_raises() -> None:
    def broken() -> None:
        raise KeyError("x")

    made = Project("best.ckpt", OUTCOMES)
    made.connect(model=broken, loader=broken, inputs=broken)
    for name, cause in (("model", "model-failed"), ("loaded", "loader-failed"), ("inputs", "inputs-failed")):
        with pytest.raises(ProjectError, match="raised KeyError: 'x'") as caught:
            getattr(made, name)
        assert caught.value.cause == cause


def test_a_fixture_that_skips_skips() -> None:
    def skipping() -> None:
        pytest.skip("no GPU")

    made = Project("best.ckpt", OUTCOMES)
    made.connect(model=skipping)
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
    assert project(loader=loader).loaded is not None
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_a_lightning_module_is_a_model() -> None:
    import lightning.pytorch as pl

    class Lit(pl.LightningModule):
        pass

    assert isinstance(project(loader=lambda _: Lit()).loaded, Lit)


def test_nothing_returned() -> None:
    with pytest.raises(ProjectError, match=r"returned None, and .* A loader must return the model: is `return model`"):
        _ = project(loader=lambda _: None).loaded


class Trainer:
    """Holds what it is given under names of its own, as pipelines and trainers do."""

    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held, path="x")


def real_pipeline() -> Any:
    import transformers

    config = transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=8)
    tokenizer = transformers.GPT2Tokenizer(vocab={"a": 0, "<|endoftext|>": 1}, merges=[])
    model = transformers.GPT2LMHeadModel(config)
    return transformers.TextGenerationPipeline(model=model, tokenizer=tokenizer)


LAYER = torch.nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: (LAYER, "tokenizer"),
            "one nn.Module, a torch.nn.modules.linear.Linear: give `lambda path: load(path)[0]`",
        ),
        (lambda: ["tokenizer", LAYER], "`lambda path: load(path)[1]` as the loader."),
        (lambda: (LAYER, LAYER), "`lambda path: load(path)[0]`"),
        (lambda: {"model": LAYER, "epoch": 3}, "`lambda path: load(path)['model']`"),
        (lambda: Trainer(model=LAYER), "`lambda path: load(path).model`"),
        (
            real_pipeline,
            "TextGenerationPipeline, and should return the loaded nn.Module. It holds one nn.Module, a trans",
        ),
        (real_pipeline, "`lambda path: load(path).model`"),
        (
            lambda: Trainer(unet=LAYER, text_encoder=torch.nn.Linear(1, 1)),
            "It holds 2 of them (.unet, .text_encoder): return the one that the checkpoint is for.",
        ),
        (
            LAYER.state_dict,
            "a collections.OrderedDict of 2, and should return the loaded nn.Module. It is a state dict: load",
        ),
        (lambda: torch.nn.Linear, "It is a class: build the model"),
        (lambda: lambda x: x, "a function, and should return the loaded nn.Module."),
    ],
    ids=[
        "tuple",
        "list",
        "twice",
        "dict",
        "trainer",
        "pipeline",
        "its-model",
        "several",
        "state-dict",
        "class",
        "function",
    ],
)
def test_how_to_write_the_loader(make: Any, told: str) -> None:
    with pytest.raises(ProjectError) as caught:
        _ = project(loader=lambda _: make()).loaded
    assert told in str(caught.value)
    assert caught.value.cause == "loader-failed"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("code", "told"), [(1, "1"), ("no GPU", "'no GPU'"), (None, "")])
def test_a_loader_that_ends_the_process(code: Any, told: str) -> None:
    with pytest.raises(ProjectError, match=re.escape(f"The loader called sys.exit({told}).")) as caught:
        _ = project(loader=lambda _: sys.exit(code)).loaded
    assert caught.value.cause == "loader-failed"


def test_a_fixture_that_ends_the_process() -> None:
    made = Project("best.ckpt", OUTCOMES)
    made.connect(model=lambda: sys.exit(2))
    with pytest.raises(ProjectError, match=r"The fixture lora_model called sys\.exit\(2\)"):
        _ = made.model


@pytest.mark.parametrize("stop", [KeyboardInterrupt, pytest.exit.Exception])
def test_an_interrupt_passes_through(stop: Any) -> None:
    def interrupted(*_: Any) -> None:
        raise stop("now")

    made = Project("best.ckpt", OUTCOMES)
    made.connect(model=interrupted, loader=lambda: interrupted)
    for name in ("model", "loaded"):
        with pytest.raises(stop):
            getattr(made, name)


@pytest.mark.parametrize("verdict", [pytest.skip, pytest.fail, pytest.xfail])
def test_what_pytest_is_told_by_a_loader_or_a_fixture(verdict: Any) -> None:
    asked: list[str] = []

    def tell(name: str = "fixture") -> Any:
        asked.append(name)
        verdict("no GPU")

    made = Project("best.ckpt", OUTCOMES)
    made.connect(model=tell, loader=lambda: tell, inputs=tell)
    for _ in range(2):
        for name in ("model", "loaded", "inputs"):
            with pytest.raises(verdict.Exception, match="no GPU") as caught:
                getattr(made, name)
            assert caught.type is verdict.Exception
    assert asked == ["fixture", "best.ckpt", "fixture"]


def test_a_skip_in_a_project_is_a_skip_with_its_reason(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def lora_loader():
            def load(path):
                pytest.skip("no GPU here")
            return load
        """
    )
    path = pytester.path / "adapter_model.safetensors"
    save_file({f"q.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}, path)
    result = pytester.runpytest("-p", "no:cacheprovider", f"--lora-ckpt={path}", "-rs")
    result.stdout.fnmatch_lines(["*SKIPPED*no GPU here*"])
    assert result.ret == pytest.ExitCode.OK


def test_defaults_modes_and_directory_are_as_before(tmp_path: Path) -> None:
    def state() -> tuple[Any, ...]:
        modes = (torch.get_deterministic_debug_mode(), torch.get_num_threads(), torch.is_grad_enabled())
        return (torch.get_default_device(), torch.empty(1).device, *modes, Path.cwd())

    def loader(_: str) -> torch.nn.Module:
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        torch.set_deterministic_debug_mode("warn")
        torch.set_num_threads(torch.get_num_threads() + 1)
        os.chdir(tmp_path)
        raise RuntimeError("after all that")

    before = state()
    with pytest.raises(ProjectError, match="after all that"):
        _ = project(loader=loader).loaded
    assert state() == before


def test_a_default_device_of_the_project_is_kept() -> None:
    try:
        torch.set_default_device("meta")
        assert project(loader=lambda _: (torch.set_default_device("cpu"), torch.nn.Linear(1, 1))[1]).loaded is not None
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)
