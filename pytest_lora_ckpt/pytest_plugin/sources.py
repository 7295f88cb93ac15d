"""Where a checkpoint under test comes from, with its model, loader, base model and inputs: options, or a replica."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import manifest, replicas, stacks  # Their names are resolved at first use.
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.auditing.guard import InternalError, guard
from pytest_lora_ckpt.auditing.project import Project, TestOutcomes
from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.checkpoint.address import AddressText, is_address
from pytest_lora_ckpt.checkpoint.limits import Budget
from pytest_lora_ckpt.checkpoint.open import open_within
from pytest_lora_ckpt.comparison.stages import STAGES
from pytest_lora_ckpt.option_values import REPLICA, OtherCheckpoint, Reference
from pytest_lora_ckpt.pytest_plugin.progress import TerminalProgress
from pytest_lora_ckpt.pytest_plugin.settings import resolve
from pytest_lora_ckpt.wording import block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_lora_ckpt.auditing.project import Others
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.options import Settings

_OUTCOMES = TestOutcomes((pytest.skip.Exception,), (pytest.fail.Exception,), (pytest.exit.Exception,))


@dataclass(frozen=True, slots=True)
class Target:
    """What one `--lora-ckpt` names: a checkpoint of the project, or a replica, which brings the rest along.

    Attributes:
        spec: The option's value.
        locate: Returns where it lies, or its address; given a function that makes a directory.
        stage: The stage that it must hold where no other is asked for.
        loader: Returns its own loading code, or None.
        base_model: Returns its base model, or None.
        inputs: Returns inputs for its model, or None.
    """

    spec: str
    locate: Callable[[Callable[[str], Path]], Path | str]
    stage: Stage | None = None
    loader: Callable[[], Callable[[Path], Any] | None] = lambda: None
    base_model: Callable[[], Any] = lambda: None
    inputs: Callable[[], dict[str, Any] | None] = lambda: None


def target(spec: str) -> Target:
    """Return what a value of `--lora-ckpt` names."""
    if spec.startswith(REPLICA):
        return Target(
            spec,
            lambda make_directory: replicas.replica_checkpoint(
                spec, make_directory(spec.replace(":", "-")), callbacks=[manifest.LoraManifestCallback()]
            ),
            STAGES[spec.removeprefix(REPLICA)],
            lambda: replicas.PanoramaVLM.from_checkpoint,
            lambda: replicas.make_panorama_vlm(lora=False),
            lambda: replicas.replica_inputs(),  # noqa: PLW0108  # Not before it is called.
        )
    # As a `Path`, an address would lose a slash.
    return Target(spec, lambda _: AddressText(spec) if is_address(spec) else Path(spec))


class Sources:
    """What the fixtures give, unless the project overrides them.

    Attributes:
        targets: What `--lora-ckpt` names, by its value.
        at: The same by where it lies.
    """

    def __init__(self, config: pytest.Config, settings: Settings, others: Others) -> None:
        """Make nothing yet."""
        self._config, self._settings, self._others = config, settings, others
        self.targets = {spec: target(spec) for spec in settings.ckpt}
        self.at: dict[Path | str, Target] = {}
        self._make_model: Callable[[], Any] | None = None
        self._loader: Callable[[Path], Any] | None = None

    def resolve(self) -> None:
        """Import and read what the options name, so that a wrong name ends the run before anything is collected.

        Raises:
            pytest.UsageError: It cannot be imported, or is not a manifest.
        """
        model, loader = self._settings.model, self._settings.loader
        if isinstance(model, Path) and model.is_file():
            try:
                with guard("reading the manifest", model, (manifest.ManifestError, OSError)):
                    keys = manifest.read_manifest(model).keys
            except (manifest.ManifestError, OSError, InternalError) as error:
                raise pytest.UsageError(block(f"--lora-model={model}: {error}", wrapped=False)) from None
            self._make_model = lambda: keys
        elif isinstance(model, OtherCheckpoint):
            try:
                other = open_within(model.path, Budget(self._settings.demands.limits))
            except CheckpointError as error:
                raise pytest.UsageError(block(f"--lora-model={model.path}: {error}", wrapped=False)) from None
            self._make_model = lambda: other
        elif isinstance(model, Reference):
            self._make_model = resolve(self._config, "lora_model", model)
        if loader is not None:
            self._loader = resolve(self._config, "lora_loader", loader)

    def locate(self, spec: str | None, make_directory: Callable[[str], Path]) -> Path | str:
        """Return the path of what was asked for, the first by default; a replica is made on the spot."""
        wanted = self.targets[spec or self._settings.ckpt[0]]
        path = wanted.locate(make_directory)
        self.at[path] = wanted
        return path

    def context(self, path: Path | str, companions: Iterable[Path | str]) -> AuditContext:
        """Begin to look at a checkpoint with its companions."""
        wanted, demands = self.at[path], self._settings.demands
        given = tuple(map(Path, companions))
        demands = dataclasses.replace(demands, stage=demands.stage or wanted.stage, companions=given)
        project = Project(path, _OUTCOMES)
        project.others, project.progress = self._others, TerminalProgress(self._config)
        return AuditContext(path, demands, project, spec=wanted.spec)

    @property
    def companions(self) -> tuple[Path, ...]:
        """What `--lora-companion` names."""
        return self._settings.companion

    def model(self) -> Any:
        """Return what `--lora-model` makes, or the keys of the manifest that it names; None without it.

        Raises:
            TypeError: The callable returned None.
        """
        if self._make_model is None:
            return None
        model = self._make_model()
        if model is None:
            raise TypeError(f"{self._settings.model} returned None, and should return the nn.Module to load into")
        return model

    def loader(self, path: Path | str) -> Callable[[Path], Any] | None:
        """Return what `--lora-loader` names; the checkpoint's own loader where no model is given either."""
        if self._loader is not None and isinstance(self._loader, stacks.StackLoader):
            original = None if isinstance(path, str) else path
            return dataclasses.replace(self._loader, base=self._settings.demands.base, original=original)
        return self._loader or (None if self._make_model else self.at[path].loader())
