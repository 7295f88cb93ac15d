"""`--lora-manifest`, the manifest that lies beside a checkpoint, and the one that stands in for a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]

LOADER = "--lora-loader=pytest_lora_ckpt.replicas:PanoramaVLM.from_checkpoint"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the manifest that the callback wrote beside it."""
    from pytest_lora_ckpt import LoraManifestCallback
    from pytest_lora_ckpt.replicas import replica_checkpoint

    return replica_checkpoint(
        "replica:finetune", tmp_path_factory.mktemp("trained"), callbacks=[LoraManifestCallback()]
    )


@pytest.fixture
def moved(trained: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The checkpoint alone, and the manifest elsewhere."""
    (tmp_path / "runs").mkdir()
    path = Path(shutil.copy(trained, tmp_path / "runs"))
    manifest = Path(shutil.copy(trained.parent / "lora_manifest.json", tmp_path))
    return path, manifest


@pytest.mark.parametrize("loader", [(), (LOADER,)], ids=["file alone", "with a loader"])
def test_the_one_beside_is_found(audit: Audit, trained: Path, loader: tuple[str, ...]) -> None:
    run = audit(f"--lora-ckpt={trained}", *loader)
    assert run.ret == pytest.ExitCode.OK
    assert run.checks["manifest"] == "passed"
    assert "All 173 tensors match the manifest, in the file" in run.summary("manifest")
    # It names the keys and shapes of the model as well, where nothing else does.
    assert run.checks["keys"] == "passed"
    if loader:
        assert "in the file and in the loaded model." in run.summary("manifest")
        assert "by the digests of the manifest" in run.summary("base-untouched")


def test_base_weights_that_were_exchanged(audit: Audit, pytester: pytest.Pytester, trained: Path) -> None:
    pytester.makepyfile(
        my_loading="""
        from pytest_lora_ckpt.replicas import PanoramaVLM
        def load(path):
            model = PanoramaVLM.from_checkpoint(path)
            first, second = (layer.mlp.up_proj.base_layer.weight.data for layer in
                             model.language_model.base_model.model.model.layers)
            kept = first.clone()
            first.copy_(second)
            second.copy_(kept)
            return model
        """
    )
    run = audit(f"--lora-ckpt={trained}", "--lora-loader=my_loading:load")
    assert run.named("failed") == {"loaded", "base-untouched", "manifest"}
    assert "exchanged-tensors" in run.causes


def test_the_one_that_is_named(audit: Audit, moved: tuple[Path, Path]) -> None:
    path, manifest = moved
    assert audit(f"--lora-ckpt={path}").checks["manifest"] == "skipped"
    assert audit(f"--lora-ckpt={path}", f"--lora-manifest={manifest}").checks["manifest"] == "passed"
    assert audit(f"--lora-ckpt={path}", f"--lora-manifest={manifest.parent}").checks["manifest"] == "passed"


def test_another_run(audit: Audit, moved: tuple[Path, Path], replica: Callable[..., Path]) -> None:
    run = audit(f"--lora-ckpt={replica(seed=3)}", f"--lora-manifest={moved[1]}")
    assert run.named("failed") == {"manifest"}
    assert run.causes >= {"other-step", "other-base"}


def test_a_manifest_stands_in_for_the_model(
    audit: Audit, moved: tuple[Path, Path], replica: Callable[..., Path]
) -> None:
    path, manifest = moved
    run = audit(f"--lora-ckpt={path}", f"--lora-model={manifest}")
    assert run.checks["keys"] == run.checks["ratio"] == "passed"
    # Another checkpoint of the same shapes is fine too: names and shapes are all that is held against it.
    assert audit(f"--lora-ckpt={replica(seed=3)}", f"--lora-model={manifest}").checks["keys"] == "passed"
    assert audit(f"--lora-ckpt={replica(rank=2)}", f"--lora-model={manifest}").checks["keys"] == "failed"
    faulty = audit(f"--lora-ckpt={replica(fault='one-lora-b-missing')}", f"--lora-model={manifest}")
    assert faulty.named("failed") >= {"keys", "lora-complete"}


def test_a_relative_path_in_the_ini_file(audit: Audit, pytester: pytest.Pytester, moved: tuple[Path, Path]) -> None:
    path, manifest = moved
    shutil.copy(manifest, pytester.path / "golden.json")
    pytester.makeini("[pytest]\nlora_model = golden.json\n")
    assert audit(f"--lora-ckpt={path}").checks["keys"] == "passed"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--lora-manifest=none.json", "--lora-manifest=none.json (from: command line): there is no such file"),
        ("--lora-model=none.json", "--lora-model=none.json (from: command line): there is no such manifest"),
        ("--lora-model=other.json", "schema 1"),
    ],
)
def test_what_cannot_be_used_is_told_at_once(
    audit: Audit, pytester: pytest.Pytester, moved: tuple[Path, Path], option: str, sentence: str
) -> None:
    data = json.loads(moved[1].read_text("utf-8"))
    (pytester.path / "other.json").write_text(json.dumps({**data, "schema": 2}), "utf-8")
    run = audit(f"--lora-ckpt={moved[0]}", option, report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in run.text
    assert not run.outcomes


def test_a_broken_one_fails_the_check_and_says_why(audit: Audit, moved: tuple[Path, Path]) -> None:
    path, manifest = moved
    manifest.write_text(manifest.read_text("utf-8")[:-100], "utf-8")
    run = audit(f"--lora-ckpt={path}", f"--lora-manifest={manifest}", LOADER)
    assert run.checks["manifest"] == "failed"
    assert "manifest-unreadable" in run.causes
    assert "cannot use manifest" in run.summary("manifest")
    assert run.checks["loaded"] == "passed"
