"""The project that the pages speak of, trained once; each block gets a copy of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent / "project"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, heavy_libraries: None) -> Path:
    """The project with everything that its training leaves: read it only."""
    del heavy_libraries
    from pytest_lora_ckpt.replicas.isolation import quiet_lightning, quiet_peft

    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(PROJECT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch, quiet_lightning(), quiet_peft():
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        from my_project.training import train

        train()
    return folder


@pytest.fixture
def project(pytester: pytest.Pytester, trained: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A copy of it, in which pytest is run as a user would."""
    shutil.copytree(trained, pytester.path, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(pytester.path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return pytester
