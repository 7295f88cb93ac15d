"""Where the base model is found: what the user gave, what the config names, and never elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import audit, open_checkpoint
from pytest_lora_ckpt.stacks import StackError
from pytest_lora_ckpt.stacks.base import find_base
from tests.helpers.families import configured

if TYPE_CHECKING:
    from pathlib import Path


COMMIT = "0" * 40


@pytest.fixture
def adapter(families: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adapter that names the base model `base`, in a directory of its own, and a local cache of the Hub."""
    shutil.copytree(families / "plain" / "adapter", tmp_path / "runs" / "one" / "adapter")
    configured(tmp_path / "runs" / "one", base_model_name_or_path="elsewhere/base")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "runs" / "one" / "adapter"


def cached(hub: Path, name: str, base: Path, *files: str) -> Path:
    """Put files of a base model into a local cache of the Hub, as `huggingface_hub` does."""
    folder = hub / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "blobs").mkdir()
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in files or [each.name for each in base.iterdir()]:
        shutil.copy(base / file, folder / "blobs" / file)
        (snapshot / file).symlink_to(folder / "blobs" / file)
    return snapshot


def named(adapter: Path, base: object) -> Path:
    configured(adapter.parent, base_model_name_or_path=str(base))
    return adapter


@pytest.mark.slow
def test_the_one_given_goes_before_the_one_named(families: Path, adapter: Path) -> None:
    given = families / "plain" / "base"
    assert find_base(str(given), open_checkpoint(adapter)).directory == given
    assert find_base(str(given / "config.json"), open_checkpoint(adapter)).directory == given


def test_a_directory_near_the_checkpoint_is_opened(families: Path, adapter: Path) -> None:
    base = shutil.copytree(families / "plain" / "base", adapter.parent / "base")
    assert find_base(None, open_checkpoint(named(adapter, base))).directory == base


def test_a_relative_path_starts_from_the_working_directory(
    families: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(families / "plain" / "base", tmp_path / "models" / "base")
    monkeypatch.chdir(tmp_path)
    found = find_base(None, open_checkpoint(named(adapter, "models/base")))
    assert (str(found.directory), found.on_hub) == ("models/base", False)


def test_a_directory_elsewhere_is_not_opened_for_a_files_word(families: Path, adapter: Path) -> None:
    base = families / "plain" / "base"
    with pytest.raises(StackError, match="lies neither near the checkpoint nor below the working directory"):
        find_base(None, open_checkpoint(named(adapter, base)))
    result = audit(adapter)
    assert (result.verdict, result.passed) == ("not-compared", True)
    assert audit(adapter, base=base).verdict == "loads-after-remap"
    assert "base-untouched" in audit(adapter, base=base, loader="peft").named("passed")


def test_the_place_of_the_original_counts_for_a_copy(families: Path, adapter: Path, tmp_path: Path) -> None:
    base = shutil.copytree(families / "plain" / "base", adapter.parent / "base")
    copy = shutil.copytree(named(adapter, base), tmp_path / "copies" / "damaged")
    with pytest.raises(StackError):
        find_base(None, open_checkpoint(copy))
    assert find_base(None, open_checkpoint(copy), [adapter]).directory == base


def test_the_local_cache_of_the_hub_has_the_config(families: Path, adapter: Path, tmp_path: Path) -> None:
    snapshot = cached(tmp_path / "hub", "org/base", families / "plain" / "base", "config.json")
    found = find_base(None, open_checkpoint(named(adapter, "org/base")))
    assert (found.directory, found.on_hub, found.source) == (snapshot, True, "org/base")
    assert audit(adapter).verdict == "loads-after-remap"


def test_peft_takes_the_base_model_from_the_local_cache(families: Path, adapter: Path, tmp_path: Path) -> None:
    cached(tmp_path / "hub", "org/base", families / "plain" / "base")
    result = audit(named(adapter, "org/base"), loader="peft")
    assert result.named("failed") == (), result.findings
    assert {"loaded", "base-untouched"} <= {*result.named("passed")}


def test_an_id_that_is_not_in_the_cache_is_said(adapter: Path) -> None:
    assert audit(named(adapter, "org/base")).verdict == "not-compared"
    result = audit(adapter, loader="peft")
    (failure,) = (each for each in result.findings if each.cause == "loader-failed")
    assert "not in the local Hugging Face cache, and HF_HUB_OFFLINE is set" in failure.message
    assert "--lora-base=PATH" in failure.remedy


def test_a_config_that_lies_with_the_adapter_is_enough_for_names(families: Path, adapter: Path) -> None:
    shutil.copy(families / "plain" / "base" / "config.json", adapter)
    found = find_base(None, open_checkpoint(named(adapter, "/not/there")))
    assert (found.directory, found.is_named) == (adapter, False)
    result = audit(adapter)
    assert (result.verdict, result.passed) == ("loads-after-remap", True)


def test_the_config_of_a_run_serves_its_steps(families: Path, adapter: Path) -> None:
    step = shutil.copytree(named(adapter, ""), adapter.parent / "checkpoint-10")
    shutil.copy(families / "plain" / "base" / "config.json", adapter.parent)
    assert find_base(None, open_checkpoint(step)).directory == adapter.parent
    with pytest.raises(StackError, match="names no base model"):
        find_base(None, open_checkpoint(adapter))


@pytest.mark.parametrize(
    "name", ["../../etc", "org/name/more", "a\nb", "-x", "a" * 250, "a/" * 3_000, "a\0b", "a\ud83d"]
)
def test_what_is_neither_a_path_nor_an_id_is_refused(adapter: Path, name: str) -> None:
    with pytest.raises(StackError):
        find_base(None, open_checkpoint(named(adapter, name)))


def test_without_a_base_model_at_hand_nothing_heavy_is_imported(adapter: Path) -> None:
    code = (
        "import sys; from pytest_lora_ckpt import audit; "
        f"assert audit({str(adapter)!r}).verdict == 'not-compared'; "
        "print([name for name in ('torch', 'transformers', 'peft', 'huggingface_hub') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
