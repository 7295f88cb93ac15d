"""The terminal section, the failures and the JSON report of each kind of audit, word for word (`tests/golden`)."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import loading_world

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


def run_on(audit: Audit, paths: list[Path], *options: str) -> AuditRun:
    return audit(*(f"--lora-ckpt={path}" for path in paths), *options, verbose=False)


def outputs(run: AuditRun, folder: str) -> dict[str, str]:
    """Split what a run printed and wrote by checkpoint: a section with its failures, and the JSON of the run."""
    texts = {Path(each["checkpoint"]["path"]).name: each for each in run.json["runs"]}
    found = {}
    for name, report in texts.items():
        failures = [
            block
            for block in re.split(r"\n(?=_{3,} )", _section(run.lines, "FAILURES"))
            if re.match(rf"_+ [\w-]+\[{re.escape(name)}\]", block)
        ]
        summary = [line for line in run.lines if line.startswith("FAILED ") and f"[{name}]" in line]
        parts = [_section(run.lines, f"LoRA checkpoint: {name}"), *map(_unruled, failures), *summary]
        stem = name.replace(".", "-")
        found[f"{folder}/{stem}.txt"] = "\n".join(parts)
        found[f"{folder}/{stem}.json"] = json.dumps(report, indent=1, ensure_ascii=False)
    return found


def _section(lines: list[str], heading: str) -> str:
    """Return the lines below a heading `=== heading ===`, to the next."""
    start = next((n for n, line in enumerate(lines) if line.strip("= ") == heading and line.startswith("=")), None)
    if start is None:
        return ""
    end = next((n for n in range(start + 1, len(lines)) if lines[n].startswith("=====")), len(lines))
    return "\n".join(line for line in lines[start + 1 : end] if not line.startswith("LoRA report written to"))


def _unruled(block: str) -> str:
    """Shorten the rules around headings: they are as wide as the terminal."""
    return re.sub(r"_{3,}", "___", block)


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
    found = outputs(run_on(audit, [adapter, lightning, replica(layout="safetensors"), unreadable]), "file")
    assert sum(name.endswith(".txt") for name in found) == 4
    scrubbed.check(found)


def test_compared_by_names(audit: Audit, project: Project, compared: list[Path], scrubbed: Golden) -> None:
    project(conftest=CONFTEST.format(model="MODEL", loader=None, base=None, inputs=None))
    found = outputs(run_on(audit, compared), "compared")
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
    found = outputs(run_on(audit, list(adapters(adapter, tmp_path))), "loader")
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
    found = outputs(run_on(audit, [toy_checkpoint], "--lora-loader=my_loading:load", faults), "faults")
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
