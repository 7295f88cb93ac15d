"""The terminal section, the failures and the JSON report of each kind of audit, word for word (`tests/golden`)."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import AuditResult
from pytest_lora_ckpt.auditing.render.lines import View
from pytest_lora_ckpt.auditing.render.terminal_failures import failure
from pytest_lora_ckpt.auditing.render.terminal_overview import FEW, needs_section
from pytest_lora_ckpt.scoring import render_score
from tests.helpers import loading_world
from tests.helpers.sections import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers.audit_runs import AuditRun
    from tests.helpers.golden import Golden

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

CONFTEST = """
import pytest
from tests.integration.test_golden import *
@pytest.fixture(scope="session")
def lora_model(lora_ckpt): return {model}
@pytest.fixture(scope="session")
def lora_loader(lora_ckpt): return {loader}
@pytest.fixture(scope="session")
def lora_base_model(): return {base}
@pytest.fixture(scope="session")
def lora_inputs(): return {inputs}
"""

# Shapes of a model with LoRA on one of its layers, for the comparisons by name.
MODEL = {
    "embed.weight": (8, 4),
    **{f"layers.{n}.q_proj.base_layer.weight": (4, 4) for n in range(3)},
    **{f"layers.{n}.q_proj.lora_A.default.weight": (2, 4) for n in range(3)},
    **{f"layers.{n}.q_proj.lora_B.default.weight": (4, 2) for n in range(3)},
    "head.weight": (8, 4),
}


def wrapped(key: str) -> str:
    """As `torch.compile` and a trainer's own module rename keys."""
    return f"model._orig_mod.{key}"


def kept(key: str) -> bool:
    return "lora_B" not in key or "layers.1" in key


COMPARED: dict[str, dict[str, tuple[int, ...]]] = {
    "healthy": MODEL,
    "remapped": {wrapped(key): shape for key, shape in MODEL.items()},
    "partial": {key: shape for key, shape in MODEL.items() if kept(key)} | {"projector.weight": (4, 4)},
    "noop": {f"tower.blocks.{n}.attn.{up}.weight": (3, 9)[:: 1 - 2 * (up == "lora_B")]
             for n in range(3) for up in ("lora_A", "lora_B")},
    "incompatible": {key: (*shape[:-1], shape[-1] + 1) for key, shape in MODEL.items()},
}  # fmt: skip


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory, heavy_libraries: None) -> list[Path]:
    """A checkpoint for each way in which a comparison by names can end."""
    import torch

    folder = tmp_path_factory.mktemp("compared")
    for name, shapes in COMPARED.items():
        torch.save({key: torch.full(shape, 0.5) for key, shape in shapes.items()}, folder / f"{name}.pt")
    return [folder / f"{name}.pt" for name in COMPARED]


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, heavy_libraries: None) -> Path:
    """A trained adapter of a tiny Llama, as PEFT saves it."""
    return loading_world.save(loading_world.adapt(loading_world.llama()), tmp_path_factory.mktemp("peft") / "adapter")


def loaded(path: Path) -> Any:
    """Load an adapter right or wrong, as the name of its directory says."""
    import peft

    with loading_world.quietly():
        base = loading_world.llama(seed=1 if path.name == "base-exchanged" else 0)
        if path.name == "dropped":
            return base
        model = peft.PeftModel.from_pretrained(base, path).eval()
        if path.name == "merged":
            return model.merge_and_unload()
        if path.name == "scaled-wrong":
            for layer in model.modules():
                if isinstance(getattr(layer, "scaling", None), dict):
                    layer.scaling["default"] = 1.0
        return model


LOADED = ("healthy", "dropped", "merged", "scaled-wrong", "nan", "base-exchanged")


def adapters(adapter: Path, folder: Path) -> Iterator[Path]:
    """Copy the adapter under each of the names that `loaded` knows."""
    import safetensors.torch
    import torch

    for name in LOADED:
        shutil.copytree(adapter, folder / name)
        if name == "nan":
            file = folder / name / "adapter_model.safetensors"
            tensors = safetensors.torch.load_file(file)
            safetensors.torch.save_file({**tensors, min(tensors): tensors[min(tensors)] * torch.nan}, file)
        yield folder / name


WIDE = 200
"""Columns of the inner run's terminal (`conftest.py`)."""


def run_on(audit: Audit, paths: list[Path], *options: str) -> AuditRun:
    return audit(*(f"--lora-ckpt={path}" for path in paths), *options, verbose=False)


def outputs(run: AuditRun, folder: str, golden: Golden) -> dict[str, str]:
    """Return for each checkpoint what is printed of it in brief, with `-v` and as failures, and the JSON of the run.

    What the run printed is this for the paths as they are. What is compared with the golden files is rendered without
    them: a path that is longer breaks lines elsewhere.
    """
    found = {}
    for each in run.json["runs"]:
        name = Path(each["checkpoint"]["path"]).name
        as_printed = AuditResult.from_dict(each)
        if len(run.json["runs"]) <= FEW or needs_section(as_printed):
            assert _section(run.lines, f"LoRA checkpoint: {name}") == shown(as_printed, WIDE)
        for check in as_printed.named("failed"):
            assert _section(run.lines, f"{check}[{name}]", rule="_") == failing(as_printed, check, WIDE)
        report = golden.scrub(json.dumps(each, indent=1, ensure_ascii=False))
        result, stem = AuditResult.from_dict(json.loads(report.replace("<measured>", "0.55"))), name.replace(".", "-")
        parts = [("", shown(result, 80)), ("with -v", shown(result, 80, verbose=True))]
        parts += [(f"{check}[{name}]", failing(result, check, 80)) for check in result.named("failed")]
        if result.faults:
            parts.append(("faults", [*render_score(result.faults)]))
        found[f"{folder}/{stem}.txt"] = "\n".join(
            line for title, lines in parts for line in [*([f"--- {title}"] if title else []), *lines]
        )
        found[f"{folder}/{stem}.json"] = report
    return found


