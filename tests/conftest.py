"""Shared by all tests."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

import pytest_lora_ckpt
from tests.helpers.golden import Golden
from tests.helpers.warm_python import warm_python as warm_python_in

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["pytester"]

# Tiny models gain nothing from threads, and lose much where several processes share the cores. Read when torch starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The runs that tests start would annotate there, and add to the summary of the job.
for _name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
    os.environ.pop(_name, None)

# How long an example takes is the machine's affair; what Hypothesis chooses for CI stays. Long runs are `tests/fuzz`.
hypothesis.settings.register_profile("any-machine", hypothesis.settings(), deadline=None, max_examples=50)
hypothesis.settings.load_profile("any-machine")


# `-m "not slow"` leaves out what is marked (a test over about 0.7 s), folders and files whose tests run pytest on whole
# projects, train, or write many checkpoints, what runs another process, and what Hypothesis draws.
SLOW = {
    *("docs", "faults", "foreign", "fuzz", "hostile", "integration", "replicas", "scoring", "strategies"),
    *("test_families.py", "test_hostile.py", "test_linear.py"),
}
SLOW_FIXTURES = {"heavy_libraries", "pytester", "warm_python"}


def _is_slow(item: pytest.Item) -> bool:
    asks = SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ()))
    return bool(
        asks
        or SLOW.intersection(item.path.relative_to(Path(__file__).parent).parts)
        or getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_slow(item):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    # What is there by now stays: the collector would go through all of it again and again.
    gc.collect()
    gc.freeze()


# The weights that a test draws are its own, whatever ran before it in the same process.


def _seed(name: str) -> None:
    if torch := sys.modules.get("torch"):
        # `torch.manual_seed` also notes down, with the stack, what to do once there is a GPU: milliseconds.
        torch.default_generator.manual_seed(zlib.crc32(name.encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> None:
    _seed(f"{fixturedef.argname} {request.param_index}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    _seed(item.nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write the golden files (tests/golden) anew.")


@pytest.fixture
def golden(tmp_path: Path, pytestconfig: pytest.Config) -> Golden:
    """Compare rendered outputs with their golden files."""
    return Golden(tmp_path / "actual", update=pytestconfig.getoption("update_golden"))


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A program to use as `sys.executable` is; its runs have the heavy libraries imported (`warm_python.py`)."""
    with warm_python_in(tmp_path_factory.mktemp("warm")) as program:
        yield program


@pytest.fixture
def pytester(pytester: pytest.Pytester, heavy_libraries: None) -> pytest.Pytester:
    """pytest's own. A run in this process forgets what it imports, and then there would be two of each module."""
    del heavy_libraries
    return pytester


@pytest.fixture(scope="session")
def heavy_libraries() -> None:
    """Import all that a run in this process could import: it forgets its modules, and torch cannot load twice."""
    for name in ("hypothesis", "torch", "safetensors.torch", "peft", "transformers", "lightning.pytorch"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(pytest_lora_ckpt.__path__, "pytest_lora_ckpt."):
        importlib.import_module(module.name)
    from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs

    model = make_panorama_vlm()
    model.generate(**replica_inputs(model), max_new_tokens=1)
    # Every pytest run ends in five full garbage collections: seconds, with all this on the heap.
    gc.collect()
    gc.freeze()
