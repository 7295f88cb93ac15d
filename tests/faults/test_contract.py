"""What holds of every fault: its facts, where it applies, what it leaves alone, what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt import CheckpointError, open_checkpoint
from pytest_lora_ckpt.faults import FAULTS, Fault, NotApplicable, faults_for
from pytest_lora_ckpt.faults import _gather as gather
from tests.helpers.fault_samples import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

LAYOUTS = {"lightning", "torch", "safetensors", "peft_adapter", "transformers"}


def test_names_are_slugs_and_there_are_many() -> None:
    assert len(FAULTS) >= 90
    for name, fault in FAULTS.items():
        assert fault.name == name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_tells_its_story(fault: Fault) -> None:
    assert len(fault.story) > 40
    assert "\n" not in fault.story
    assert fault.layouts
    assert fault.layouts <= LAYOUTS
    assert fault.seen in {"file", "model", "value", "manifest"}
    assert not fault.reference or fault.reference.startswith("https://github.com/")


def test_stories_differ() -> None:
    assert len({fault.story for fault in FAULTS.values()}) == len(FAULTS)


def test_every_layout_and_every_way_of_seeing_is_there() -> None:
    assert {layout for fault in FAULTS.values() for layout in fault.layouts} == LAYOUTS
    assert {fault.seen for fault in FAULTS.values()} == {"file", "model", "value", "manifest"}


def test_names_and_stories_need_no_torch() -> None:
    code = (
        "import sys\nfrom pytest_lora_ckpt.faults import FAULTS\n"
        "print(len(FAULTS), sorted({'torch', 'numpy', 'safetensors', 'peft'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split(maxsplit=1) == [str(len(FAULTS)), "[]\n"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_reaches_every_layout_that_it_claims_and_no_other(
    name: str, reach: Callable[[str], dict[str, list[str]]]
) -> None:
    assert set(reach(name)) == FAULTS[name].layouts


def test_faults_for_writes_nothing_and_keeps_the_order(samples: dict[str, Path]) -> None:
    path = samples["torch"]
    before = snapshot(path.parent)
    found = [fault.name for fault in faults_for(path)]
    assert found == [name for name in FAULTS if name in found]
    assert snapshot(path.parent) == before


def test_a_checkpoint_without_lora_has_faults_of_its_own(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2, 3), "b.weight": torch.ones(3, 2)}, tmp_path / "plain.pt")
    found = {fault.name for fault in faults_for(tmp_path / "plain.pt")}
    assert {"truncated", "wrapper-prefix", "last-shard-missing"} <= found
    assert not found & {"nan", "one-lora-b-missing", "alpha-changed", "merged-twice", "bit-flip-in-zip"}


LORA_FAULTS = ("nan", "lora-b-zero", "one-lora-b-missing", "size-0", "layers-exchanged", "rank-halved", "no-lora")


@pytest.mark.parametrize("name", LORA_FAULTS)
def test_where_there_is_no_lora_a_lora_fault_says_so(name: str, tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2, 3)}, tmp_path / "plain.pt")
    with pytest.raises(NotApplicable, match=r"plain\.pt holds no LoRA"):
        FAULTS[name].inject(tmp_path / "plain.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


REFUSALS = [
    ("nan", "torch-apart", "holds no LoRA"),
    ("alpha-changed", "torch", r"not applicable to torch checkpoints \(applies to: peft_adapter\)"),
    ("no-lora", "torch-beside", r"lora_weights/ next to it"),
    ("dora-lost", "torch", "no DoRA"),
    ("dora-flag-lost", "peft_adapter", "no use_dora"),
    ("dora-flag-added", "peft_adapter-rich", "use_dora already"),
    ("rank-pattern-lost", "peft_adapter", "no rank_pattern"),
    ("biases-missing", "peft_adapter", "bias 'none'"),
    ("modules-to-save-missing", "peft_adapter", "modules_to_save"),
    ("projector-missing", "lightning-trained", "only what was trained"),
    ("projector-missing", "torch-language", "projector"),
    ("trained-projector-missing", "lightning", "base weights too"),
    ("merged-twice", "lightning-trained", "none of the weights that its LoRA adapts"),
    ("outer-prefix-lost", "torch", "no common prefix"),
    ("tied-weights-differ", "torch-language", "no head"),
    ("aliases-disagree", "torch-language", "two names"),
    ("bit-flip", "torch", "checksums"),
    ("bit-flip-in-zip", "torch-legacy", "not a zip archive"),
    ("duplicate-name", "peft_adapter-bin", "no name occurs twice"),
    ("zero-tail", "peft_adapter-bin", "index at the end"),
    ("stale-directory", "torch", "lora_weights/"),
    ("stale-directory", "torch-apart", "no LoRA"),
    ("directory-missing", "torch-beside", "holds LoRA itself"),
    ("directory-without-config", "lightning", "lora_weights/"),
]


@pytest.mark.parametrize(("name", "sample", "reason"), REFUSALS)
def test_a_fault_that_finds_nothing_says_why(
    name: str, sample: str, reason: str, samples: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(NotApplicable, match=reason):
        FAULTS[name].inject(samples[sample], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scaling_of_one_cannot_be_folded_in(samples: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(samples["peft_adapter"], tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 4, "r": 4}))
    with pytest.raises(NotApplicable, match="changes nothing"):
        FAULTS["scale-folded"].inject(tmp_path / "adapter", tmp_path / "out")


def test_a_fault_that_would_change_nothing_does_not_apply(samples: dict[str, Path], tmp_path: Path) -> None:
    idle = replace(FAULTS["nan"], name="idle", damage=lambda draft: None)
    with pytest.raises(NotApplicable, match="nothing that idle would change"):
        idle.inject(samples["torch"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_out_dir_must_be_empty_or_absent(samples: dict[str, Path], tmp_path: Path) -> None:
    path = samples["torch"]
    (tmp_path / "empty").mkdir()
    assert FAULTS["nan"].inject(path, tmp_path / "empty") == tmp_path / "empty" / path.name
    assert FAULTS["nan"].inject(path, tmp_path / "new" / "deep") == tmp_path / "new" / "deep" / path.name
    for taken in (tmp_path, path):
        with pytest.raises(FileExistsError, match="must be empty or absent"):
            FAULTS["nan"].inject(path, taken)


def test_out_dir_must_not_lie_in_the_adapter(samples: dict[str, Path]) -> None:
    path = samples["peft_adapter"]
    before = snapshot(path)
    with pytest.raises(ValueError, match="must not lie within the checkpoint"):
        FAULTS["nan"].inject(path, path / "damaged")
    assert snapshot(path) == before


def test_the_weights_file_of_an_adapter_gives_a_weights_file(samples: dict[str, Path], tmp_path: Path) -> None:
    original = samples["peft_adapter"] / "adapter_model.safetensors"
    damaged = FAULTS["alpha-changed"].inject(original, tmp_path)
    assert damaged == tmp_path / "run-7" / original.name
    assert open_checkpoint(damaged).adapter_config["lora_alpha"] == 1  # type: ignore[index]


def test_a_file_that_cannot_be_read_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "broken.ckpt").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError):
        FAULTS["nan"].inject(tmp_path / "broken.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Settings:
    """Stands for a project's own class in `hyper_parameters`."""


