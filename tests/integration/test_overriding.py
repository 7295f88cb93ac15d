"""A project's own `lora_model`, `lora_loader` and `lora_inputs` reach the built-in checks, wherever they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers.audit_runs import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

FUNCTION = """
import pytest, toy
@pytest.fixture
def lora_loader(): return toy.{loader}
@pytest.fixture
def lora_inputs(): return toy.INPUTS
"""
STYLES = {
    "function": FUNCTION,
    "session": FUNCTION.replace("@pytest.fixture\n", '@pytest.fixture(scope="session")\n'),
    "renamed": FUNCTION.replace("@pytest.fixture\ndef lora_loader", '@pytest.fixture(name="lora_loader")\ndef _mine'),
    "on lora_ckpt": FUNCTION.replace("lora_loader()", "lora_loader(lora_ckpt)"),
    "imported": "from fixtures_of_mine import lora_loader, lora_inputs\n",
}
PLACES = ("conftest.py", "tests/conftest.py")
ARGUMENTS = ((), ("tests",), ("tests/test_x.py",), ("tests/test_x.py::test_y",))


def write_override(project: Project, place: str, style: str, loader: str) -> None:
    project({place: STYLES[style].format(loader=loader)}, fixtures_of_mine=FUNCTION.format(loader=loader))


def assert_reached(run: AuditRun, loader: str) -> None:
    """The bad loader is told from the good one only by a check that got it."""
    assert set(run.checks) == set(CHECKS)
    if loader == "good":
        assert run.ret == pytest.ExitCode.OK
        assert run.named("passed") >= {"keys", "ratio", "adapter-active", "generate"}
    else:
        assert run.ret == pytest.ExitCode.TESTS_FAILED
        assert run.named("failed") == {"keys", "loaded", "adapter-active"}
        assert "adapter-not-loaded" in run.causes


@pytest.mark.usefixtures("toy_project")
@pytest.mark.parametrize("args", ARGUMENTS, ids=lambda args: " ".join(args) or "no args")
@pytest.mark.parametrize("place", PLACES)
def test_with_and_without_test_paths(
    audit: Audit, project: Project, toy_checkpoint: Path, place: str, args: tuple[str, ...]
) -> None:
    for loader in ("good", "bad"):
        write_override(project, place, "function", loader)
        run = audit(f"--lora-ckpt={toy_checkpoint}", *args)
        assert_reached(run, loader)
        assert set(run.tests.values()) == {"passed"}


@pytest.mark.usefixtures("toy_project")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("place", PLACES)
def test_however_it_is_written(audit: Audit, project: Project, toy_checkpoint: Path, place: str, style: str) -> None:
    write_override(project, place, style, "bad")
    assert_reached(audit(f"--lora-ckpt={toy_checkpoint}"), "bad")


@pytest.mark.usefixtures("toy_project")
@pytest.mark.parametrize(
    ("place", "workers"), [("conftest.py", "0"), ("tests/conftest.py", "0"), ("tests/conftest.py", "2")]
)
def test_under_xdist(audit: Audit, project: Project, toy_checkpoint: Path, place: str, workers: str) -> None:
    write_override(project, place, "session", "bad")
    assert_reached(audit(f"--lora-ckpt={toy_checkpoint}", "-n", workers), "bad")


@pytest.mark.usefixtures("toy_project")
@pytest.mark.parametrize("place", PLACES)
def test_from_another_directory(  # noqa: PLR0913, PLR0917 - Each is a fixture.
    audit: Audit, project: Project, toy_checkpoint: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_override(project, place, "function", "bad")
    root = project()
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    ckpt = f"--lora-ckpt={toy_checkpoint}"
    for args in ((root,), (f"--rootdir={root}", root), (root / "tests",), (f"{root}/tests/test_x.py::test_y",)):
        assert_reached(audit(ckpt, *args), "bad")
    monkeypatch.chdir(root / "tests")
    assert_reached(audit(ckpt), "bad")


@pytest.mark.usefixtures("toy_project")
def test_the_deeper_conftest_wins(audit: Audit, project: Project, toy_checkpoint: Path) -> None:
    write_override(project, "conftest.py", "function", "good")
    write_override(project, "tests/conftest.py", "function", "bad")
    assert_reached(audit(f"--lora-ckpt={toy_checkpoint}"), "bad")


@pytest.mark.usefixtures("toy_project")
def test_testpaths_and_a_src_layout(audit: Audit, project: Project, toy_checkpoint: Path) -> None:
    write_override(project, "tests/unit/deep/conftest.py", "function", "bad")
    project(
        {
            "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['.']\ntestpaths = ['docs', 'tests']\n",
            "docs/test_pages.py": "def test_pages(): pass\n",
            "tests/unit/deep/test_deep.py": "def test_deep(): pass\n",
            "tests/other/test_other.py": "def test_other(): pass\n",
            "tests/unit/__init__.py": "",
            "tests/unit/deep/__init__.py": "",
        }
    )
    assert_reached(audit(f"--lora-ckpt={toy_checkpoint}"), "bad")


@pytest.mark.usefixtures("toy_project")
@pytest.mark.parametrize("place", PLACES)
def test_the_model(audit: Audit, project: Project, toy_checkpoint: Path, place: str) -> None:
    model = "import pytest, toy\n@pytest.fixture(name='lora_model')\ndef _model(): return toy.{}()\n"
    for make, outcome in (("make", "passed"), ("make_plain", "failed")):
        project({place: model.format(make)})
        run = audit(f"--lora-ckpt={toy_checkpoint}")
        assert run.checks["keys"] == outcome
        # What the plain model has is loaded to the last key: the ratio cannot see what is lost.
        assert run.checks["ratio"] == "passed"
        assert run.checks["adapter-active"] == "skipped"


@pytest.mark.usefixtures("toy_project")
def test_an_override_in_a_project_without_tests(audit: Audit, project: Project, toy_checkpoint: Path) -> None:
    write_override(project, "conftest.py", "function", "bad")
    (project() / "tests" / "test_x.py").unlink()
    assert_reached(audit(f"--lora-ckpt={toy_checkpoint}"), "bad")


@pytest.mark.usefixtures("toy_project")
def test_a_plugin_of_the_project_may_override_too(audit: Audit, project: Project, toy_checkpoint: Path) -> None:
    write_override(project, "my_plugin.py", "function", "bad")
    project(conftest='pytest_plugins = ["my_plugin"]')
    assert_reached(audit(f"--lora-ckpt={toy_checkpoint}"), "bad")


@pytest.mark.usefixtures("toy_project")
@pytest.mark.parametrize("place", PLACES)
def test_hooks_of_the_conftest_reach_the_checks(
    audit: Audit, project: Project, toy_checkpoint: Path, place: str
) -> None:
    write_override(project, place, "function", "good")
    text = (project() / place).read_text("utf-8")
    project({place: text + "def pytest_runtest_setup(item): print(f'hook for {item.name}.')\n"})
    run = audit(f"--lora-ckpt={toy_checkpoint}", "-s")
    assert "hook for test_y." in run.text
    assert "hook for keys[toy.pt]." in run.text
