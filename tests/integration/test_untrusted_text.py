"""Whatever a file says, wherever it says it: no output of any kind obeys it, is forged by it, or grows with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import (
    CheckpointError,
    assert_loaded_ratio,
    assert_lora_complete,
    assert_lora_loaded,
    assert_no_nonlora_missing,
    compare,
    infer_remapping,
    open_checkpoint,
)
from tests.helpers.hostile_texts import PLACES, TEXTS
from tests.helpers.outputs import LONGEST, forged, forged_anywhere, outputs, pages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

pytestmark = [pytest.mark.hostile, pytest.mark.usefixtures("heavy_libraries")]

CONFTEST = """
import pytest
@pytest.fixture
def lora_model():
    return {"layers.0.q_proj.weight": (4, 4), "layers.0.wen\\n::error::x.weight": (2, 3), "head.weight": (2, 2)}
"""


def written(place: str, folder: Path) -> list[Path]:
    paths = []
    for number, text in enumerate(TEXTS.values()):
        own = folder / str(number)
        own.mkdir()
        paths.append(PLACES[place](own, text))
    return paths


@pytest.mark.parametrize("place", PLACES)
def test_no_output_is_forged(audit: Audit, project: Project, tmp_path: Path, place: str) -> None:
    project(conftest=CONFTEST)
    paths = written(place, tmp_path)
    run = audit(*(f"--lora-ckpt={path}" for path in paths), "-rA", "--junitxml=junit.xml")
    assert run.ret in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
    assert "itself failed" not in run.text
    texts = outputs(run, project() / "junit.xml")
    assert forged_anywhere(texts) == []
    assert len(run.sections) == len(paths)
    lines, nbytes = pages(run)
    assert lines < 200 * len(paths)
    assert nbytes < (64 << 10) * len(paths)


@pytest.mark.parametrize("options", [("-n", "2"), ("--tb=native", "-l"), ("--tb=line", "-q"), ("-vv", "--tb=short")])
@pytest.mark.parametrize("place", ["in_keys", "in_file_name"])
def test_nor_in_other_ways_of_printing(
    audit: Audit, project: Project, tmp_path: Path, place: str, options: tuple[str, ...]
) -> None:
    project(conftest=CONFTEST)
    paths = [path for path in written(place, tmp_path) if "-n" not in options or "\\udc" not in ascii(str(path))]
    run = audit(*(f"--lora-ckpt={path}" for path in paths), "-rA", *options, verbose=False)
    assert run.ret in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
    assert forged_anywhere(outputs(run)) == []


def test_a_path_that_xdist_cannot_send(audit: Audit, tmp_path: Path) -> None:
    run = audit(f"--lora-ckpt={PLACES['in_file_name'](tmp_path, TEXTS['surrogate'])}", "-n", "2", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "a\\udc80.pt is not valid UTF-8, and pytest-xdist cannot send it: run without -n." in run.text


def test_without_a_terminal_the_reports_are_written(audit: Audit, project: Project, tmp_path: Path) -> None:
    paths = written("in_keys", tmp_path)
    run = audit(*(f"--lora-ckpt={path}" for path in paths), "-p", "no:terminal", "--junitxml=junit.xml", verbose=False)
    assert run.lines == []
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert len(run.json["runs"]) == len(paths)
    assert forged_anywhere(outputs(run, project() / "junit.xml")) == []


def test_the_json_report_keeps_every_name(audit: Audit, project: Project, tmp_path: Path) -> None:
    project(conftest=CONFTEST)
    run = audit(*(f"--lora-ckpt={path}" for path in written("in_keys", tmp_path)), verbose=False)
    for text, each in zip(TEXTS.values(), run.json["runs"], strict=True):
        if each["checkpoint"]["layout"] is None:  # A key beyond the limits.
            assert len(text) > 900
            continue
        named = {key for finding in each["findings"] for key in finding["keys"]}
        assert f"layers.0.{text}.lora_A.weight" in named
        said = [finding[part] for finding in each["findings"] for part in ("message", "remedy")]
        said += [check["summary"] for check in each["checks"]]
        assert [wrong for message in said for wrong in forged(message, longest=2 * LONGEST)] == []


LOADING = """
import logging, sys, warnings
import torch

