"""pytest hooks of a run with `--lora-ckpt`; what they do lies in `session.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.pytest_plugin import items, safe_reports, selection, session, settings, transport

if TYPE_CHECKING:
    import warnings
    from collections.abc import Generator, Sequence

    from xdist.remote import Producer
    from xdist.scheduler import Scheduling
    from xdist.workermanage import WorkerController


class AuditHooks:
    """The hooks of a run with `--lora-ckpt`."""

    def __init__(self, config: pytest.Config) -> None:
        """Read the options, and begin the audit that does the work."""
        self.audit = session.start(config)
        self.selection = selection.Selection(config, session.NAME)

    def pytest_report_header(self) -> list[str]:
        """Say which options come from the ini file, and which checkpoints were found."""
        return self.audit.header()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        """Tell each worker of xdist which checkpoints were found, so that all collect the same."""
        settings.hand_on(node, self.audit.settings.ckpt)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Producer) -> Scheduling | None:
        """Keep the tests of a checkpoint on one worker where xdist is not told otherwise."""
        if config.getoption("dist") not in {"load", "loadgroup"}:
            return None
        from pytest_lora_ckpt.pytest_plugin.distribution import ByCheckpoint  # Only where there is xdist.

        return ByCheckpoint(config, log, self.audit.ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Import what the options name, before anything is collected."""
        self.audit.sources.resolve()

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Put the checks after the project's own tests."""
        report = yield
        self.audit.see(collector, report)
        return report

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes a checkpoint once for each that was given."""
        if "lora_ckpt" in metafunc.fixturenames and not settings.marked_paths(metafunc):
            with session.collecting():
                self.audit.parametrize(metafunc)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave the checks that were asked for by their ids, where any were."""
        if left := self.selection.apply(items):
            config.hook.pytest_deselected(items=left)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which checks are to be run."""
        self.audit.plan(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Note which checks xdist's workers are to run."""
        self.audit.plan(ids)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send what a check reported along with pytest's report, so that it arrives from xdist's workers as well."""
        report = yield
        transport.send(item, report)
        is_check = isinstance(item.parent, items.LoraChecks)
        if is_check and report.when == "setup" and not report.passed:
            self.audit.ranks.miss(item.nodeid, f"not run: {call.excinfo.exconly() if call.excinfo else report.outcome}")
        if is_check or "lora_ckpt" in getattr(item, "fixturenames", ()):
            safe_reports.make_safe(report, is_check=is_check)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Make warnings safe before anything prints or sends them."""
        safe_reports.make_warning_safe(warning_message)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in what a check reported, before anything else sees it."""
        self.audit.receive(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print one section per checkpoint."""
        self.audit.summarize(terminalreporter)

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        """Show the verdicts above the table of pytest-html."""
        prefix.append(self.audit.html_summary())

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Put the results together and write the reports, while a failure still counts."""
        self.audit.finish(session)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Let the processes of a run under torchrun end together."""
        self.audit.ranks.end()