def test_what_only_code_could_load_is_not_loaded(samples: dict[str, Path], tmp_path: Path) -> None:
    contents = torch.load(samples["lightning"], weights_only=True)
    contents["hyper_parameters"]["settings"] = Settings()
    path = tmp_path / "own" / "classes.ckpt"
    path.parent.mkdir()
    torch.save(contents, path)
    with pytest.raises(NotApplicable, match="only by running code from the file"):
        FAULTS["nan"].inject(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # Bytes can be damaged all the same.
    damaged = FAULTS["bit-flip-in-zip"].inject(path, tmp_path / "out")
    assert damaged.stat().st_size == path.stat().st_size


def test_what_was_half_written_is_removed(
    samples: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "there", tmp_path / "absent"):
        with pytest.raises(OSError, match="No space left"):
            FAULTS["nan"].inject(samples["torch-beside"], out)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not [*(tmp_path / "there").iterdir()]


def test_no_two_faults_have_one_name() -> None:
    again, other = SimpleNamespace(nan=FAULTS["nan"]), SimpleNamespace(nan=replace(FAULTS["nan"], story="Another."))
    assert gather([again, again]) == {"nan": FAULTS["nan"]}
    with pytest.raises(ValueError, match="two faults are called 'nan'"):
        gather([again, other])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_for_what_changes_and_no_more(tmp_path: Path) -> None:
    base = {f"m.layers.{n}.q_proj.base_layer.weight": torch.zeros(1024, 1024) for n in range(16)}  # 64 MB
    lora = {f"m.layers.{n}.q_proj.lora_{f}.default.weight": torch.ones(4, 4) for n in range(16) for f in "AB"}
    from safetensors.torch import save_file

    torch.save({**base, **lora}, tmp_path / "big.pt")
    save_file({**base, **lora}, tmp_path / "big.safetensors")
    run = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert all(int(grown) < 32_000 for grown in run.stdout.split()), f"kB: {run.stdout}"
    assert len(run.stdout.split()) == 2


# Anonymous memory alone: the pages of the maps are the system's to drop.
MEASURE = """
import sys, threading, torch, safetensors.torch
from pytest_lora_ckpt.faults import FAULTS
def anonymous():
    text = open("/proc/self/status").read()
    return int(text.split("RssAnon:")[1].split()[0])
def grown(name):
    start, seen, done = anonymous(), [], threading.Event()
    def watch():
        while not done.is_set():
            seen.append(anonymous())
    watcher = threading.Thread(target=watch)
    watcher.start()
    FAULTS["nan"].inject(f"{sys.argv[1]}/{name}", f"{sys.argv[1]}/{name}-damaged")
    done.set()
    watcher.join()
    return max(seen) - start
print(grown("big.pt"), grown("big.safetensors"))
"""