def load(path):
    names = list(torch.load(path, weights_only=True))
    for name in names:
        print(name)
        print(name, file=sys.stderr)
        logging.getLogger("loading").warning(name)
        if WARN:
            warnings.warn(f"unexpected key {name}")
    raise RuntimeError("unexpected keys:\\n" + "\\n".join(names))
"""


@pytest.mark.parametrize(
    "options",
    [(), ("-n", "2"), ("--tb=short", "-l"), ("--tb=native",), ("--tb=line",), ("-vv", "--tb=long", "-l")],
    ids=" ".join,
)
def test_what_a_loader_prints_warns_and_raises(
    audit: Audit, project: Project, tmp_path: Path, options: tuple[str, ...]
) -> None:
    import torch

    names = {kind: text for kind, text in TEXTS.items() if kind not in {"long", "long words"}}
    torch.save({name: torch.ones(2) for name in names.values()}, tmp_path / "a.pt")
    project(loading=LOADING.replace("WARN", "True"))
    # In a process of its own: what the loader logs would reach the log of this test as it is.
    run = audit(
        f"--lora-ckpt={tmp_path / 'a.pt'}", "--lora-loader=loading:load", "-rA", "--junitxml=junit.xml",
        "-W", "always", *options, verbose=False, subprocess=True,
    )  # fmt: skip
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert "unexpected key" in run.text
    assert "loading.py" in run.text or "--tb=line" in options  # The traceback of the project's own code.
    assert forged_anywhere(outputs(run, project() / "junit.xml")) == []


@pytest.mark.parametrize("kind", TEXTS)
def test_printed_code_is_python_and_renames(kind: str) -> None:
    text = TEXTS[kind][:300]
    keys = {f"{text}.layers.{n}.weight": (2, n + 1) for n in range(3)}
    goals = {f"model.layers.{n}.weight": (2, n + 1) for n in range(3)}
    for here, there in ((keys, goals), (goals, keys)):
        remapping = infer_remapping(here, there)
        source = remapping.as_python()
        space: dict[str, object] = {}
        exec(source, space)  # noqa: S102  # As a reader would who pastes it.
        renamed = space["rename_keys"]({key: key for key in remapping.mapping})  # type: ignore[operator]
        assert {old: new for new, old in renamed.items()} == dict(remapping.mapping)
        assert forged(source, longest=None) == []
        assert forged(remapping.explain()) == []


@pytest.mark.parametrize("kind", TEXTS)
def test_assertions_are_safe_to_print(kind: str) -> None:
    name = TEXTS[kind]
    held = {
        f"layers.0.{name}.lora_A.weight": (2, 4),
        f"layers.0.{name}.lora_B.weight": (4, 3),
        f"layers.1.{name}.lora_A.weight": (2, 4),
        f"{name}.weight": (2, 2),
        "head.weight": (2, 3),
    }
    report = compare(held, {f"layers.0.{name[::-1]}.weight": (2, 3), f"{name}.bias": (2,)}, scope="full")
    for claim in (
        lambda: assert_lora_complete(held),
        lambda: assert_lora_loaded(report),
        lambda: assert_loaded_ratio(report, 1.0),
        lambda: assert_no_nonlora_missing(report),
    ):
        with pytest.raises(AssertionError) as failure:
            claim()
        assert forged(str(failure.value)) == []
        assert len(str(failure.value)) < 10_000


SCORED = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.kept = {}
    def state_dict(self, *args, **kwargs):
        return self.kept

def load(path):
    model = Model()
    model.kept = torch.load(path, weights_only=True)
    if NAME + ".lora_A.weight" not in model.kept:
        raise KeyError(list(model.kept))
    return model
"""


