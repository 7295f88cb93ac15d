"""What one pytest run knows of the audit: the options, the results as they come in, and the directories collected."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.options import OVERRIDABLE, Settings, read_settings
from pytest_lora_ckpt.pytest_plugin.items import LoraChecks, LoraChecksLast
from pytest_lora_ckpt.pytest_plugin.settings import options_of, resolve, usage_errors
from pytest_lora_ckpt.pytest_plugin.targets import Target, target
from pytest_lora_ckpt.wording import WIDTH, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.result import AuditResult, CheckReport
    from pytest_lora_ckpt.manifest import Manifest

_AUDIT = pytest.StashKey["LoraAudit"]()


def audit_of(config: pytest.Config) -> LoraAudit | None:
    """Return the audit of this run, or None where no checkpoint was asked for."""
    return config.stash.get(_AUDIT, None)


def start(config: pytest.Config) -> LoraAudit:
    """Read the options, and begin an audit.

    Raises:
        pytest.UsageError: An option is not valid.
    """
    with usage_errors():
        config.stash[_AUDIT] = LoraAudit(config, read_settings(options_of(config)))
    return config.stash[_AUDIT]


class LoraAudit:
    """The audit of one pytest run.

    Attributes:
        settings: What was asked for.
        targets: What `--lora-ckpt` names, by its text.
        reports: Per spec what the checks reported; filled from every xdist worker.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        """Collect nothing yet."""
        self.config, self.settings = config, settings
        self.targets = {spec: target(spec) for spec in settings.checkpoints}
        self.reports: dict[str, list[CheckReport]] = {}
        self._directories: list[pytest.Directory] = []
        self._at: dict[Path | str, Target] = {}
        self._make_model: Callable[[], Any] | None = None
        self._loader: Callable[[Path], Any] | None = None

    @property
    def is_worker(self) -> bool:
        """Whether this is one of xdist's workers, whose reports go to the controller."""
        return hasattr(self.config, "workerinput")

    def resolve_references(self) -> None:
        """Import and read what the options name, so that a wrong name ends the run before anything is collected.

        Raises:
            pytest.UsageError: It cannot be imported, or is not a manifest.
        """
        model, loader = self.settings.model, self.settings.loader
        if isinstance(model, Path):
            keys = _read_stand_in(model).keys
            self._make_model = lambda: keys
        elif model is not None:
            self._make_model = resolve(self.config, "lora_model", model)
        if loader is not None:
            self._loader = resolve(self.config, "lora_loader", loader)

    # What the fixtures give

    def locate(self, spec: str | None, make_directory: Callable[[str], Path]) -> Path | str:
        """Return the path of what was asked for, the first by default; a replica is made on the spot."""
        target = self.targets[spec or self.settings.checkpoints[0]]
        path = target.locate(make_directory)
        self._at[path] = target
        return path

    def new_run(self, path: Path | str) -> AuditContext:
        """Begin to look at a checkpoint; a replica is asked for its own stage where no other is."""
        from pytest_lora_ckpt.auditing.evidence import AuditContext
        from pytest_lora_ckpt.auditing.project import Project, TestOutcomes

        target, demands = self._at[path], self.settings.demands
        demands = dataclasses.replace(demands, stage=demands.stage or target.stage)
        outcomes = TestOutcomes((pytest.skip.Exception,), (pytest.fail.Exception,), (pytest.exit.Exception,))
        return AuditContext(path, demands, Project(path, outcomes), spec=target.spec)

    def model(self) -> Any:
        """Return what `--lora-model` makes, or the keys of the manifest that it names; None without it.

        Raises:
            TypeError: The callable returned None.
        """
        model = self._make_model() if self._make_model else None
        if model is None and self._make_model:
            raise TypeError(f"{self.settings.model} returned None, and should return the nn.Module to load into")
        return model

    def loader_for(self, path: Path | str) -> Callable[[Path], Any] | None:
        """Return what `--lora-loader` names; the checkpoint's own loader where no model is given either."""
        return self._loader or (None if self._make_model else self._at[path].loader())

    def base_for(self, path: Path | str) -> Any:
        """Return the base model that the checkpoint brings along."""
        return self._at[path].base_model()

    def inputs_for(self, path: Path | str) -> dict[str, Any] | None:
        """Return the inputs that the checkpoint brings along."""
        return self._at[path].inputs()

    # Collection

    def see(self, collector: pytest.Collector, report: pytest.CollectReport) -> None:
        """Note a collected directory; put our checks at the end of the session's own result."""
        if isinstance(collector, pytest.Directory):
            self._directories.append(collector)
        if isinstance(collector, pytest.Session) and report.passed:
            report.result.append(LoraChecksLast.from_parent(collector, name="lora-ckpt", make=self._checks))

    def _checks(self, session: pytest.Session) -> LoraChecks:
        """Make the node of the checks, below the directory whose `conftest.py` overrides our fixtures.

        Fixtures are matched by the nodes above an item, so that an override reaches the checks only from there.
        """
        overriding = {Path(plugin.__file__).parent for plugin in self._overriding_conftests()}

        def reach(directory: pytest.Directory) -> int:
            return sum(place == directory.path or place in directory.path.parents for place in overriding)

        parent: pytest.Collector = max(self._directories, key=reach, default=session)
        # The directory's own path, so that the hooks of its `conftest.py` that go by item see the checks as well.
        extra = {} if self.settings.faults is None else {"faults": self._score}
        return LoraChecks.from_parent(parent, path=parent.path, nodeid="lora-ckpt", extra=extra)

    def _score(self, run: AuditContext, request: pytest.FixtureRequest) -> CheckReport:
        """Score the project's loader with the faults asked for."""
        from pytest_lora_ckpt.scoring import audit_faults

        names = ("lora_loader", "lora_inputs", "lora_base_model")
        loader, inputs, base = (request.getfixturevalue(name) for name in names)
        report, _ = audit_faults(
            run,
            loader,
            inputs=inputs,
            base_model=base,
            names=self.settings.faults,
            accepted=self.settings.accepted_faults,
            timeout=self.settings.fault_timeout,
        )
        return report

    def _overriding_conftests(self) -> Iterator[Any]:
        for plugin in self.config.pluginmanager.get_plugins():
            if Path(getattr(plugin, "__file__", None) or "").name == "conftest.py":
                names = {*vars(plugin), *(getattr(value, "name", None) for value in vars(plugin).values())}
                if not names.isdisjoint(OVERRIDABLE):
                    yield plugin

    def parametrize(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes a checkpoint once for each that was given."""
        specs = self.settings.checkpoints
        ids = _ids(self.targets.values())
        metafunc.parametrize("lora_ckpt", specs, ids=ids, indirect=True, scope="session")
        if "loader_fault" in metafunc.fixturenames:
            from pytest_lora_ckpt.scoring import fault_params

            metafunc.parametrize("loader_fault", fault_params(specs, self.settings.faults), indirect=True)

    # Results

    def add(self, payload: dict[str, Any]) -> None:
        """Take in what one check reported."""
        from pytest_lora_ckpt.auditing.result import CheckReport

        self.reports.setdefault(payload["spec"], []).append(CheckReport.from_dict(payload["report"]))

    def audited(self) -> list[AuditResult]:
        """Return the results in the order asked for."""
        from pytest_lora_ckpt.auditing.gather import gather

        return [gather(spec, self.reports[spec]) for spec in self.settings.checkpoints if spec in self.reports]

    def summarize(self, reporter: pytest.TerminalReporter) -> None:
        """Print one section per checkpoint."""
        from pytest_lora_ckpt.auditing.render.terminal import section

        for result in self.audited():
            reporter.write_sep("=", f"LoRA checkpoint: {printable(self.targets[result.spec].name, WIDTH)}")
            for line in section(result):
                reporter.write_line(line)
            if result.faults:
                from pytest_lora_ckpt.scoring import render_score

                reporter.write_sep("-", f"faults: {printable(result.faults['loader'], WIDTH)}")
                for line in render_score(result.faults):
                    reporter.write_line(line)
        for path in self.settings.reports:
            reporter.write_line(f"LoRA report written to {path}")

    def write_reports(self) -> None:
        """Write the files asked for; under xdist only the controller does."""
        from pytest_lora_ckpt.auditing.render import write_report

        if not self.is_worker:
            for path in self.settings.reports:
                write_report(path, self.audited())


def _read_stand_in(path: Path) -> Manifest:
    """Read the manifest that replaces a model."""
    from pytest_lora_ckpt.manifest import ManifestError, read_manifest

    try:
        return read_manifest(path)
    except (ManifestError, OSError) as error:
        raise pytest.UsageError(f"--lora-model={path}: {error}") from None


def _ids(targets: Iterable[Target]) -> list[str]:
    """Name each checkpoint in test ids: by its short name, or in full where two have the same."""
    names = Counter(target.name for target in targets)
    return [target.name if names[target.name] == 1 else target.spec for target in targets]