def failing(result: AuditResult, check: str, width: int) -> list[str]:
    return [each.text for each in failure(result, check, View(width))]


def _section(lines: list[str], heading: str, rule: str = "=") -> list[str]:
    """Return the lines below a heading between rules, to the next."""
    start = next(n for n, line in enumerate(lines) if line.startswith(rule) and line.strip(f"{rule} ") == heading)
    end = next(n for n in range(start + 1, len(lines)) if re.match(r"={5}|_{5}|-{5}|LoRA report", lines[n]))
    return lines[start + 1 : end]


@pytest.fixture
def scrubbed(golden: Golden, pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """Compare with golden files that hold no path of this run."""
    base = re.escape(str(tmp_path_factory.getbasetemp()))
    golden.scrubs |= {
        re.escape(str(pytester.path)): "<project>",
        rf"{base}/[\w-]+": "<tmp>",
        r"(?<=\"seconds\": )[\d.]+": "<measured>",
        r"\b\d{4,}(?= bytes)": "<size>",  # Of a file: it depends on who wrote it.
    }
    return golden


def test_the_file_alone(audit: Audit, adapter: Path, replica: Callable[..., Path], scrubbed: Golden) -> None:
    lightning = replica(layout="lightning")
    unreadable = Path("unreadable.ckpt").resolve()
    unreadable.write_bytes(lightning.read_bytes()[:-500])
    found = outputs(run_on(audit, [adapter, lightning, replica(layout="safetensors"), unreadable]), "file", scrubbed)
    assert sum(name.endswith(".txt") for name in found) == 4
    scrubbed.check(found)


def test_compared_by_names(audit: Audit, project: Project, compared: list[Path], scrubbed: Golden) -> None:
    project(conftest=CONFTEST.format(model="MODEL", loader=None, base=None, inputs=None))
    found = outputs(run_on(audit, compared), "compared", scrubbed)
    verdicts = {name: json.loads(text)["verdict"] for name, text in found.items() if name.endswith(".json")}
    assert verdicts == {
        "compared/healthy-pt.json": "loads",
        "compared/remapped-pt.json": "loads-after-remap",
        "compared/partial-pt.json": "partial",
        "compared/noop-pt.json": "noop",
        "compared/incompatible-pt.json": "incompatible",
    }
    scrubbed.check(found)


def test_with_a_loader(audit: Audit, project: Project, adapter: Path, tmp_path: Path, scrubbed: Golden) -> None:
    inputs = "{'input_ids': torch.tensor([[1, 2, 3]])}"
    project(conftest="import torch\n" + CONFTEST.format(
        model=None, loader="loaded", base="loading_world.llama()", inputs=inputs,
    ))  # fmt: skip
    found = outputs(run_on(audit, list(adapters(adapter, tmp_path))), "loader", scrubbed)
    assert sum(name.endswith(".txt") for name in found) == len(LOADED)
    scrubbed.check(found)


@pytest.mark.usefixtures("toy_project")
def test_a_score_of_faults(audit: Audit, project: Project, toy_checkpoint: Path, scrubbed: Golden) -> None:
    project(
        conftest="import pytest, toy\n@pytest.fixture\ndef lora_inputs(): return toy.INPUTS\n",
        my_loading="import torch, toy\n"
        "def load(path):\n"
        "    torch.manual_seed(0)\n"
        "    model = toy.Toy()\n"
        "    model.load_state_dict(torch.load(path, weights_only=True), strict=False)\n"
        "    return model\n",
    )
    faults = "--lora-faults=wrapper-prefix,nan,truncated,lora-b-zero,one-lora-b-missing,dtype-changed"
    found = outputs(run_on(audit, [toy_checkpoint], "--lora-loader=my_loading:load", faults), "faults", scrubbed)
    scrubbed.check(found)


@pytest.mark.parametrize(
    "option", ["--lora-stage=pretrain", "--lora-model=project.model", "--lora-report=a.pdf", "--lora-min-ratio=2"]
)
def test_a_wrong_option(audit: Audit, scrubbed: Golden, option: str) -> None:
    run = audit("--lora-ckpt=a.pt", option, verbose=False, report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    name = option.removeprefix("--lora-").partition("=")[0]
    scrubbed.check({f"options/{name}.txt": "\n".join(line for line in run.lines if line.startswith("ERROR"))})


def test_a_difference_is_shown_and_the_actual_output_saved(golden: Golden) -> None:
    golden.update = False
    with pytest.raises(pytest.fail.Exception) as failure:
        golden.check({"options/stage.txt": "other 0.12345"})
    saved = golden.actual / "options/stage.txt"
    assert saved.read_text("utf-8") == "other <measured>\n"
    for words in ("\n+other <measured>", "\n-ERROR: --lora-stage", str(saved), "--update-golden"):
        assert words in str(failure.value)
