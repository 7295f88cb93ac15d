"""Replicas on disk: a PEFT adapter, checkpoints of the guide's stages, and `save_replica` for every layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.replicas.config import require
from pytest_lora_ckpt.replicas.factory import make_panorama_vlm
from pytest_lora_ckpt.replicas.isolation import quiet_peft
from pytest_lora_ckpt.replicas.loading import is_held
from pytest_lora_ckpt.replicas.names import LAYOUTS, LORA_WEIGHTS, STAGES, parse_spec

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable, Sequence

    from torch import Tensor

    from pytest_lora_ckpt.replicas.model import PanoramaVLM

# A real adapter's config names its base model. Nothing looks this one up.
_BASE_NAME = "panorama-vlm-replica"
_KEEPS = ("all", "trained")


def save_adapter(model: PanoramaVLM, directory: str | os.PathLike[str], *, safe_serialization: bool = True) -> Path:
    """Save the language model's adapter by PEFT's `save_pretrained`; return the directory.

    It then holds `adapter_config.json` and `adapter_model.safetensors`, or `adapter_model.bin` without
    `safe_serialization`, and whatever else PEFT puts there. For an adapter name other than `default` PEFT writes all
    that into a subdirectory of that name, which is then returned.

    Raises:
        ValueError: The model has no LoRA, or no data.

    Example:
        >>> import tempfile
        >>> model = make_panorama_vlm()
        >>> (save_adapter(model, tempfile.mkdtemp()) / "adapter_config.json").is_file()
        True
    """
    if model.lora is None:
        raise ValueError("the model has no adapter to save: build it with lora=True")
    require_data(model)
    adapter = model.language_model
    name = model.lora.adapter_name
    adapter.peft_config[name].base_model_name_or_path = _BASE_NAME
    target = Path(directory)
    with quiet_peft():
        adapter.save_pretrained(target, safe_serialization=safe_serialization, save_embedding_layers=False)
    return target if name == "default" else target / name


def save_replica(
    directory: str | os.PathLike[str],
    *,
    layout: str = "lightning",
    stage: str = "finetune",
    keep: str = "all",
    **make_kwargs: Any,
) -> Path:
    """Make a replica and save it in a layout; return the path to point an audit at.

    | layout | path | by |
    | --- | --- | --- |
    | `lightning` | `panorama-<stage>.ckpt` | a step of Lightning's Trainer, keys begin with `model.` |
    | `torch` | `panorama-<stage>.pt`, the state dict | `torch.save` |
    | `torch-legacy` | the same, in the format from before the zip | `torch.save` |
    | `safetensors` | `panorama-<stage>.safetensors` | `safetensors`; it refuses shared memory, so of the keys that name one tensor only the first is kept |
    | `peft_adapter` | `lora_weights/` | PEFT's `save_pretrained` |

    Args:
        directory: Where to write; made if absent.
        layout: See the table.
        stage: As for `save_stage_checkpoint`.
        keep: As for `save_stage_checkpoint`.
        make_kwargs: For `make_panorama_vlm`.

    Raises:
        ValueError: An argument is not as above.
        ImportError: The layout `lightning` without Lightning.

    Example:
        >>> import tempfile
        >>> save_replica(tempfile.mkdtemp(), layout="torch").name
        'panorama-finetune.pt'
    """  # noqa: E501 - a table cell cannot be wrapped
    require(layout in LAYOUTS, "layout", layout, f"one of {', '.join(LAYOUTS)}")
    where = Path(directory)
    if layout == "lightning":
        return save_stage_checkpoint(where, stage=stage, keep=keep, **make_kwargs)
    model = make_panorama_vlm(stage=stage, **make_kwargs)
    require_data(model)
    where.mkdir(parents=True, exist_ok=True)
    if layout == "peft_adapter":
        return save_adapter(model, where / LORA_WEIGHTS)
    held = is_held(stage, keep)
    state = {key: tensor for key, tensor in model.state_dict().items() if held(key)}
    suffix = "safetensors" if layout == "safetensors" else "pt"
    return write_tensors(state, where / f"panorama-{stage}.{suffix}", older=layout == "torch-legacy")


def write_tensors(contents: dict[str, Any], path: Path, *, older: bool = False) -> Path:
    """Write by safetensors, if the path says so, or by `torch.save`, whose older format has no zip; return the path."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file  # only this layout needs it

        once = {key: tensor.contiguous() for key, tensor in _without_aliases(contents).items()}
        save_file(once, path, metadata={"format": "pt"})
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=not older)
    return path


def _without_aliases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep only the first of the keys that name one tensor; empty tensors share nothing."""
    first: dict[Hashable, str] = {}
    for key, tensor in state.items():
        first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else key, key)
    return {key: state[key] for key in first.values()}


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
    """Write the checkpoint that `replica:STAGE` names into a directory and return its path.

    Raises:
        ValueError: No such replica; the message lists the valid ones.
        ImportError: Lightning is not installed.

    Example:
        >>> import tempfile
        >>> replica_checkpoint("replica:vision", tempfile.mkdtemp()).name
        'panorama-vision.ckpt'
    """
    return save_stage_checkpoint(Path(directory), stage=parse_spec(spec), callbacks=callbacks)
