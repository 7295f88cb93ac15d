"""Faults of the config, of the bytes and of what lies beside: what they change, and that they change nothing else."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import CheckpointError, open_checkpoint
from pytest_lora_ckpt.faults import FAULTS
from tests.helpers.fault_expectations import EXPECTED
from tests.helpers.fault_samples import diff, read, snapshot, weights_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Reach = Callable[[str], dict[str, list[str]]]

# Fault -> the field, and what it must be then, given what it was.
CONFIG: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "alpha-changed": ("lora_alpha", lambda was: was / 8),
    "alpha-pattern-lost": ("alpha_pattern", lambda _: {}),
    "rslora-changed": ("use_rslora", lambda was: not was),
    "other-base-name": ("base_model_name_or_path", "{}-instruct".format),
    "dora-flag-lost": ("use_dora", lambda _: False),
    "dora-flag-added": ("use_dora", lambda _: True),
    "rank-in-config": ("r", lambda was: was * 2),
    "rank-pattern-lost": ("rank_pattern", lambda _: {}),
    "targets-narrowed": ("target_modules", list),
    "targets-widened": ("target_modules", lambda was: [*was, "lm_head"]),
    "layers-narrowed": ("layers_to_transform", lambda _: [0]),
    "modules-to-save-not-in-config": ("modules_to_save", lambda _: None),
    "modules-to-save-added": ("modules_to_save", lambda was: [*was, "score"] if was else ["lm_head"]),
    "bias-flag-lost": ("bias", lambda _: "none"),
    "peft-type-changed": ("peft_type", lambda _: "LOHA"),
}

# Fault -> why it cannot be opened, by `CheckpointError.problem`.
UNREADABLE = {
    "no-tensors": {"empty"},
    "truncated": {"truncated", "damaged"},
    "empty-file": {"empty-file"},
    "trailing-bytes": {"damaged"},
    "lfs-pointer": {"git-lfs-pointer"},
    "web-page": {"web-page"},
    "config-missing": {"no-config"},
    "config-truncated": {"broken-config"},
}

BESIDE = {
    "stale-twin",
    "stale-directory",
    "directory-of-another-run",
    "directory-missing",
    "directory-without-weights",
    "directory-without-config",
    "companion-dropped",
    "companion-of-another-run",
    "companion-truncated",
    "companion-prefixed",
    "companion-emptied",
}


def test_every_fault_is_tested() -> None:
    assert {*EXPECTED, *CONFIG, *UNREADABLE, *BESIDE, "zero-tail", "duplicate-name"} == set(FAULTS)


@pytest.mark.parametrize("name", CONFIG)
def test_a_config_fault_changes_one_field(name: str, samples: dict[str, Path], reach: Reach, tmp_path: Path) -> None:
    what, then = CONFIG[name]
    for sample in reach(name)["peft_adapter"]:
        original = samples[sample]
        damaged = FAULTS[name].inject(original, tmp_path / sample)
        found = diff(original, damaged)
        assert set(found.config) == {what}
        was, now = found.config[what]
        if name == "targets-narrowed":
            assert len(now) == len(was) - 1
            assert set(now) < set(was)
        else:
            assert now == then(was)
        assert weights_of(damaged).read_bytes() == weights_of(original).read_bytes()
        assert not found.files


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_is_no_checkpoint_any_more(
    name: str, samples: dict[str, Path], reach: Reach, tmp_path: Path
) -> None:
    for names in reach(name).values():
        for sample in names[:1]:
            original = samples[sample]
            untouched = snapshot(original.parent)
            damaged = FAULTS[name].inject(original, tmp_path / sample)
            assert snapshot(original.parent) == untouched
            assert not diff(original, damaged, read_weights=False).files
            with pytest.raises(CheckpointError) as caught:
                open_checkpoint(damaged)
            assert caught.value.problem in UNREADABLE[name]


def test_what_is_cut_off_and_appended(samples: dict[str, Path], tmp_path: Path) -> None:
    for sample in ("safetensors", "torch", "lightning", "torch-legacy", "peft_adapter"):
        original = weights_of(samples[sample]).read_bytes()

        def damaged(name: str, sample: str = sample) -> bytes:
            return weights_of(FAULTS[name].inject(samples[sample], tmp_path / sample / name)).read_bytes()

        assert damaged("truncated") == original[: len(original) * 2 // 3]
        assert damaged("empty-file") == b""
        assert f"size {len(original)}\n".encode() in damaged("lfs-pointer")
        if "torch" not in sample and sample != "lightning":
            assert damaged("trailing-bytes") == original + original[:1024]


@pytest.mark.parametrize("sample", ["safetensors", "peft_adapter", "peft_adapter-rich"])
def test_a_tail_of_zeros_keeps_the_length(sample: str, samples: dict[str, Path], tmp_path: Path) -> None:
    original = samples[sample]
    damaged = FAULTS["zero-tail"].inject(original, tmp_path)
    before, after = (weights_of(path).read_bytes() for path in (original, damaged))
    assert len(before) == len(after)
    cut = next(at for at in range(len(before)) if before[at] != after[at])
    assert not any(after[cut:])
    found = diff(original, damaged)
    assert any("lora_" in key for key in found.changed)
    assert not found.lost
    assert not found.files


@pytest.mark.parametrize("sample", ["safetensors", "peft_adapter"])
def test_a_name_that_is_there_twice(sample: str, samples: dict[str, Path], tmp_path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    original = samples[sample]
    damaged = FAULTS["duplicate-name"].inject(original, tmp_path)
    healthy = read(weights_of(original))[0]
    content = weights_of(damaged).read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length], object_pairs_hook=list)
    names = [name for name, _ in entries if name != "__metadata__"]
    assert set(names) == set(healthy)
    (twice,) = {name for name in names if names.count(name) > 1}
    assert "lora_B" in twice
    values = []
    for name, fields in entries:
        if name != "__metadata__":
            begin, end = (8 + length + at for at in dict(fields)["data_offsets"])
            values += [content[begin:end]] if name == twice else []
            assert name == twice or content[begin:end] == healthy[name].numpy().tobytes()
    assert values[0] == healthy[twice].numpy().tobytes()
    assert len(values) == 2
    assert values[0] != values[1]
    # The library finds the bytes of the first one unaccounted for.
    with pytest.raises(SafetensorError, match="invalid offset"):
        safe_open(weights_of(damaged), "pt")


@pytest.mark.parametrize("name", ["bit-flip", "bit-flip-in-zip"])
def test_one_bit_differs(name: str, samples: dict[str, Path], reach: Reach, tmp_path: Path) -> None:
    for names in reach(name).values():
        original = samples[names[0]]
        damaged = FAULTS[name].inject(original, tmp_path / names[0])
        before, after = (weights_of(path).read_bytes() for path in (original, damaged))
        differing = [one ^ other for one, other in zip(before, after, strict=True) if one != other]
        assert differing == [0x80]


def test_the_checksum_of_the_zip_tells(samples: dict[str, Path], tmp_path: Path) -> None:
    assert zipfile.ZipFile(samples["torch"]).testzip() is None
    damaged = FAULTS["bit-flip-in-zip"].inject(samples["torch"], tmp_path)
    assert zipfile.ZipFile(damaged).testzip()
    torch.load(damaged, weights_only=True)  # It does not look.


@pytest.mark.parametrize("sample", ["peft_adapter", "peft_adapter-bin", "peft_adapter-rich"])
def test_a_stale_twin(sample: str, samples: dict[str, Path], tmp_path: Path) -> None:
    from peft.utils.save_and_load import load_peft_weights

    original = samples[sample]
    damaged = FAULTS["stale-twin"].inject(original, tmp_path)
    good = read(damaged / "adapter_model.bin")[0]
    stale = load_peft_weights(str(damaged), device="cpu")
    healthy = read(weights_of(original))[0]
    assert set(stale) == set(good) == set(healthy)
    assert all(torch.equal(good[key], healthy[key]) for key in healthy)
    assert not any(torch.equal(stale[key], healthy[key]) for key in healthy if "lora_" in key)
    names = {path.name for path in original.iterdir()}
    assert {path.name for path in damaged.iterdir()} == names | {"adapter_model.bin", "adapter_model.safetensors"}


@pytest.mark.parametrize("layout", ["lightning", "torch"])
@pytest.mark.parametrize(("name", "end"), [("stale-directory", "beside"), ("directory-of-another-run", "apart")])
def test_a_directory_of_another_run(layout: str, name: str, end: str, samples: dict[str, Path], tmp_path: Path) -> None:
    original = samples[f"{layout}-{end}"]
    damaged = FAULTS[name].inject(original, tmp_path)
    assert diff(original, damaged).files == {"lora_weights/adapter_model.safetensors"}
    assert damaged.read_bytes() == original.read_bytes()
    found = diff(original.parent / "lora_weights", damaged.parent / "lora_weights")
    assert set(found.changed) == set(read(weights_of(original.parent / "lora_weights"))[0])
    assert not found.lost
    assert not found.config


@pytest.mark.parametrize("layout", ["lightning", "torch"])
@pytest.mark.parametrize(
    ("name", "end", "gone"),
    [
        ("directory-missing", "apart", ["adapter_config.json", "adapter_model.safetensors", "README.md"]),
        ("directory-without-weights", "beside", ["adapter_model.safetensors"]),
        ("directory-without-config", "beside", ["adapter_config.json"]),
    ],
)
def test_a_directory_that_is_not_whole(  # noqa: PLR0913, PLR0917
    layout: str, name: str, end: str, gone: list[str], samples: dict[str, Path], tmp_path: Path
) -> None:
    original = samples[f"{layout}-{end}"]
    damaged = FAULTS[name].inject(original, tmp_path)
    assert diff(original, damaged).files == {f"lora_weights/{file}" for file in gone}
    assert damaged.read_bytes() == original.read_bytes()


def test_what_lies_beside_comes_along(samples: dict[str, Path], tmp_path: Path) -> None:
    damaged = FAULTS["nan"].inject(samples["lightning-beside"], tmp_path / "file")
    assert (damaged.parent / "lora_manifest.json").read_text() == "{}"
    assert json.loads((damaged.parent / "lora_weights" / "adapter_config.json").read_text())["r"] == 4
    assert not diff(samples["lightning-beside"], damaged).files
    damaged = FAULTS["nan"].inject(samples["peft_adapter"], tmp_path / "adapter")
    assert (damaged / "README.md").is_file()


def test_the_manifest_of_one_file_comes_along(samples: dict[str, Path], tmp_path: Path) -> None:
    original = tmp_path / "run" / "last.pt"
    original.parent.mkdir()
    original.write_bytes(samples["torch"].read_bytes())
    (original.parent / "last.lora_manifest.json").write_text("{}")
    (original.parent / "other.pt").write_bytes(b"large")
    FAULTS["truncated"].inject(original, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"last.pt", "last.lora_manifest.json"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_leads_elsewhere_is_not_copied(samples: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(samples["peft_adapter"], folder)
    (tmp_path / "secret.txt").write_text("not part of the checkpoint")
    (folder / "secret.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "endless.bin").symlink_to("/dev/zero")
    (folder / "round").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "gone")
    os.mkfifo(folder / "pipe")
    (folder / "notes").mkdir()
    (folder / "notes" / "own.txt").write_text("own")
    (folder / "same.txt").symlink_to(folder / "notes" / "own.txt")
    copy = FAULTS["nan"].inject(folder, tmp_path / "copy")
    assert {"notes", "same.txt"} <= {path.name for path in copy.iterdir()}
    assert not {"secret.txt", "endless.bin", "round", "gone", "pipe"} & {path.name for path in copy.iterdir()}
