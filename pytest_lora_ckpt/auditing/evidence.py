"""What is known of one checkpoint under test: the file, the loaded model, and what both are compared with.

Everything is made at first use and kept, so that each check asks for what it needs and none is made twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt import stacks  # Its names are resolved at first use.
from pytest_lora_ckpt.auditing.by_config import ByConfig, by_config
from pytest_lora_ckpt.auditing.file_evidence import FileEvidence
from pytest_lora_ckpt.auditing.judges.safety import judge_globals
from pytest_lora_ckpt.auditing.picture import draw, draw_names
from pytest_lora_ckpt.auditing.plain import from_plain
from pytest_lora_ckpt.auditing.project import Once, Project, ProjectError
from pytest_lora_ckpt.auditing.result import CheckpointFacts, ComparisonFacts, Facts, GlobalFacts
from pytest_lora_ckpt.checkpoint import CheckpointError, name_companions
from pytest_lora_ckpt.checkpoint.address import AddressText, is_address, place
from pytest_lora_ckpt.checkpoint.limits import Budget
from pytest_lora_ckpt.checkpoint.open import open_within
from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.findings.accepted import accept
from pytest_lora_ckpt.findings.from_globals import kind_of
from pytest_lora_ckpt.manifest import find_manifest, manifest_next_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.auditing.loaded import LoadedEvidence
    from pytest_lora_ckpt.auditing.picture import Stack
    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.checkpoint.pickle.globals import Global
    from pytest_lora_ckpt.checkpoint.window import Window
    from pytest_lora_ckpt.manifest import Manifest
    from pytest_lora_ckpt.results import Finding, LoadReport


_NOT_SCANNED = frozenset({"ambiguous-archive", "damaged", "over-limit"})
"""Problems of a file that torch, which is not as strict, may read all the same."""


class AuditContext:
    """One checkpoint under test.

    Args:
        path: Where the checkpoint lies.
        demands: What is asked of it.
        project: The project's model, loader, base and inputs.
        spec: What was asked for, where that is not the path: `replica:STAGE`.
    """

    def __init__(
        self,
        path: Path | str,
        demands: Demands | None = None,
        project: Project | None = None,
        *,
        spec: str | None = None,
    ) -> None:
        self.path, self.demands, self.spec = path, demands or Demands(), spec or str(path)
        self.project = project or Project(path)
        self._meant: Path | str = path
        self.failures: dict[tuple[str, str], str] = {}
        """What the project's own code failed with: cause and message -> the first check that needed it."""
        self.told: list[tuple[Finding, str]] = []
        """The errors that were reported so far, each with the check that reported it."""
        self._budget = Budget(self.demands.limits)
        self._file = Once(lambda: FileEvidence(self._open(), self.demands.stages), (Exception,))
        self._manifest = Once(self._read_manifest, (Exception,))
        self.project.refuse = self._refuse

    def _open(self) -> Checkpoint:
        checkpoint = open_within(self.path, self._budget)
        if (meant := checkpoint.meant) is not None:
            # The loader gets what is audited.
            self._meant = self.project.path = meant if isinstance(meant, Path) else AddressText(meant.full)
        return name_companions(checkpoint, self.demands.companions)

    def let_go(self) -> None:
        """Forget the file at once: this object is in a cycle, and the file would wait for the garbage collector."""
        self._file.let_go()

    @property
    def file(self) -> FileEvidence:
        """What the checkpoint shows by itself.

        Raises:
            CheckpointError: It cannot be read; the message says why and what to do.
        """
        return self._file()

    @property
    def checkpoint(self) -> Checkpoint:
        """The opened checkpoint.

        Raises:
            CheckpointError: It cannot be read.
        """
        return self.file.checkpoint

    @property
    def is_open(self) -> bool:
        """Whether the checkpoint's index can be read."""
        try:
            return self.checkpoint is not None
        except CheckpointError:
            return False

    @property
    def globals(self) -> tuple[Global, ...]:
        """What the pickles of the checkpoint ask for, as far as they can be read."""
        try:
            return self.checkpoint.globals
        except CheckpointError as error:
            return error.globals

    @property
    def _unread(self) -> Mapping[str, str]:
        try:
            return self.checkpoint.unread
        except CheckpointError as error:
            return error.unread

    @cached_property
    def safety(self) -> Judgement:
        """Whether loading the checkpoint runs nothing, as far as it can be read."""
        return judge_globals(self.globals, self.demands.trust, self._unread)

    def _refuse(self) -> None:
        """Keep the loader from a checkpoint whose pickles ask for code, or may do so where they cannot be read.

        Raises:
            ProjectError: They do.
            CheckpointError: It cannot be read, and somebody else may read it.
        """
        if self.safety.outcome == "failed":
            raise ProjectError("runs-code", f"The loader was not called. {self.safety.summary}")
        try:
            _ = self.checkpoint
        except CheckpointError as error:
            if error.problem in _NOT_SCANNED:
                raise

    @cached_property
    def loaded(self) -> LoadedEvidence | None:
        """The model that the loader returns, with what is known of it; None without a loader.

        Raises:
            CheckpointError: The checkpoint cannot be read.
            ProjectError: The project's loader fails.
        """
        file = self.file  # A file that cannot be read is reported as such before the loader is called.
        if self.project.loaded is None:
            return None
        from pytest_lora_ckpt.auditing.loaded import LoadedEvidence  # torch, only with a loader.

        return LoadedEvidence(self.project, file, self._manifest, self.demands)

    @cached_property
    def report(self) -> LoadReport:
        """The checkpoint compared with the model, with the model that the loader returns, or with the manifest.

        Without any of them nothing is compared.

        Raises:
            CheckpointError: The checkpoint cannot be read.
            ProjectError: The project's model or loader fails.
        """
        model = self.project.model
        try:
            if self.loaded is not None and (model is None or self.loaded.stands_in_for(model)):
                return self.loaded.report
        except ProjectError:
            # With a model to compare with, a loader that fails is for the checks of the loaded model to report.
            if model is None and self.by_config.report is None:
                raise
        model = self.manifest if model is None else model
        if model is None:
            return self.by_config.report or self.file.alone
        from pytest_lora_ckpt.auditing.renamings import settle_renamings  # Only with something to compare with.
        from pytest_lora_ckpt.comparison.companion import compare_with_companion

        report = compare_with_companion(self.checkpoint, model, stage=self.demands.stage).report
        with contextlib.suppress(ProjectError):  # As above.
            if (loaded := self.loaded) is not None:
                return settle_renamings(report, lambda: loaded.proof)
        return report

    @cached_property
    def by_config(self) -> ByConfig:
        """The checkpoint compared with its base model, by the config of that alone."""
        return by_config(self.checkpoint, self.demands.base, self.demands.stage)

    @cached_property
    def loader_option(self) -> str:
        """The options that give a loader: PEFT's for its adapters, with a base model where none is known."""
        if self.file.lora_config is None:
            return "--lora-loader=module:function"
        try:
            has_base = stacks.find_base(self.demands.base, self.checkpoint).is_named  # A config alone loads nothing.
        except (stacks.StackError, OSError, ValueError):  # The last two of a name that can be no path.
            has_base = False
        return "--lora-loader=peft" if has_base else "--lora-loader=peft --lora-base=PATH_OR_ID"

    @property
    def manifest(self) -> Manifest | None:
        """What was written when the checkpoint was trained: the one given, or the one that lies next to it.

        Raises:
            ProjectError: It cannot be read, or is not a manifest.
        """
        return self._manifest()

    def _read_manifest(self) -> Manifest | None:
        path: Path | Window | None = self.demands.manifest
        if path is None and is_address(str(self.path)):
            around = self.checkpoint.around
            path = None if around is None else manifest_next_to(around)
        elif path is None:
            path = find_manifest(self._meant) or find_manifest(self.path)
        if path is None:
            return None
        from pytest_lora_ckpt.manifest import ManifestError, read_manifest

        try:
            return read_manifest(path, self._budget)
        except (ManifestError, OSError) as error:
            raise ProjectError("manifest-unreadable", str(error)) from error

    def accept(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """Make notes of the findings that the project accepts."""
        return accept(findings, self.demands.ignored, str(place(self.path)))

    def checkpoint_facts(self) -> Facts:
        """Return what the report says of the checkpoint, which is little where it cannot be read."""
        try:
            known = self.file.facts(self.path)
        except CheckpointError:
            known = CheckpointFacts(str(place(self.path)))
        return Facts(checkpoint=dataclasses.replace(known, globals=self._global_facts))

    @cached_property
    def _global_facts(self) -> tuple[GlobalFacts, ...]:
        return tuple(
            GlobalFacts(
                **{name: getattr(each, name) for name in ("module", "name", "entry", "path", "use", "called", "count")},
                kind=kind_of(each, self.demands.trust),
            )
            for each in self.globals
        )

    def headline_facts(self) -> Facts:
        """Return what every report says of the comparison, whichever checks were selected.

        That the project's code fails is for the checks that need it to report.
        """
        outcomes = self.project.outcomes
        expected: tuple[type[BaseException], ...] = (CheckpointError, ProjectError, *outcomes.skip, *outcomes.fail)
        try:
            return self.comparison_facts()
        except expected:
            return Facts()

    def comparison_facts(self) -> Facts:
        """Return what the report says of the comparison.

        Raises:
            CheckpointError: The checkpoint cannot be read.
            ProjectError: The project's model or loader fails.
        """
        compared = self.report
        if compared.remapped is None:
            return Facts(components=compared.components, picture=self._picture)
        facts = from_plain(ComparisonFacts, compared.to_dict())
        if "loader-renames" in {each.cause for each in compared.findings}:
            applied = tuple(dataclasses.replace(rule, applied=rule.by == "you") for rule in facts.rules)
            facts = dataclasses.replace(facts, rules=applied)
        facts = dataclasses.replace(facts, findings=self.accept(facts.findings))
        return Facts(comparison=facts, picture=self._picture)

    @cached_property
    def _picture(self) -> tuple[Stack, ...]:
        """What names and shapes say of each key; that it is there, where it is compared with nothing."""
        compared = self.report
        return draw({"held": self.checkpoint.keys}) if compared.remapped is None else draw_names(compared)
