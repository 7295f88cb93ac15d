"""What a run prints in brief: nothing twice, with `-q` the verdicts, colours where pytest has them, many in a table."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import TOY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

PROJECT = {
    "toy.py": TOY,
    "pytest.ini": "[pytest]\npythonpath = .\n",
    "conftest.py": """
import pytest, toy

def load(path):
    if path.name != "bad.pt":
        return toy.good(path)
    model = toy.Toy(lora=False)
    state = toy.torch.load(path, weights_only=True)
    model.load_state_dict({key.replace("base_layer.", ""): value for key, value in state.items()}, strict=False)
    return model

@pytest.fixture(scope="session")
def lora_loader():
    return load

@pytest.fixture(scope="session")
def lora_inputs():
    return toy.INPUTS
""",
}
REMEDY = "Attach the LoRA before loading"
MESSAGE = "2 of 2 adapter keys of the checkpoint have no place in the model"


@pytest.fixture
def checkpoints(project: Project, toy_checkpoint: Path) -> Path:
    """Three checkpoints, one of which the project's loader drops the adapter of."""
    root = project(PROJECT)
    for name in ("a.pt", "bad.pt", "c.pt"):
        shutil.copy(toy_checkpoint, root / name)
    return root


def run_on(audit: Audit, *arguments: str) -> AuditRun:
    return audit(*(f"--lora-ckpt={each}" for each in arguments if each.endswith(".pt")),
                 *(each for each in arguments if not each.endswith(".pt")), verbose=False)  # fmt: skip


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=" ".join)
def test_nothing_is_said_twice(audit: Audit, workers: tuple[str, ...]) -> None:
    run = run_on(audit, "bad.pt", *workers)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    text = run.text.partition("short test summary info")[0]
    for words in (MESSAGE, REMEDY, "[unexpected-weights]"):
        assert text.count(words) <= 1, words
    assert text.count(MESSAGE) == text.count(REMEDY) == 1
    assert "partial: 2 keys of the checkpoint dropped [adapter-not-loaded]" in text
    assert "failed checks: keys, loaded, adapter-active" in text
    assert sum(line.startswith("LoRA report written to ") for line in run.lines) == 1


@pytest.mark.usefixtures("checkpoints")
def test_quiet(audit: Audit) -> None:
    run = run_on(audit, "a.pt", "bad.pt", "c.pt", "-q")
    told = [line for line in run.lines if line.startswith("LoRA")]
    assert told == [
        "LoRA checkpoint a.pt: verdict: loads (everything loads under its own name)",
        "LoRA checkpoint bad.pt: verdict: partial (even after renaming, some tensors have no counterpart)",
        "LoRA checkpoint c.pt: verdict: loads (everything loads under its own name)",
    ]
    assert run.text.count(REMEDY) == 1  # In the failure, since there is no section.
    assert run.sections == []


@pytest.mark.usefixtures("checkpoints")
def test_of_many_the_healthy_ones_take_a_line(audit: Audit) -> None:
    run = run_on(audit, "a.pt", "bad.pt", "c.pt")
    assert run.sections == ["LoRA checkpoint: bad.pt"]
    start = next(n for n, line in enumerate(run.lines) if "LoRA checkpoints: 1 of 3 failed" in line)
    table = [line.split(None, 2) for line in run.lines[start + 1 : start + 4]]
    assert table == [
        ["loads", "a.pt", "9 passed, 4 not checked"],
        ["partial", "bad.pt", "failed: adapter-not-loaded"],
        ["loads", "c.pt", "9 passed, 4 not checked"],
    ]
    told = (
        "not checked: config, stage, base-untouched, manifest: give --lora-base=PATH (for base-untouched) [in 2 of 3]"
    )
    assert told in run.text
    with_v = run_on(audit, "a.pt", "bad.pt", "c.pt", "-v")
    assert with_v.sections == [f"LoRA checkpoint: {name}" for name in ("a.pt", "bad.pt", "c.pt")]
    assert "LoRA checkpoints: 1 of 3 failed" in with_v.text
    assert run_on(audit, "a.pt", "c.pt").sections == ["LoRA checkpoint: a.pt", "LoRA checkpoint: c.pt"]


@pytest.mark.usefixtures("checkpoints")
def test_colours(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)
    coloured = run_on(audit, "bad.pt", "--color=yes").lines
    assert any(line.startswith("\x1b[31m\x1b[1mverdict: partial\x1b[0m (even") for line in coloured)
    assert any(line.startswith("\x1b[31m\x1b[1merror: ") for line in coloured)
    assert any(line.startswith(f"\x1b[36m  -> {REMEDY}") for line in coloured)
    healthy = run_on(audit, "a.pt", "--color=yes").lines
    assert any(line.startswith("\x1b[32m\x1b[1mverdict: loads\x1b[0m (") for line in healthy)
    for options in (("--color=no",), ()):  # The output is no terminal.
        assert "\x1b" not in "\n".join(run_on(audit, "bad.pt", *options).lines)


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("columns", [60, 160])
def test_the_terminals_width(audit: Audit, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    run = run_on(audit, "bad.pt")
    start = next(n for n, line in enumerate(run.lines) if "FAILURES" in line)
    end = next(n for n, line in enumerate(run.lines) if line.startswith("LoRA report written to"))
    for line in run.lines[start:end]:
        assert len(line) <= columns or " " not in line.strip(), line
