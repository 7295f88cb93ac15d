"""The fixtures that people request, and those that they override in their own `conftest.py`."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.options import OVERRIDABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from peft import PeftModel

    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.proof import Proof
    from pytest_lora_ckpt.pytest_plugin.sources import Sources
    from pytest_lora_ckpt.replicas import PanoramaVLM
    from pytest_lora_ckpt.results import LoadReport
    from pytest_lora_ckpt.scoring import InjectedFault
    from pytest_lora_ckpt.scoring.harness import LoaderHarness

NEEDS_OPTION = "needs --lora-ckpt=PATH (try --lora-ckpt=replica:finetune)"
NEEDS_LOADER = "needs a loader: --lora-loader=module:function, or override the fixture lora_loader"


def _sources(request: pytest.FixtureRequest) -> Sources | None:
    from pytest_lora_ckpt.pytest_plugin.sources import sources_of  # Not before a fixture is used.

    return sources_of(request.config)


@contextlib.contextmanager
def failing(path: object, *passing: type[Exception]) -> Iterator[None]:
    """Let the test fail with the message alone where the checkpoint, the project's code or this package does."""
    from pytest_lora_ckpt.auditing.guard import InternalError, guard
    from pytest_lora_ckpt.auditing.project import ProjectError
    from pytest_lora_ckpt.checkpoint import CheckpointError
    from pytest_lora_ckpt.wording import block

    outcomes = (pytest.skip.Exception, pytest.fail.Exception, pytest.exit.Exception)
    try:
        with guard("a test", path, (CheckpointError, ProjectError, *outcomes, *passing)):
            yield
    except (CheckpointError, ProjectError) as error:
        pytest.fail(block(str(error)), pytrace=False)
    except InternalError as error:
        pytest.fail(error.text, pytrace=False)


@pytest.fixture(scope="session")
def lora_ckpt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path | str:
    """The path given with `--lora-ckpt`, or with `@pytest.mark.lora_ckpt("path")`, which goes before for its test.

    A test runs once for each. Skips without both.
    """
    sources, spec = _sources(request), getattr(request, "param", None)
    if sources is None or not (spec or sources.asked):
        pytest.skip(NEEDS_OPTION)
    return sources.locate(spec or sources.asked[0], tmp_path_factory.mktemp)


@pytest.fixture(scope="session")
def _lora_run(
    lora_ckpt: Path | str, lora_companions: Sequence[Path | str], request: pytest.FixtureRequest
) -> Iterator[AuditContext]:
    """The checkpoint under test, with all that is known of it so far; let go when the next one comes."""
    sources = _sources(request)
    if sources is None:
        pytest.skip(NEEDS_OPTION)
    context = sources.context(lora_ckpt, lora_companions)
    yield context
    context.let_go()


@pytest.fixture
def _connected_lora_run(_lora_run: AuditContext, request: pytest.FixtureRequest) -> AuditContext:
    """The same, connected to its model, loader and inputs: the fixtures as this test sees them."""
    _lora_run.project.connect(
        **{name.removeprefix("lora_"): functools.partial(request.getfixturevalue, name) for name in OVERRIDABLE}
    )
    return _lora_run


@pytest.fixture(scope="session")
def lora_checkpoint(_lora_run: AuditContext) -> Checkpoint:
    """The opened `Checkpoint`; the test fails where it cannot be read, and says why."""
    with failing(_lora_run.path):
        return _lora_run.checkpoint


@pytest.fixture(scope="session")
def lora_model(request: pytest.FixtureRequest) -> torch.nn.Module | None:
    """The model to receive the weights: what `--lora-model` names, or None. Override it in your `conftest.py`."""
    sources = _sources(request)
    return sources.model() if sources else None


@pytest.fixture(scope="session")
def lora_loader(lora_ckpt: Path | str, request: pytest.FixtureRequest) -> Callable[[Path], Any] | None:
    """Your own loading code, `path -> loaded model`: what `--lora-loader` names, or None. Override it.

    A replica brings its own right loader where neither a model nor a loader is given.
    """
    sources = _sources(request)
    return sources.loader(lora_ckpt) if sources else None


@pytest.fixture(scope="session")
def lora_inputs(lora_ckpt: Path | str, request: pytest.FixtureRequest) -> Mapping[str, Any] | None:
    """Keyword arguments for a forward pass and for `generate`. None except for replicas: override it."""
    sources = _sources(request)
    return sources.at[lora_ckpt].inputs() if sources else None


@pytest.fixture(scope="session")
def lora_generate_inputs() -> Mapping[str, Any] | None:
    """Keyword arguments for `generate`, where it takes others than a forward pass. None: those of `lora_inputs`."""
    return None


@pytest.fixture(scope="session")
def lora_base_model(lora_ckpt: Path | str, request: pytest.FixtureRequest) -> torch.nn.Module | Path | str | None:
    """The base model before any adapter, or the path of its weights. None except for replicas: override it.

    The check `base-untouched` compares the loaded model's base weights with it, and a merged adapter is proved with it.
    """
    sources = _sources(request)
    return sources.at[lora_ckpt].base_model() if sources else None


