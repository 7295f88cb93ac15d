"""Where a checkpoint under test comes from, with its model, loader, base model and inputs: options, or a replica.

For every front end: each says in its own way which option a `ValueError` is about.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt import manifest, replicas, stacks  # Their names are resolved at first use.
from pytest_lora_ckpt.checkpoint.address import AddressText, is_address, place
from pytest_lora_ckpt.comparison.stages import STAGES
from pytest_lora_ckpt.option_values import REPLICA, OtherCheckpoint, Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.option_values import Library
    from pytest_lora_ckpt.options import Settings


@dataclass(frozen=True, slots=True)
class Target:
    """What one text names: a checkpoint of the project, or a replica, which brings the rest along.

    Attributes:
        spec: The text.
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
    """Return what a text names.

    Example:
        >>> target("runs/best.ckpt").locate(Path).name, target("replica:finetune").stage.name
        ('best.ckpt', 'finetune')
    """
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


@dataclass(frozen=True, slots=True)
class Given:
    """The model and the loader that the options name, imported and read.

    Attributes:
        model: Makes the model, or gives what replaces it; None where none is named.
        loader: The project's loading code, or a library's; None where none is named.
        base: The base model that a library's loader loads.
    """

    model: Callable[[], Any] | None = None
    loader: Callable[[Path], Any] | None = None
    base: str | None = None

    def loader_for(self, path: Path | str, wanted: Target) -> Callable[[Path], Any] | None:
        """Return the loader of a checkpoint: its own where neither a loader nor a model is named."""
        if isinstance(self.loader, stacks.StackLoader):
            return dataclasses.replace(self.loader, base=self.base, original=None if isinstance(path, str) else path)
        return self.loader or (None if self.model else wanted.loader())


def model_of(settings: Settings, directories: Sequence[Path]) -> Callable[[], Any] | None:
    """Import or read what the option `model` names, so that a wrong name ends a run before anything is looked at.

    Args:
        settings: What the user asked for.
        directories: Where the project's modules lie besides Python's own path.

    Raises:
        ValueError: It cannot be imported or read.
    """
    model = settings.model
    if isinstance(model, Reference):
        make = model.resolve(directories)
        return lambda: _made(make(), model)
    if isinstance(model, OtherCheckpoint):
        other = _opened(model.path, settings)
        return lambda: other
    if isinstance(model, Path) and model.is_file():
        keys = _manifest_keys(model)
        return lambda: keys
    return None


def loader_of(loader: Reference | Library | None, directories: Sequence[Path]) -> Callable[[Path], Any] | None:
    """Import what the option `loader` names.

    Raises:
        ValueError: It cannot be imported.
    """
    return None if loader is None else loader.resolve(directories)


def _made(model: Any, reference: Reference) -> Any:
    if model is None:
        called = f"{reference.module}:{reference.name}"
        raise TypeError(f"{called} returned None, and should return the nn.Module to load into")
    return model


def _opened(path: str, settings: Settings) -> Any:
    from pytest_lora_ckpt.checkpoint import CheckpointError
    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.open import open_within

    try:
        return open_within(path, Budget(settings.demands.limits))
    except CheckpointError as error:
        raise ValueError(str(error)) from error


def _manifest_keys(path: Path) -> Any:
    from pytest_lora_ckpt.auditing.guard import InternalError, guard

    try:
        with guard("reading the manifest", path, (manifest.ManifestError, OSError)):
            return manifest.read_manifest(path).keys
    except (manifest.ManifestError, OSError, InternalError) as error:
        raise ValueError(str(error)) from error


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Name each path by its last part, or by as many of the last as tell it from all others.

    Example:
        >>> list(short_names(["/r/a/best.ckpt", "/r/b/best.ckpt", "/r/b/last.ckpt"]).values())
        ['a/best.ckpt', 'b/best.ckpt', 'last.ckpt']
    """
    parts = {path: place(path).parts for path in paths}
    names: dict[str, str] = {}
    depth = 1
    while len(names) < len(parts):
        alike = Counter(each[-depth:] for each in parts.values())
        for path, each in parts.items():
            if path not in names and alike[each[-depth:]] == 1:
                names[path] = str(PurePath(*each[-depth:]))
            elif depth > len(each):  # Another spelling of the same path.
                names.setdefault(path, path)
        depth += 1
    return {path: names[path] for path in parts}
