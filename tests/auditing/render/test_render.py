"""What the renderers have in common: the choice by ending, whole files, and data that comes back as it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.auditing.render import ENDINGS, RENDERERS, write_report
from pytest_lora_ckpt.auditing.result import SCHEMA, AuditResult, CheckpointFacts, CheckResult
from pytest_lora_ckpt.results import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_lora_ckpt.auditing.render import Renderer

HOSTILE = "a\x1b[31m\x9b\u202e\udc80\n::error::"
RESULT = AuditResult(
    "replica:finetune",
    CheckpointFacts(f"runs/{HOSTILE}.ckpt", "torch", "torch zip", 2, 16, notes=("‖ΔW‖",)),
    verdict="partial",
    checks=(CheckResult("keys", "failed", f"1 key is dropped: {HOSTILE}"),),
    findings=(Finding("unexpected-weights", "error", "1 key has no place.", "Look.", (HOSTILE,)),),
)


class Broken:
    """A renderer that fails."""

    ending = ".json"
    needs = ()

    def render(self, results: Sequence[AuditResult]) -> str:
        raise RuntimeError(len(results))


@pytest.mark.parametrize("renderer", RENDERERS, ids=lambda each: type(each).__name__)
def test_every_form_is_printable(renderer: Renderer) -> None:
    assert "partial" in renderer.render([RESULT, RESULT])
    for line in renderer.render([RESULT]).splitlines():
        assert line.isprintable()
        assert not line.lstrip().startswith("::")
    assert all(line.isprintable() for line in renderer.render([]).splitlines())


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    write_report(tmp_path / "a.json", [RESULT])
    text = (tmp_path / "a.json").read_text("utf-8")
    assert "‖ΔW‖" in text
    report = json.loads(text)
    assert report["schema"] == SCHEMA
    assert [AuditResult.from_dict(run) for run in report["runs"]] == [RESULT]


def test_a_report_is_whole_or_the_older_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_report(path, [RESULT])
    before = path.read_bytes()
    monkeypatch.setitem(ENDINGS, ".json", Broken())
    with pytest.raises(RuntimeError):
        write_report(path, [RESULT])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match=r"a\.json"):
        write_report(tmp_path / "a.json", [RESULT])
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
