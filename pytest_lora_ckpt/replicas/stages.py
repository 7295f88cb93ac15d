"""Checkpoints of the guide's stages, and the one that `replica:STAGE` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.replicas.config import require
from pytest_lora_ckpt.replicas.factory import make_panorama_vlm
from pytest_lora_ckpt.replicas.names import STAGES, parse_spec

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from pytest_lora_ckpt.replicas.model import PanoramaVLM

_KEEPS = ("all", "trained")


def save_stage_checkpoint(
    path: str | os.PathLike[str],
    *,
    stage: str = "finetune",
    keep: str = "all",
    model: PanoramaVLM | None = None,
    callbacks: Sequence[Any] = (),
    **make_kwargs: Any,
) -> Path:
    """Train a replica for one step under Lightning's Trainer and let the Trainer save it.

    A checkpoint of `vision` holds the vision encoder; of `resampler` also the resampler and the projector; of
    `finetune` everything, with LoRA. The envelope is Lightning's own: `optimizer_states`, `lr_schedulers`, `loops` …

    Args:
        path: A file that ends in `.ckpt`, or a directory, made if absent, which gets `panorama-<stage>.ckpt`.
        stage: `"vision"`, `"resampler"` or `"finetune"`.
        keep: `"all"` that the stage's checkpoint holds, or `"trained"`: only what this stage trained (in `finetune`
            LoRA and the projector).
        model: Is trained in place and saved; None: a new one.
        callbacks: For the Trainer.
        make_kwargs: For `make_panorama_vlm` where `model` is None.

    Returns:
        The path of the file.

    Raises:
        ImportError: Lightning is not installed.
        ValueError: An argument is not as above.

    Example:
        >>> import tempfile
        >>> save_stage_checkpoint(tempfile.mkdtemp(), stage="resampler").name
        'panorama-resampler.ckpt'
    """
    require(keep in _KEEPS, "keep", keep, f"one of {', '.join(_KEEPS)}")
    require(stage in STAGES, "stage", stage, f"one of {', '.join(STAGES)}")
    if model is not None and make_kwargs:
        raise ValueError(f"{', '.join(make_kwargs)} cannot be given together with model=")
    if model is None:
        model = make_panorama_vlm(stage=stage, **make_kwargs)
    require_data(model)
    target = Path(path)
    if target.suffix != ".ckpt":
        target = target / f"panorama-{stage}.ckpt"
    target.parent.mkdir(parents=True, exist_ok=True)
    from pytest_lora_ckpt.replicas.training import train_and_save  # needs the extra `lightning`

    train_and_save(model, target, stage=stage, keep=keep, callbacks=callbacks)
    return target


def require_data(model: PanoramaVLM) -> None:
    """Raise ValueError for a model of names and shapes only."""
    if model.config.device == "meta":
        raise ValueError('scale="guide" is on the meta device: there is no data to save')


def replica_checkpoint(spec: str, directory: str | os.PathLike[str], *, callbacks: Sequence[Any] = ()) -> Path:
    """Write the checkpoint that `replica:STAGE` names into `directory` and return its path.

    Args:
        spec: `replica:vision`, `replica:resampler` or `replica:finetune`.
        directory: Gets the file.
        callbacks: For the Trainer that writes it.

    Raises:
        ValueError: No such replica; the message lists the valid ones.
        ImportError: Lightning is not installed.

    Example:
        >>> import tempfile
        >>> replica_checkpoint("replica:vision", tempfile.mkdtemp()).name
        'panorama-vision.ckpt'
    """
    return save_stage_checkpoint(Path(directory), stage=parse_spec(spec), callbacks=callbacks)