@pytest.fixture(scope="session")
def lora_companions(request: pytest.FixtureRequest) -> Sequence[Path | str]:
    """Paths of trained weights that lie elsewhere than in the adapter's directory: what `--lora-companion` names.

    Override it, with the scope of the session.
    """
    sources = _sources(request)
    return sources.companions if sources else ()


@pytest.fixture
def lora_proof(_connected_lora_run: AuditContext) -> Proof:
    """The `Proof`: what the model that `lora_loader` returns holds of the checkpoint; skips without a loader."""
    with failing(_connected_lora_run.path):
        if (loaded := _connected_lora_run.loaded) is not None:
            return loaded.proof
    pytest.skip(NEEDS_LOADER)


@pytest.fixture
def lora_report(_connected_lora_run: AuditContext) -> LoadReport:
    """The `LoadReport`: the checkpoint compared with `lora_model`, or with the model that `lora_loader` returns."""
    with failing(_connected_lora_run.path):
        return _connected_lora_run.report


@pytest.fixture
def lora_loaded_model(_connected_lora_run: AuditContext) -> torch.nn.Module:
    """The model that `lora_loader` returns for the checkpoint, loaded once; skips without a loader."""
    with failing(_connected_lora_run.path):
        model: torch.nn.Module | None = _connected_lora_run.project.loaded
    if model is None:
        pytest.skip(NEEDS_LOADER)
    return model


@pytest.fixture
def loader_fault(
    lora_ckpt: Path | str,
    lora_companions: Sequence[Path | str],
    _lora_harnesses: list[LoaderHarness],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> InjectedFault:
    """A damaged copy of the checkpoint, for `assert_loader_notices`: one test run for each fault that applies to it."""
    from pytest_lora_ckpt.faults import NotApplicable
    from pytest_lora_ckpt.scoring import inject_for_test

    if _sources(request) is None:
        pytest.skip(NEEDS_OPTION)
    try:
        with failing(lora_ckpt, NotApplicable):
            return inject_for_test(request.param, lora_ckpt, tmp_path, _lora_harnesses, lora_companions)
    except NotApplicable as reason:
        pytest.skip(f"{request.param}: {reason}")


@pytest.fixture(scope="session")
def _lora_harnesses() -> list[LoaderHarness]:
    """Loaders that were tried on a healthy checkpoint already: every later test only tries its damaged copy."""
    return []


@pytest.fixture(scope="session")
def lora_stages(request: pytest.FixtureRequest) -> Mapping[str, Stage]:
    """The project's training stages by name, as the ini option `lora_stages` has them, for `assert_stage`."""
    from pytest_lora_ckpt.options import read_stages
    from pytest_lora_ckpt.pytest_plugin.settings import options_of, usage_errors

    with usage_errors():
        return read_stages(options_of(request.config))


@pytest.fixture(scope="session")
def make_panorama_vlm() -> Callable[..., PanoramaVLM]:
    """Factory of tiny PanoramaVLM replicas: stage, rank, alpha, targets, layers, width."""
    from pytest_lora_ckpt import replicas

    return replicas.make_panorama_vlm


@pytest.fixture
def panorama_vlm(make_panorama_vlm: Callable[..., PanoramaVLM]) -> PanoramaVLM:
    """One tiny PanoramaVLM, with LoRA."""
    return make_panorama_vlm(lora=True)


@pytest.fixture(scope="session")
def make_tiny_lora() -> Callable[..., PeftModel]:
    """Factory of tiny models with LoRA by architecture family, `make("qwen3", rank=4)`: `tiny_lora`.

    Skips the test where the installed transformers cannot build the family.
    """
    from pytest_lora_ckpt.replicas import FamilyNotAvailable, tiny_lora

    def make(family: str, **kwargs: Any) -> PeftModel:
        try:
            return tiny_lora(family, **kwargs)
        except FamilyNotAvailable as reason:
            pytest.skip(str(reason))

    return make


@pytest.fixture
def make_lora_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Factory of checkpoints, `make(layout="lightning", fault=None, **kwargs)`: a replica saved by the real libraries.

    Layouts are those of `pytest_lora_ckpt.replicas.LAYOUTS`, faults those of `pytest_lora_ckpt.faults.FAULTS`; further
    arguments go to `save_replica`, and from there to `make_panorama_vlm`. A wrong name raises a `ValueError` that lists
    the valid ones, and a fault that does not apply to the replica raises `NotApplicable`.
    """
    from pytest_lora_ckpt import replicas
    from pytest_lora_ckpt.faults import find_fault

    def make(layout: str = "lightning", fault: str | None = None, **kwargs: Any) -> Path:
        chosen = None if fault is None else find_fault(fault)
        folder = tmp_path_factory.mktemp("lora-checkpoint")
        healthy = replicas.save_replica(folder, layout=layout, **kwargs)
        return healthy if chosen is None else chosen.inject(healthy, folder / "damaged")

    return make
