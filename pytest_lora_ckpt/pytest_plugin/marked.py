"""`@pytest.mark.lora_ckpt("path")`: the checkpoint of one test, with or without `--lora-ckpt`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import option_values
from pytest_lora_ckpt.options import read_settings
from pytest_lora_ckpt.pytest_plugin import safe_reports
from pytest_lora_ckpt.pytest_plugin.ranks import Ranks
from pytest_lora_ckpt.pytest_plugin.settings import options_of, usage_errors
from pytest_lora_ckpt.pytest_plugin.sources import SOURCES, Sources, sources_of
from pytest_lora_ckpt.sources import short_names
from pytest_lora_ckpt.wording import block

if TYPE_CHECKING:
    import warnings
    from collections.abc import Generator, Sequence

MARK = "lora_ckpt"
_FORM = '@pytest.mark.lora_ckpt("path", …)'
_HOOKS = "lora_ckpt_marked"


def parametrize(metafunc: pytest.Metafunc, paths: Sequence[Any]) -> None:
    """Run a test once for each checkpoint that its marker names."""
    specs = _found(metafunc, paths)
    sources = sources_of(metafunc.config) or _begin(metafunc.config)
    sources.add(specs)
    ids = list(map(safe_reports.safe_id, short_names(specs).values()))
    metafunc.parametrize(MARK, specs, ids=ids, indirect=True, scope="session")
    if "loader_fault" in metafunc.fixturenames:
        from pytest_lora_ckpt.scoring import fault_params

        chosen = fault_params(specs, sources.settings.faults, sources.settings.companion)
        metafunc.parametrize("loader_fault", chosen, indirect=True)


def _found(metafunc: pytest.Metafunc, paths: Sequence[Any]) -> list[str]:
    """Return what a marker names: as `--lora-ckpt` takes it, from the directory of the test's file or the rootdir."""
    here = metafunc.definition.path.parent
    specs: list[str] = []
    for each in paths:
        if not isinstance(each, (str, os.PathLike)):
            pytest.fail(f"{_FORM} takes paths, addresses and replica:STAGE, and not {each!r}.", pytrace=False)
        text = os.fspath(each)
        try:
            specs += option_values.checkpoints(str(text), _base(str(text), here, metafunc.config.rootpath))
        except ValueError as error:
            pytest.fail(block(f"{_FORM.replace('path', str(text))}: {error}", wrapped=False), pytrace=False)
    return list(dict.fromkeys(specs))


def _base(text: str, here: Path, root: Path) -> Path:
    """Return where a relative path starts: at the test's file where something lies there, else at the rootdir."""
    first = Path(text).parts[0] if Path(text).parts else text
    is_pattern = any(sign in first for sign in "*?[")
    lies_here = any(here.glob(first)) if is_pattern else (here / first).exists()
    return here if lies_here else root


def _begin(config: pytest.Config) -> Sources:
    """Make what the fixtures give in a run in which no option names a checkpoint."""
    with usage_errors():
        settings = read_settings(options_of(config))
    sources = Sources(config, settings, Ranks())
    sources.resolve()
    config.stash[SOURCES] = sources
    config.pluginmanager.register(SafeReports(), _HOOKS)
    return sources


class SafeReports:
    """Makes safe what pytest prints of a checkpoint, in a run in which no option names one."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Make the report of a test safe to print and to send."""
        report = yield
        if MARK in getattr(item, "fixturenames", ()):
            safe_reports.make_safe(report, is_check=False)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Make warnings safe before anything prints or sends them."""
        safe_reports.make_warning_safe(warning_message)
