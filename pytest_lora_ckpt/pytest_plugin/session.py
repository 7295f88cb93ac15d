"""What one pytest run knows of the audit: the options, the results as they come in, and the directories collected."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.comparison.stages import STAGES
from pytest_lora_ckpt.options import OVERRIDABLE
from pytest_lora_ckpt.pytest_plugin.items import LoraChecks, LoraChecksLast
from pytest_lora_ckpt.pytest_plugin.settings import (
    REPLICA,
    Options,
    ini_name,
    is_manifest,
    is_replica,
    read_options,
    resolve,
)
from pytest_lora_ckpt.wording import WIDTH, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_lora_ckpt.auditing.checks import CheckResult
    from pytest_lora_ckpt.auditing.evidence import Run
    from pytest_lora_ckpt.auditing.result import AuditResult
    from pytest_lora_ckpt.manifest import Manifest

_AUDIT = pytest.StashKey["LoraAudit"]()


def audit_of(config: pytest.Config) -> LoraAudit | None:
    """Return the audit of this run, or None where no checkpoint was asked for."""
    return config.stash.get(_AUDIT, None)


def start(config: pytest.Config) -> LoraAudit:
    """Read the options, and begin an audit."""
    config.stash[_AUDIT] = LoraAudit(config, read_options(config))
    return config.stash[_AUDIT]


class LoraAudit:
    """The audit of one pytest run.

    Attributes:
        options: What was asked for.
        specs: Path of a checkpoint -> what was asked for (they differ for replicas).
        runs: Per spec what the checks reported, in JSON's terms; filled from every xdist worker.
    """

    def __init__(self, config: pytest.Config, options: Options) -> None:
        """See the class."""
        self.config, self.options = config, options
        self.specs: dict[Path | str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self._directories: list[pytest.Directory] = []
        self._manifest: Manifest | None = None
        # Names of faults to score the loader with; None where that was not asked for.
        self.faults: list[str] | None = None
        self.accepted_faults: dict[str, str] = {}
        self._read_faults()

    def _read_faults(self) -> None:
        """Read what is asked about faults; the module that knows them is not imported for nothing."""
        given, lines = self.config.getoption("lora_faults"), self.config.getini("lora_accepted_faults")
        if given is not None or lines:
            from pytest_lora_ckpt.scoring import parse_accepted, parse_fault_names

            try:
                self.faults = parse_fault_names(given)
                self.accepted_faults = parse_accepted(lines, ini_name(self.config))
            except ValueError as error:
                raise pytest.UsageError(str(error)) from None

    def resolve_references(self) -> None:
        """Import what the options name, so that a wrong name ends the run before anything is collected.

        Raises:
            pytest.UsageError: It cannot be imported.
        """
        for name, reference in (("lora_model", self.options.model), ("lora_loader", self.options.loader)):
            if reference is None:
                continue
            if is_manifest(reference):
                self._manifest = _read_stand_in(reference)
            else:
                resolve(name, self.config)

    @property
    def is_worker(self) -> bool:
        """Whether this is one of xdist's workers, whose reports go to the controller."""
        return hasattr(self.config, "workerinput")

    # What the fixtures give

    def locate(self, spec: str, make_directory: Callable[[str], Path]) -> Path | str:
        """Return the path of what was asked for; a replica is made on the spot."""
        if is_replica(spec):
            from pytest_lora_ckpt.manifest import LoraManifestCallback
            from pytest_lora_ckpt.replicas import replica_checkpoint

            directory = make_directory(spec.replace(":", "-"))
            path: Path | str = replica_checkpoint(spec, directory, callbacks=[LoraManifestCallback()])
        else:
            # As a Path, an address would lose one of its slashes.
            path = spec if "://" in spec else Path(spec)
        self.specs[path] = spec
        return path

    def new_run(self, path: Path | str) -> Run:
        """Begin to look at a checkpoint; a replica is asked for its own stage where no other is."""
        from pytest_lora_ckpt.auditing.evidence import Run

        spec, demands = self.specs[path], self.options.demands
        if is_replica(spec) and demands.stage is None:
            demands = dataclasses.replace(demands, stage=STAGES[spec.removeprefix(REPLICA)])
        return Run(spec, path, demands)

    def build_model(self) -> Any:
        """Call what `--lora-model` names; None without it.

        Raises:
            TypeError: It returned None.
        """
        if self.options.model is None:
            return None
        if self._manifest is not None:
            return self._manifest.keys
        model = resolve("lora_model", self.config)()
        if model is None:
            raise TypeError(
                f"{self.options.model} returned None, and should return the nn.Module that gets the weights"
            )
        return model

    def loader_for(self, path: Path | str) -> Callable[[Path], Any] | None:
        """Return what `--lora-loader` names; for a replica its own loader where no model is given either."""
        if self.options.loader is not None:
            loader: Callable[[Path], Any] = resolve("lora_loader", self.config)
            return loader
        if not is_replica(self.specs[path]) or self.options.model is not None:
            return None
        from pytest_lora_ckpt.replicas import PanoramaVLM

        return PanoramaVLM.from_checkpoint

    def base_for(self, path: Path | str) -> Any:
        """Return a replica's base model; None for other checkpoints."""
        if not is_replica(self.specs[path]):
            return None
        from pytest_lora_ckpt.replicas import make_panorama_vlm

        return make_panorama_vlm(lora=False)

    def inputs_for(self, path: Path | str) -> dict[str, Any] | None:
        """Return a replica's inputs; None for other checkpoints."""
        if not is_replica(self.specs[path]):
            return None
        from pytest_lora_ckpt.replicas import replica_inputs

        return replica_inputs()

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
        extra = {} if self.faults is None else {"faults": self._score}
        return LoraChecks.from_parent(parent, path=parent.path, nodeid="lora-ckpt", extra=extra)

    def _score(self, run: Run, request: pytest.FixtureRequest) -> tuple[CheckResult, dict[str, Any]]:
        """Score the project's loader with the faults asked for."""
        from pytest_lora_ckpt.scoring import audit_faults

        names = ("lora_loader", "lora_inputs", "lora_base_model")
        loader, inputs, base = (request.getfixturevalue(name) for name in names)
        result, score = audit_faults(
            run,
            loader,
            inputs=inputs,
            base_model=base,
            names=self.faults,
            accepted=self.accepted_faults,
            timeout=self.options.fault_timeout,
        )
        return result, {"faults": score.to_dict() if score else None}

    def _overriding_conftests(self) -> Iterator[Any]:
        for plugin in self.config.pluginmanager.get_plugins():
            if Path(getattr(plugin, "__file__", None) or "").name == "conftest.py":
                names = {*vars(plugin), *(getattr(value, "name", None) for value in vars(plugin).values())}
                if not names.isdisjoint(OVERRIDABLE):
                    yield plugin

    def parametrize(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes a checkpoint once for each that was given."""
        specs = self.options.checkpoints
        metafunc.parametrize("lora_ckpt", specs, ids=_ids(specs), indirect=True, scope="session")
        if "loader_fault" in metafunc.fixturenames:
            from pytest_lora_ckpt.scoring import fault_params

            metafunc.parametrize("loader_fault", fault_params(specs, self.faults), indirect=True)

    # Results

    def add(self, payload: dict[str, Any]) -> None:
        """Take in what one check reported: its result, its findings, and what is known of the checkpoint so far."""
        run = self.runs.setdefault(payload["spec"], {"checks": {}, "findings": {}, "known": {}})
        run["checks"][payload["check"]["name"]] = payload["check"]
        for found in payload["findings"]:
            run["findings"].setdefault((found["cause"], found["message"]), found)
        for name, value in payload["known"].items():
            if value not in (None, [], {}, "not-compared") and not (name == "checkpoint" and not value["layout"]):
                run["known"][name] = value
            else:
                run["known"].setdefault(name, value)

    def results(self) -> list[dict[str, Any]]:
        """Return the runs in the order asked for, each in the schema of the JSON report."""
        from pytest_lora_ckpt.auditing.checks import CHECKS

        order = {name: place for place, name in enumerate(CHECKS)}
        severities = ("error", "warning", "note")
        found = []
        for spec in (spec for spec in self.options.checkpoints if spec in self.runs):
            run = self.runs[spec]
            checks = sorted(run["checks"].values(), key=lambda each: order.get(each["name"], len(order)))
            findings = sorted(_distinct(run["findings"].values()), key=lambda each: severities.index(each["severity"]))
            known = {name: value for name, value in run["known"].items() if name != "all_zero"}
            if run["known"].get("all_zero") and known["verdict"] in {"loads", "loads-after-remap"}:
                known["verdict"] = "noop"
            found.append({"spec": spec, **known, "checks": checks, "findings": findings})
        return found

    def audited(self) -> list[AuditResult]:
        """Return the results in the order asked for."""
        from pytest_lora_ckpt.auditing.result import AuditResult

        return [AuditResult.from_dict(run) for run in self.results()]

    def summarize(self, reporter: pytest.TerminalReporter) -> None:
        """Print one section per checkpoint."""
        from pytest_lora_ckpt.auditing.render.terminal import section

        for result in self.audited():
            reporter.write_sep("=", f"LoRA checkpoint: {printable(_short(result.spec), WIDTH)}")
            for line in section(result):
                reporter.write_line(line)
            if result.faults:
                from pytest_lora_ckpt.scoring import render_score

                reporter.write_sep("-", f"faults: {printable(result.faults['loader'], WIDTH)}")
                for line in render_score(result.faults):
                    reporter.write_line(line)
        for path in self.options.reports:
            reporter.write_line(f"LoRA report written to {path}")

    def write_reports(self) -> None:
        """Write the files asked for; under xdist only the controller does."""
        from pytest_lora_ckpt.auditing.render import write_report

        if not self.is_worker:
            for path in self.options.reports:
                write_report(path, self.audited())


def _read_stand_in(path: str) -> Manifest:
    """Read the manifest that stands in for a model, before anything is collected."""
    from pytest_lora_ckpt.manifest import ManifestError, read_manifest

    try:
        return read_manifest(path)
    except (ManifestError, OSError) as error:
        raise pytest.UsageError(f"--lora-model={path}: {error}") from None


def _distinct(findings: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Leave out what says the same as another finding of its cause, with the same keys or with fewer."""
    listed = list(findings)
    with_keys = {each["cause"] for each in listed if each["keys"]}
    seen: set[tuple[str, frozenset[str]]] = set()
    for each in listed:
        told = (each["cause"], frozenset(each["keys"]))
        if (each["keys"] and told not in seen) or each["cause"] not in with_keys:
            yield each
        seen.add(told)


def _short(spec: str) -> str:
    return spec if is_replica(spec) else Path(spec).name


def _ids(specs: Sequence[str]) -> list[str]:
    names = [_short(spec) for spec in specs]
    return [name if names.count(name) == 1 else spec for name, spec in zip(names, specs, strict=True)]
