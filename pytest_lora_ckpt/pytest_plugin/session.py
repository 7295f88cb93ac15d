"""The audit of one pytest run: what is collected, and the results as they come in."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.auditing import render  # Its names are resolved at first use.
from pytest_lora_ckpt.auditing.gather import gather, not_made
from pytest_lora_ckpt.auditing.guard import InternalError, failed_itself, guard
from pytest_lora_ckpt.auditing.render import github
from pytest_lora_ckpt.options import OPTIONS, OVERRIDABLE, Settings, read_settings
from pytest_lora_ckpt.pytest_plugin import html_extras, properties, settings, transport
from pytest_lora_ckpt.pytest_plugin.items import LoraChecks, LoraChecksLast
from pytest_lora_ckpt.pytest_plugin.naming import written_by_pytest
from pytest_lora_ckpt.pytest_plugin.ranks import is_started_by_torchrun, join_ranks
from pytest_lora_ckpt.pytest_plugin.safe_reports import Pages, safe_id
from pytest_lora_ckpt.pytest_plugin.settings import options_of, usage_errors
from pytest_lora_ckpt.pytest_plugin.sources import SOURCES, Sources
from pytest_lora_ckpt.pytest_plugin.summary import Summary
from pytest_lora_ckpt.sources import short_names
from pytest_lora_ckpt.wording import SafeText, block, count, line, listed, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.result import AuditResult, CheckReport

NAME = "lora-ckpt"
"""The node of the checks."""

_NAMED = 8
_NO_TEXT = re.compile("[\ud800-\udfff]")


def start(config: pytest.Config) -> LoraAudit:
    """Read the options, and begin an audit.

    Raises:
        pytest.UsageError: An option is not valid.
    """
    refused = [each for each in config.invocation_params.args if _NO_TEXT.search(each)]
    if refused and config.getoption("dist", "no") != "no":  # It would end the run in an error of its own.
        message = f"{printable(refused[0])} is not valid UTF-8, and pytest-xdist cannot send it: run without -n."
        raise pytest.UsageError(message)
    if config.getoption("dist", "no") != "no" and is_started_by_torchrun():
        raise pytest.UsageError("torchrun starts a process for each rank already: run pytest without -n under it.")
    with usage_errors():
        audit = LoraAudit(config, read_settings(options_of(config)))
    config.stash[SOURCES] = audit.sources
    return audit


@contextlib.contextmanager
def collecting() -> Iterator[None]:
    """Let the collection end with the message alone where this package fails in it.

    Raises:
        pytest.Collector.CollectError: It does.
    """
    try:
        with guard("the collection", NAME, (pytest.UsageError,)):
            yield
    except InternalError as error:
        raise pytest.Collector.CollectError(error.text) from None


class LoraAudit:
    """The audit of one pytest run: what is collected, and the results as they come in.

    Attributes:
        settings: What was asked for.
        sources: What the fixtures give.
        names: A short name of its own for each checkpoint, for test ids and headings, by the value of `--lora-ckpt`.
        ranks: This process among those that `torchrun` started.
        reports: What the checks reported, by the value of `--lora-ckpt`; from every xdist worker.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        """Collect nothing yet."""
        self.config, self.settings = config, settings
        self.ranks = join_ranks()
        self.sources = Sources(config, settings, self.ranks)
        self.names = short_names(settings.ckpt)
        self.reports: dict[str, list[CheckReport]] = {}
        self._planned: dict[str, dict[str, None]] = {}
        self._directories: list[pytest.Directory] = []
        self._pages = Pages()
        self._summary = Summary(config, NAME)
        self._written: list[Path] = []
        self._unused: list[str] = []
        self._for_github: list[SafeText] = []
        self._properties: dict[str, list[tuple[str, str]]] = {}
        self._verdicts: list[tuple[str, AuditResult]] = []

    @property
    def ids(self) -> list[str]:
        """What stands for the checkpoints in test ids."""
        return list(map(safe_id, self.names.values()))

    def header(self) -> list[str]:
        """Say what comes from the ini file, and what patterns and directories stand for."""
        asked = options_of(self.config).find(OPTIONS["lora_ckpt"])
        given, found = settings.header(self.config), [*self.names.values()]
        named = f"lora-ckpt: {count(len(found), 'checkpoint')}: {listed(found, _NAMED)}"
        return [*([given] if given else []), *([named] if asked and len(asked.texts) != len(found) else [])]

    # Collection

    def see(self, collector: pytest.Collector, report: pytest.CollectReport) -> None:
        """Note a collected directory; put our checks at the end of the session's own result."""
        if isinstance(collector, pytest.Directory):
            self._directories.append(collector)
        if isinstance(collector, pytest.Session) and report.passed:
            report.result.append(LoraChecksLast.from_parent(collector, name=NAME, make=self._checks))

    def _checks(self, session: pytest.Session) -> LoraChecks:
        """Make the node of the checks, below the directory whose `conftest.py` overrides our fixtures.

        Fixtures are matched by the nodes above an item, so that an override reaches the checks only from there.
        """
        overriding = {Path(plugin.__file__).parent for plugin in self._conftests_that_override(OVERRIDABLE)}

        def reach(directory: pytest.Directory) -> int:
            return sum(place == directory.path or place in directory.path.parents for place in overriding)

        parent: pytest.Collector = max(self._directories, key=reach, default=session)
        # The directory's own path, so that the hooks of its `conftest.py` that go by item see the checks as well.
        extra = {} if self.settings.faults is None else {"faults": self._score}
        return LoraChecks.from_parent(parent, path=parent.path, nodeid=NAME, extra=extra, ranks=self.ranks)

    def _score(self, run: AuditContext, request: pytest.FixtureRequest) -> CheckReport:
        """Score the project's loader with the faults asked for."""
        from pytest_lora_ckpt.scoring import audit_faults

        names = ("inputs", "generate_inputs", "base_model")
        given: Any = {name: request.getfixturevalue(f"lora_{name}") for name in names}
        loader = request.getfixturevalue("lora_loader")
        try:
            with guard("the check faults", run.path, run.project.outcomes.leave):
                report, _ = audit_faults(
                    run,
                    loader,
                    names=self.settings.faults,
                    accepted=self.settings.accepted_faults,
                    timeout=self.settings.fault_timeout,
                    **given,
                )
        except InternalError as error:
            return failed_itself("faults", run, error)
        return report

    def _conftests_that_override(self, fixtures: Iterable[str]) -> Iterator[Any]:
        for plugin in self.config.pluginmanager.get_plugins():
            if Path(getattr(plugin, "__file__", None) or "").name == "conftest.py":
                names = {*vars(plugin), *(getattr(value, "name", None) for value in vars(plugin).values())}
                if not names.isdisjoint(fixtures):
                    yield plugin

    def parametrize(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes a checkpoint once for each that was given."""
        specs = self.settings.ckpt
        metafunc.parametrize("lora_ckpt", specs, ids=self.ids, indirect=True, scope="session")
        if "loader_fault" in metafunc.fixturenames:
            from pytest_lora_ckpt.scoring import fault_params

            overridden = any(self._conftests_that_override(["lora_companions"]))
            companions = None if overridden else self.settings.companion
            chosen = fault_params(specs, self.settings.faults, companions)
            metafunc.parametrize("loader_fault", chosen, indirect=True)

    # Results

    def receive(self, test_report: pytest.TestReport) -> None:
        """Take in what a check reported, here or in a worker; a worker leaves that to the controller."""
        if self._is_worker:
            return
        try:
            with guard("receiving what a check found", test_report.nodeid):
                for spec, report in transport.receive(test_report):
                    self._take(test_report, spec, report)
                test_report.user_properties += self._properties.get(test_report.nodeid, [])
        except InternalError as error:
            test_report.outcome, test_report.longrepr = "failed", error.text
        if test_report.failed and test_report.nodeid.startswith(f"{NAME}::"):
            self._pages.shorten(test_report)

    def _take(self, test_report: pytest.TestReport, spec: str, report: CheckReport) -> None:
        own = self.reports.setdefault(spec, [])
        own.append(report)
        compared = [each.facts.comparison for each in own if each.facts.comparison is not None]
        self._properties[test_report.nodeid] = properties.of_a_check(spec, report, compared[-1] if compared else None)
        html_extras.add_extras(self.config, test_report, report)

    def plan(self, nodeids: Iterable[str]) -> None:
        """Note which checks are to be run, so that those are told of that are not."""
        specs = dict(zip(self.ids, self.settings.ckpt, strict=True))
        specs |= {written_by_pytest(each): spec for each, spec in specs.items()}
        for nodeid in nodeids:
            name, _, parameters = nodeid.removeprefix(f"{NAME}::").partition("[")
            spec = specs.get(parameters.rpartition("]")[0])
            if spec is not None and nodeid.startswith(f"{NAME}::"):
                self._planned.setdefault(spec, {})[name] = None

    def results(self, why: str = "") -> list[AuditResult]:
        """Return the results in the order asked for.

        Args:
            why: Why the run ended before its end, if it did.
        """
        reports = {spec: self.reports.get(spec, []) for spec in self.settings.ckpt}
        if why:
            for spec, planned in self._planned.items():
                made = {each.name for each in reports[spec]}
                reports[spec] = [*reports[spec], *(not_made(name, why) for name in planned if name not in made)]
        ignored = self.settings.demands.ignored
        return [gather(spec, own, ignored) for spec, own in reports.items() if own]

    def finish(self, session: pytest.Session) -> None:
        """Put the results together, and write the files asked for; under xdist only the controller does.

        Where that fails, it is a failure of the run like any other.
        """
        if self._is_worker or not self.ranks.tells:
            return
        stops = session.shouldstop or session.shouldfail
        is_cut = session.exitstatus == pytest.ExitCode.INTERRUPTED
        results = self.results(f"pytest stopped ({stops})" if stops else "the run was interrupted" if is_cut else "")
        self._unused = [each for each in self.settings.ignore if all(each in one.unused_ignores for one in results)]
        for result in results:
            name = self.names[result.spec]
            with self._counted(session, name, "printing the results"):
                self._summary.add(name, result, of=len(results))
            for error in result.errors:
                if isinstance(error, InternalError):
                    self._fail(session, name, error.text)
        self._verdicts = [(self.names[result.spec], result) for result in results]
        with self._counted(session, NAME, "printing the results"):
            self._summary.close(self._verdicts)
        with self._counted(session, NAME, "writing the properties of the run"):
            properties.of_the_run(self.config, self._verdicts)
        for path in self.settings.report:
            with self._counted(session, path.name, "writing the report"):
                render.write_report(path, results)
                self._written.append(path)
        if github.is_asked_for(self.settings.github):
            with self._counted(session, "GitHub", "telling GitHub Actions"):
                self._for_github = github.told(results)
        if not self.config.pluginmanager.has_plugin("terminalreporter"):
            _say(self._for_github, None)

    @contextlib.contextmanager
    def _counted(self, session: pytest.Session, name: str, doing: str) -> Iterator[None]:
        try:
            with guard(doing, name, (OSError,)):
                yield
        except InternalError as error:
            self._fail(session, name, error.text)
        except OSError as error:
            self._fail(session, name, block(f"The report cannot be written: {error}"))

    def _fail(self, session: pytest.Session, name: str, text: SafeText) -> None:
        """Report a failure of the run, as that of an item: every plugin counts it."""
        nodeid = f"{NAME}::report[{safe_id(name)}]"
        location = (NAME, None, nodeid.partition("::")[2])
        report = pytest.TestReport(nodeid, location, {}, "failed", text, "call")
        self.config.hook.pytest_runtest_logreport(report=report)
        if session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def summarize(self, reporter: pytest.TerminalReporter) -> None:
        """Print a section for each checkpoint, and where the reports were written."""
        self._summary.write(reporter)
        if self._unused:
            names = listed(self._unused)
            reporter.write_line(line(f"note: lora_ignore accepts {names}, which no check found: take the line out."))
        for path in self._written if self.config.get_verbosity() >= 0 else ():
            reporter.write_line(line(f"LoRA report written to {path}"))
        _say(self._for_github, reporter)

    def html_summary(self) -> str:
        """Return what pytest-html shows above its table."""
        return html_extras.verdicts(self._verdicts)

    @property
    def _is_worker(self) -> bool:
        return hasattr(self.config, "workerinput")


def _say(lines: Iterable[SafeText], reporter: pytest.TerminalReporter | None) -> None:
    """Print the lines, each at the beginning of one: where there is no reporter, the server reads them all the same."""
    for each in lines:
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(each)
        else:
            sys.stdout.write(f"{each}\n")
