"""`--lora-loader=NAME`, `--lora-base` and `--lora-model=auto` in a project without a line of code."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import audit as audit_here
from pytest_lora_ckpt.scoring import score_loader
from tests.helpers.families import configured, llama

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and an adapter whose config names none."""
    folder = tmp_path_factory.mktemp("family")
    llama()(folder)
    configured(folder, base_model_name_or_path=None)
    return folder


def test_a_library_proves_an_adapter(audit: Audit, family: Path) -> None:
    run = audit(f"--lora-ckpt={family / 'adapter'}", "--lora-loader=peft", f"--lora-base={family / 'base'}")
    assert run.ret == pytest.ExitCode.OK
    assert {"keys", "loaded", "base-untouched", "adapter-active", "generate"} <= run.named("passed")


def test_both_may_stand_in_the_ini_file(audit: Audit, pytester: pytest.Pytester, family: Path) -> None:
    shutil.copytree(family, pytester.path / "models")
    pytester.makeini("[pytest]\nlora_loader = transformers\nlora_base = models/base\n")
    run = audit(f"--lora-ckpt={family / 'adapter'}")
    assert {"loaded", "base-untouched"} <= run.named("passed")


@pytest.mark.parametrize("option", ["--lora-model=auto", "--lora-model={base}"])
def test_the_config_alone_is_compared(audit: Audit, family: Path, option: str) -> None:
    given = [] if "base" in option else [f"--lora-base={family / 'base'}"]
    run = audit(f"--lora-ckpt={family / 'adapter'}", option.format(base=family / "base"), *given)
    assert run.ret == pytest.ExitCode.OK
    assert "keys" in run.named("passed")
    assert "model-by-config" in run.causes


def test_without_a_base_model_one_line_says_what_to_give(audit: Audit, family: Path) -> None:
    run = audit(f"--lora-ckpt={family / 'adapter'}")
    assert run.ret == pytest.ExitCode.OK
    assert run.run["verdict"] == "not-compared"
    assert "--lora-base=PATH_OR_ID" in run.text


def test_a_base_model_that_is_not_to_be_had_is_one_failure(audit: Audit, family: Path) -> None:
    run = audit(f"--lora-ckpt={family / 'adapter'}", "--lora-loader=peft")
    assert run.named("failed") == {"keys"}
    assert "Traceback" not in run.text
    assert "names no base model" in run.text


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--lora-loader=pefft", "Or a library: peft, transformers, diffusers, sentence-transformers, lightning."),
        ("--lora-loader=lightning", "lightning:my_project.model.LitModel"),
        ("--lora-loader=lightning:no.such.Module", "cannot import no.such"),
        ("--lora-base=no/such/directory", "no such directory"),
    ],
)
def test_what_is_not_known_ends_the_run(audit: Audit, family: Path, option: str, says: str) -> None:
    run = audit(f"--lora-ckpt={family / 'adapter'}", option)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert says in " ".join(run.text.split())


def test_a_library_that_is_missing_is_named(audit: Audit, family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_lora_ckpt.stacks.diffusers_pipeline.NEEDS", "no-such-library")
    run = audit(f"--lora-ckpt={family / 'adapter'}", "--lora-loader=diffusers")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "pip install no-such-library" in run.text


def test_audit_takes_the_same_names(family: Path) -> None:
    result = audit_here(family / "adapter", loader="peft", model="auto", base=family / "base")
    assert "loaded" in result.named("passed")
    with pytest.raises(ValueError, match="the libraries are peft, transformers"):
        audit_here(family / "adapter", loader="pefft")
    with pytest.raises(ValueError, match="neither a model nor 'auto'"):
        audit_here(family / "adapter", model="llama")  # type: ignore[arg-type]


def test_a_library_is_scored_like_any_loader(family: Path, tmp_path: Path) -> None:
    """The copies are damaged elsewhere; the base model is still the one near the original."""
    shutil.copytree(family, tmp_path / "run")
    configured(tmp_path / "run", base_model_name_or_path=str(tmp_path / "run" / "base"))
    from pytest_lora_ckpt.stacks import named_loader

    loader = named_loader("peft", original=tmp_path / "run" / "adapter")
    score = score_loader(loader, tmp_path / "run" / "adapter", faults=["lora-b-zero", "truncated"])
    assert score.loader == "peft"
    assert score.counted
