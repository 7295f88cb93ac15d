"""What the fixtures give unless the project overrides them: what the options name, or what a replica brings."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.auditing.project import Project, TestOutcomes
from pytest_lora_ckpt.pytest_plugin.progress import TerminalProgress
from pytest_lora_ckpt.pytest_plugin.settings import options_of
from pytest_lora_ckpt.sources import Given, loader_of, model_of, target
from pytest_lora_ckpt.wording import block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_lora_ckpt.auditing.project import Others
    from pytest_lora_ckpt.options import Settings
    from pytest_lora_ckpt.sources import Target

_OUTCOMES = TestOutcomes((pytest.skip.Exception,), (pytest.fail.Exception,), (pytest.exit.Exception,))


class Sources:
    """What the fixtures give, unless the project overrides them.

    Attributes:
        settings: What was asked for.
        targets: What `--lora-ckpt` names, by its value.
        at: The same by where it lies.
    """

    def __init__(self, config: pytest.Config, settings: Settings, others: Others) -> None:
        """Make nothing yet."""
        self._config, self.settings, self._others = config, settings, others
        self.targets = {spec: target(spec) for spec in settings.ckpt}
        self.at: dict[Path | str, Target] = {}
        self._given = Given()

    def add(self, specs: Iterable[str]) -> None:
        """Take what the marker of a test names."""
        for spec in specs:
            self.targets.setdefault(spec, target(spec))

    def resolve(self) -> None:
        """Import and read what the options name, so that a wrong name ends the run before anything is collected.

        Raises:
            pytest.UsageError: It cannot be imported or read.
        """
        settings, directories = self.settings, [self._config.invocation_params.dir, self._config.rootpath]
        with self._usage_errors("lora_model"):
            model = model_of(settings, directories)
        with self._usage_errors("lora_loader"):
            self._given = Given(model, loader_of(settings.loader, directories), settings.demands.base)

    @contextlib.contextmanager
    def _usage_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            text = block(str(options_of(self._config).error(name, error)), wrapped=False)
            raise pytest.UsageError(text) from error

    @property
    def asked(self) -> tuple[str, ...]:
        """What `--lora-ckpt` names."""
        return self.settings.ckpt

    def locate(self, spec: str, make_directory: Callable[[str], Path]) -> Path | str:
        """Return the path of what was asked for; a replica is made on the spot."""
        wanted = self.targets[spec]
        path = wanted.locate(make_directory)
        self.at[path] = wanted
        return path

    def context(self, path: Path | str, companions: Iterable[Path | str]) -> AuditContext:
        """Begin to look at a checkpoint with its companions."""
        wanted, demands = self.at[path], self.settings.demands
        given = tuple(map(Path, companions))
        demands = dataclasses.replace(demands, stage=demands.stage or wanted.stage, companions=given)
        project = Project(path, _OUTCOMES)
        project.others, project.progress = self._others, TerminalProgress(self._config)
        return AuditContext(path, demands, project, spec=wanted.spec)

    @property
    def companions(self) -> tuple[Path, ...]:
        """What `--lora-companion` names."""
        return self.settings.companion

    def model(self) -> Any:
        """Return what `--lora-model` makes, or the keys of the manifest that it names; None without it.

        Raises:
            TypeError: The callable returned None.
        """
        return self._given.model() if self._given.model else None

    def loader(self, path: Path | str) -> Callable[[Path], Any] | None:
        """Return what `--lora-loader` names; the checkpoint's own loader where no model is given either."""
        return self._given.loader_for(path, self.at[path])


SOURCES = pytest.StashKey[Sources]()


def sources_of(config: pytest.Config) -> Sources | None:
    """Return what the fixtures of this run give; None where neither an option nor a marker names a checkpoint."""
    return config.stash.get(SOURCES, None)