@pytest.mark.parametrize("kind", [kind for kind, text in TEXTS.items() if len(text) < 900])
def test_the_table_of_faults(audit: Audit, project: Project, tmp_path: Path, kind: str) -> None:
    import torch

    name = TEXTS[kind]
    path = tmp_path / "a.pt"
    torch.save({f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)}, path)
    project(loading=SCORED.replace("NAME", repr(name)))
    run = audit(f"--lora-ckpt={path}", "--lora-loader=loading:load", "--lora-faults=nan,wrapper-prefix", verbose=False)
    assert "faults: load" in run.text
    assert forged_anywhere(outputs(run)) == []


def refusal(path: Path) -> str:
    """Return what is said of a file that cannot be read; empty where it can."""
    try:
        open_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("place", PLACES)
def test_errors_are_safe_to_print(place: str, tmp_path: Path) -> None:
    for said in map(refusal, written(place, tmp_path)):
        assert forged(said, longest=2 * LONGEST) == []
        assert len(said) < 10_000


def flood(path: Path) -> Path:
    """A checkpoint in which everything is wrong, thousands of times, each time otherwise."""
    import torch

    folder = path / "flood"
    folder.mkdir()
    tensors = {f"c{n}.{'abc'[n % 3]}x{n}y.lora_{'AB'[n % 2]}.weight": torch.zeros(n % 5 + 1, 4) for n in range(3000)}
    tensors |= {f"base_model.model.z{n}.weight": torch.full((2, 2), torch.nan) for n in range(500)}
    torch.save(tensors, folder / "adapter_model.bin")
    config = {"peft_type": "LORA", "r": 77, "lora_alpha": 4, "target_modules": [f"t{n}" for n in range(2000)]}
    config |= {"rank_pattern": {f"r{n}": n for n in range(999)}, "modules_to_save": [f"m{n}" for n in range(999)]}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    for n in range(40):
        torch.save({f"w{n}": torch.full((2,), torch.nan)}, folder / f"trained{n}.bin")
        (folder / f"broken{n}.safetensors").write_bytes(b"\x99" * 99)
    (folder / "lora_manifest.json").write_text("{}", "utf-8")
    return folder


KEYS = """
import pytest
@pytest.fixture
def lora_model(): return {f'g{n}.h{n}.weight': (2, n + 1) for n in range(3000)}
"""

FAILURES = """
import pytest
@pytest.fixture
def lora_model(): raise RuntimeError("\\n".join(f"size mismatch for {n}" for n in range(5000)))
@pytest.fixture
def lora_loader(): return load
def load(path): raise RuntimeError("\\n".join(f"missing key {n}" for n in range(5000)))
"""


FLOODS = {"nothing": "", "keys": KEYS, "failures": FAILURES}


@pytest.mark.parametrize("with_model", FLOODS)
@pytest.mark.parametrize(("server", "verbose"), [("", False), ("true", True)])
def test_a_flood_is_a_page(  # noqa: PLR0913, PLR0917  # Fixtures.
    audit: Audit,
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_model: str,
    server: str,
    *,
    verbose: bool,
) -> None:
    monkeypatch.setenv("CI", server) if server else monkeypatch.delenv("CI", raising=False)
    path = flood(tmp_path)
    project(conftest=FLOODS[with_model])
    run = audit(f"--lora-ckpt={path}", "--lora-strict", "--lora-stage=finetune", "-rA", verbose=verbose)
    lines, nbytes = pages(run)
    assert len(run.json["runs"][0]["checks"]) > 10
    assert lines <= 200, run.text
    assert nbytes <= 64 << 10
    assert ("--lora-report=FILE.json" if verbose else "see -v") in run.text
    assert forged_anywhere(outputs(run)) == []
