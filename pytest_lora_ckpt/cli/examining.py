"""The audit of the checkpoints that a command line names, with the project's code that it names."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.auditing.project import Project
from pytest_lora_ckpt.cli import arguments
from pytest_lora_ckpt.cli.output import Watched, contained
from pytest_lora_ckpt.sources import Given, loader_of, model_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_lora_ckpt.option_values import Reference
    from pytest_lora_ckpt.options import Reading, Settings
    from pytest_lora_ckpt.sources import Target


@contextlib.contextmanager
def project_code() -> Iterator[None]:
    """Let the project's modules be imported from the working directory; what its code prints is kept apart."""
    here = str(Path.cwd())
    added = [] if here in sys.path else [here]
    sys.path += added
    try:
        with contained():
            yield
    finally:
        for each in added:
            if each in sys.path:
                sys.path.remove(each)


class Examiner:
    """What a command line says of model, loader and inputs, imported and read at once.

    Args:
        given: What click found, by the options' names.
        asked: The checkpoints.

    Raises:
        OptionError: A value is not valid, or what it names cannot be imported or read.
    """

    def __init__(self, given: Mapping[str, Any], *asked: str) -> None:
        self.reading: Reading = arguments.read(given, *asked)
        self.settings: Settings = arguments.settings(given, *asked)
        settings, here = self.settings, [Path.cwd()]
        self._given = Given(
            model=self._named("lora_model", lambda: model_of(settings, here)),
            loader=self._named("lora_loader", lambda: loader_of(settings.loader, here)),
            base=settings.demands.base,
        )
        self._inputs = {name: self._callable(f"lora_{name}") for name in ("inputs", "generate_inputs")}

    def _named(self, name: str, find: Callable[[], Any]) -> Any:
        try:
            return find()
        except ValueError as error:
            raise self.reading.error(name, error) from error

    def _callable(self, name: str) -> Callable[[], Any] | None:
        named: Reference | None = self.reading.get(name)
        return None if named is None else self._named(name, lambda: named.resolve([Path.cwd()]))

    def context(self, wanted: Target, path: Path | str) -> AuditContext:
        """Begin to look at a checkpoint."""
        demands = self.settings.demands
        demands = dataclasses.replace(demands, stage=demands.stage or wanted.stage)
        project = Project(path, called="The option --{}")
        project.progress = Watched()
        context = AuditContext(path, demands, project, spec=wanted.spec)
        project.connect(**self.sources(wanted, path))
        return context

    def sources(self, wanted: Target, path: Path | str) -> dict[str, Callable[[], Any]]:
        """Return what gives the model, the loader, the base model and the inputs of a checkpoint."""
        return {
            "model": self._given.model or _nothing,
            "loader": lambda: self._given.loader_for(path, wanted),
            "base_model": wanted.base_model,
            "inputs": self._inputs["inputs"] or wanted.inputs,
            "generate_inputs": self._inputs["generate_inputs"] or _nothing,
        }


def _nothing() -> None:
    """Give nothing."""
