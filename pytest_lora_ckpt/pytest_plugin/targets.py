"""What `--lora-ckpt` names: a checkpoint of the project, or a replica, which brings its own loader, base and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt import replicas
from pytest_lora_ckpt.comparison.stages import STAGES
from pytest_lora_ckpt.options import REPLICA

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lora_ckpt.comparison.stages import Stage


@dataclass(frozen=True, slots=True)
class Target:
    """A checkpoint that was asked for.

    Attributes:
        spec: The value of `--lora-ckpt`.
        name: A short name for headings and test ids.
        locate: Returns where it lies, or its address; given a function that makes a directory.
        stage: The stage that it must hold where no other is asked for.
        loader: Returns its own loading code, or None.
        base_model: Returns its base model, or None.
        inputs: Returns inputs for its model, or None.
    """

    spec: str
    name: str
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
            spec,
            lambda make_directory: _save_replica(spec, make_directory(spec.replace(":", "-"))),
            STAGES[spec.removeprefix(REPLICA)],
            lambda: replicas.PanoramaVLM.from_checkpoint,
            lambda: replicas.make_panorama_vlm(lora=False),
            lambda: replicas.replica_inputs(),  # noqa: PLW0108  # The name is resolved at first use, with torch.
        )
    # As a `Path`, an address would lose a slash.
    return Target(spec, Path(spec).name, lambda _: spec if "://" in spec else Path(spec))


def _save_replica(spec: str, directory: Path) -> Path:
    from pytest_lora_ckpt.manifest import LoraManifestCallback

    return replicas.replica_checkpoint(spec, directory, callbacks=[LoraManifestCallback()])
