"""A run under GitHub Actions: annotations and the summary of the job, from the process that tells the results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.github_commands import read
from tests.helpers.github_markdown import read as read_markdown
from tests.helpers.hostile_texts import PLACES, TEXTS
from tests.helpers.outputs import forged

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.audit_runs import AuditRun
    from tests.helpers.github_commands import Command

    Audit = Callable[..., AuditRun]


@pytest.fixture
def summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the job's summary, in which an earlier command wrote."""
    path = tmp_path / "summary.md"
    path.write_text("# Before\n", "utf-8")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


def commands(run: AuditRun) -> list[Command]:
    return [command for line in run.lines if (command := read(line)) is not None]


@pytest.mark.parametrize("options", [(), ("-q",), ("-p", "no:terminal")], ids=" ".join)
@pytest.mark.usefixtures("toy_project")
def test_a_failure_is_annotated_once(
    audit: Audit, toy_checkpoint: Path, summary: Path, options: tuple[str, ...]
) -> None:
    run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-loader=toy:bad", *options, verbose=False)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    told = commands(run)
    assert [each.name for each in told] == ["error", "error", "warning", "warning"]
    assert "These checks failed for it: keys, adapter-active." in told[0].message
    text = summary.read_text("utf-8")
    assert text.startswith("# Before\n|  | LoRA checkpoint |")
    assert text.count("adapter-not-loaded") == 2  # In the table, and in the section.


@pytest.mark.usefixtures("toy_project")
def test_a_healthy_checkpoint_is_in_the_summary_alone(audit: Audit, toy_checkpoint: Path, summary: Path) -> None:
    run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-loader=toy:good", verbose=False)
    assert commands(run) == []
    assert "| ✅ |" in summary.read_text("utf-8")


@pytest.mark.parametrize("off", ["option", "ini", "elsewhere"])
@pytest.mark.usefixtures("toy_project")
def test_it_can_be_switched_off(
    audit: Audit, toy_checkpoint: Path, summary: Path, monkeypatch: pytest.MonkeyPatch, off: str
) -> None:
    given = [f"--lora-ckpt={toy_checkpoint}", "--lora-loader=toy:bad"]
    if off == "option":
        given.append("--lora-github=off")
    elif off == "ini":
        Path("pytest.ini").write_text("[pytest]\npythonpath = .\nlora_github = off\n", "utf-8")
    else:
        monkeypatch.delenv("GITHUB_ACTIONS")
    assert commands(audit(*given, verbose=False)) == []
    assert summary.read_text("utf-8") == "# Before\n"


@pytest.mark.usefixtures("toy_project")
def test_a_wrong_value_is_a_usage_error(audit: Audit, toy_checkpoint: Path) -> None:
    run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-github=yes", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "--lora-github=yes (from: command line): give auto or off." in run.text


@pytest.mark.usefixtures("toy_project")
def test_a_summary_that_cannot_be_written_fails_nothing(
    audit: Audit, toy_checkpoint: Path, summary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary / "none.md"))
    run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-loader=toy:good", verbose=False)
    assert run.ret == pytest.ExitCode.OK
    assert "The summary of the job cannot be written: " in run.text


@pytest.mark.usefixtures("toy_project")
def test_a_summary_that_is_full_stays_one(audit: Audit, toy_checkpoint: Path, summary: Path) -> None:
    summary.write_text("x" * ((1 << 20) - 100), "utf-8")
    audit(f"--lora-ckpt={toy_checkpoint}", "--lora-loader=toy:bad", verbose=False)
    assert summary.stat().st_size == (1 << 20) - 100


@pytest.mark.parametrize("place", ["in_keys", "in_file_name", "in_config"])
def test_hostile_files_give_no_command(audit: Audit, tmp_path: Path, summary: Path, place: str) -> None:
    for kind in ("newline", "words", "github", "azure", "markup", "quotes"):
        (tmp_path / kind).mkdir()
        path = PLACES[place](tmp_path / kind, TEXTS[kind])
        run = audit(f"--lora-ckpt={path}", verbose=False)
        own = [line for line in run.lines if not line.startswith(("::error file=", "::warning file="))]
        assert forged("\n".join(own)) == []
        for command in commands(run):
            assert [*command.properties] == ["file", "title"]
            assert forged(command.message) == []
    elements, _, shown = read_markdown(summary.read_text("utf-8"))
    assert {"a href", "b", "img", "comment"}.isdisjoint(elements)
    assert "<" not in shown
