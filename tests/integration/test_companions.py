"""Trained weights that lie elsewhere, named by an option, an ini file or a fixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.helpers import projector_world as world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]

FORGET = "--lora-loader=tests.helpers.projector_world:forget"


@pytest.fixture
def apart(tmp_path: Path) -> tuple[Path, Path]:
    """An adapter, and its projector in another directory."""
    adapter = world.save(world.trained(), tmp_path / "adapter")
    return adapter, (adapter / world.REST).rename(tmp_path / "projector.bin")


@pytest.mark.parametrize("way", ["option", "ini", "fixture"])
def test_a_named_companion_is_part_of_the_checkpoint(
    way: str, audit: Audit, pytester: pytest.Pytester, apart: tuple[Path, Path]
) -> None:
    adapter, projector = apart
    args = [f"--lora-companion={projector}"] if way == "option" else []
    if way == "ini":
        pytester.makeini(f"[pytest]\nlora_companion =\n    {projector}\n")
    if way == "fixture":
        fixture = f"@pytest.fixture(scope='session')\ndef lora_companions():\n    return [{str(projector)!r}]\n"
        pytester.makeconftest(f"import pytest\n\n{fixture}")
    run = audit(f"--lora-ckpt={adapter}", FORGET, *args)
    assert run.checks["loaded"] == "failed"
    assert "of projector.bin are not in the loaded model" in run.text
    assert "with it: projector.bin, 2 keys, 224 B" in run.text


LOADER = "--lora-loader=tests.helpers.projector_world:load_with_projector_above"


@pytest.mark.parametrize("way", ["option", "fixture"])
def test_its_faults_are_scored_too(way: str, audit: Audit, pytester: pytest.Pytester, apart: tuple[Path, Path]) -> None:
    adapter, projector = apart
    args = [f"--lora-companion={projector}"] if way == "option" else []
    fixture = f"@pytest.fixture(scope='session')\ndef lora_companions():\n    return [{str(projector)!r}]\n"
    pytester.makeconftest(f"import pytest\n\n{fixture if way == 'fixture' else ''}")
    pytester.makepyfile(
        """
        import pytest
        from pytest_lora_ckpt import assert_loader_notices

        def test_notices(loader_fault, lora_loader):
            assert loader_fault.name == "companion-emptied"
            with pytest.raises(AssertionError, match="does not notice 1 of 1 faults"):
                assert_loader_notices(lora_loader, loader_fault)
        """
    )
    run = audit(f"--lora-ckpt={adapter}", LOADER, "--lora-faults=companion-emptied", *args)
    assert run.checks["faults"] == "passed"
    assert "The checks of --lora-ckpt catch 1 of 1 (100%)." in run.text
    assert list(run.tests.values()) == ["passed"]


def test_a_companion_that_does_not_exist_ends_the_run(audit: Audit, apart: tuple[Path, Path]) -> None:
    run = audit(f"--lora-ckpt={apart[0]}", "--lora-companion=nowhere.bin", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "--lora-companion=nowhere.bin (from: command line): there is no such file or directory." in run.text
