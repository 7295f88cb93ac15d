"""pytest hooks of pytest-lora-ckpt; what they do lies in `session.py`. Importing this imports pytest alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import items, options, session
from pytest_lora_ckpt.fixtures import (
    _connected_lora_run,
    _lora_run,
    lora_checkpoint,
    lora_ckpt,
    lora_inputs,
    lora_loaded_model,
    lora_loader,
    lora_model,
    lora_report,
    lora_stages,
    make_lora_checkpoint,
    make_panorama_vlm,
    panorama_vlm,
)

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "_connected_lora_run",
    "_lora_run",
    "lora_checkpoint",
    "lora_ckpt",
    "lora_inputs",
    "lora_loaded_model",
    "lora_loader",
    "lora_model",
    "lora_report",
    "lora_stages",
    "make_lora_checkpoint",
    "make_panorama_vlm",
    "panorama_vlm",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register `--lora-ckpt` and the others."""
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the other hooks where a checkpoint is asked for."""
    config.addinivalue_line("markers", "lora_ckpt: a built-in check of the checkpoint given with --lora-ckpt.")
    if audit := session.start(config):
        config.pluginmanager.register(AuditHooks(audit), "lora_ckpt_audit")


class AuditHooks:
    """The hooks of a run with `--lora-ckpt`."""

    def __init__(self, audit: session.LoraAudit) -> None:
        """Take the audit that does the work."""
        self.audit = audit

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Import what the options name, before anything is collected."""
        self.audit.resolve_references()

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Put the checks beside the project's own tests."""
        report = yield
        self.audit.see(collector, report)
        return report

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes a checkpoint once for each that was given."""
        if "lora_ckpt" in metafunc.fixturenames:
            self.audit.parametrize(metafunc)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send what a check found along with its report, so that it arrives from xdist's workers as well."""
        report = yield
        if report.when == "call" and items.RESULT in item.stash:
            report.__dict__[items.PAYLOAD] = item.stash[items.RESULT]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in what a check found, here or in a worker."""
        if payload := getattr(report, items.PAYLOAD, None):
            self.audit.add(payload)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print one section per checkpoint."""
        self.audit.summarize(terminalreporter)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write the reports."""
        self.audit.write_reports()
