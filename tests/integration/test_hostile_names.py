"""Whatever a file calls its tensors: no output obeys the names, or grows with them."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import (
    assert_loaded_ratio,
    assert_lora_complete,
    assert_lora_loaded,
    assert_no_nonlora_missing,
    compare,
    open_checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

COLUMNS = 200  # As the inner runs have.

HOSTILE = {
    "escape": "a\x1b[31mred\x1b[0m",
    "title": "a\x1b]0;title\x07",
    "one-byte escape": "a\x9b31m",
    "newline": "a\n::error file=x.py::injected",
    "return": "a\r##[error]injected",
    "azure": "##vso[task.setvariable variable=x]injected",
    "github": "::error::injected",
    "teamcity": "##teamcity[testFailed name='injected']",
    "words": "a ::warning::injected ##[group]injected",
    "bidi": "a\u202egnp.exe\u2066",
    "invisible": "a\u200b\u2028b\ufeff",
    "surrogate": "a\udc80",
    "null": "a\x00b",
    "long": "a" + "x" * 1_000_000,
    "long words": "a " * 200_000,
}


def state_dict(name: str) -> dict[str, tuple[int, ...]]:
    """Keys that end in each kind of finding: a pair without its other half, misfits, unknown components."""
    return {
        f"{name}.weight": (2, 2),
        f"layers.0.{name}.lora_A.weight": (2, 4),
        f"layers.0.{name}.lora_B.weight": (4, 3),
        f"layers.1.{name}.lora_A.weight": (2, 4),
        "layers.1.q_proj.lora_B.weight": (4, 2),
        "head.weight": (2, 3),
    }


def model(name: str) -> dict[str, tuple[int, ...]]:
    return {f"layers.0.{name[::-1]}.weight": (2, 3), "head.weight": (2, 2), f"{name}.bias": (2,)}


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint for each hostile name."""
    import torch

    folder = tmp_path_factory.mktemp("hostile")
    paths = {}
    for number, (kind, name) in enumerate(HOSTILE.items()):
        paths[kind] = folder / f"h{number}.pt"
        tensors: dict[str, Any] = {key: torch.zeros(shape) for key, shape in state_dict(name).items()}
        tensors[f"layers.0.{name}.lora_A.weight"] *= torch.nan
        torch.save({"state_dict": tensors, name: name, "epoch": name}, paths[kind])
    return paths


def problems(text: str, columns: int = COLUMNS) -> Iterator[str]:
    """Say what in an output could act on a terminal, a log or a reader."""
    for line in text.split("\n"):
        if not line.isprintable():
            yield f"not printable: {line!r:.200}"
        if line.lstrip().startswith("::") or re.search(r"##\w*\[", line):
            yield f"a command of a CI: {line!r:.200}"
        # pytest prints the whole reason of a skip, with the place.
        if len(line) > (2 * COLUMNS if line.startswith("SKIPPED ") else columns):
            yield f"{len(line)} characters: {line!r:.200}"


CONFTEST = """
import pytest
@pytest.fixture
def lora_model(): return {model!r}
"""


def audited(audit: Audit, project: Project, paths: list[Path], *options: str) -> tuple[AuditRun, ET.Element]:
    project(conftest=CONFTEST.format(model=model(HOSTILE["escape"])))
    run = audit(*(f"--lora-ckpt={path}" for path in paths), "--junitxml=junit.xml", "-rA", *options, verbose=False)
    return run, ET.parse("junit.xml").getroot()  # noqa: S314 - Written by this run.


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=" ".join)
def test_no_output_of_a_run_does_what_a_key_says(
    audit: Audit, project: Project, hostile: dict[str, Path], workers: tuple[str, ...]
) -> None:
    run, xml = audited(audit, project, list(hostile.values()), *workers)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert len(run.sections) == len(HOSTILE)
    assert list(problems("\n".join(run.lines))) == []
    assert len(run.lines) < 200 * len(HOSTILE)
    for each in xml.iter():
        for text in (each.text or "", each.tail or "", *each.attrib.values()):
            assert list(problems(text, 2 * COLUMNS)) == []
        assert each.attrib.get("name") != "lora_ckpt"


def test_the_json_report_is_data_and_keeps_the_names(audit: Audit, project: Project, hostile: dict[str, Path]) -> None:
    hostile = {kind: path for kind, path in hostile.items() if kind != "long"}
    run, _ = audited(audit, project, list(hostile.values()))
    text = run.report.read_text("utf-8")
    assert all(line.isprintable() for line in text.splitlines())
    for kind, each in zip(hostile, json.loads(text)["runs"], strict=True):
        keys = {key for finding in each["findings"] for key in finding["keys"]}
        assert f"layers.0.{HOSTILE[kind]}.lora_A.weight" in keys
        messages = [finding["message"] for finding in each["findings"]] + [check["summary"] for check in each["checks"]]
        assert [problem for message in messages for problem in problems(message) if "characters" not in problem] == []


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_assertion_does_what_a_key_says(hostile: dict[str, Path], kind: str) -> None:
    checkpoint = open_checkpoint(hostile[kind])
    report = compare(checkpoint, model(HOSTILE[kind]), scope="full")
    for claim in (
        lambda: assert_lora_complete(checkpoint),
        lambda: assert_lora_loaded(report),
        lambda: assert_loaded_ratio(report, 1.0),
        lambda: assert_no_nonlora_missing(report),
    ):
        with pytest.raises(AssertionError) as failure:
            claim()
        assert list(problems(str(failure.value))) == []
        assert len(str(failure.value)) < 10_000


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in {"long", "long words"}])
def test_no_table_of_faults_does_what_a_key_says(
    audit: Audit, project: Project, tmp_path: Path, kind: str, heavy_libraries: None
) -> None:
    import torch

    name = HOSTILE[kind]
    torch.save(
        {f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)}, tmp_path / "a.pt"
    )
    project(
        loading=f"""
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.kept = {{}}
    def state_dict(self, *args, **kwargs):
        return self.kept

def load(path):
    model = Model()
    model.kept = torch.load(path, weights_only=True)
    if {name!r} + ".lora_A.weight" not in model.kept:
        raise KeyError(list(model.kept))
    return model
"""
    )
    run = audit(
        f"--lora-ckpt={tmp_path / 'a.pt'}", "--lora-loader=loading:load", "--lora-faults=nan,wrapper-prefix",
        verbose=False,
    )  # fmt: skip
    assert "faults: load" in run.text
    assert list(problems("\n".join(run.lines))) == []
