"""Replicas on disk: a PEFT adapter, and `save_replica` for every layout and fault."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.replicas.factory import make_panorama_vlm
from pytest_lora_ckpt.replicas.faults import FAULTS, apply_fault, place
from pytest_lora_ckpt.replicas.isolation import quiet_peft
from pytest_lora_ckpt.replicas.loading import is_held
from pytest_lora_ckpt.replicas.names import LAYOUTS, LORA_WEIGHTS
from pytest_lora_ckpt.replicas.stages import require_data, save_stage_checkpoint

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable

    from torch import Tensor

    from pytest_lora_ckpt.replicas.model import PanoramaVLM

# A real adapter's config names its base model. Nothing looks this one up.
_BASE_NAME = "panorama-vlm-replica"


def save_adapter(
    model: PanoramaVLM, directory: str | os.PathLike[str], *, safe_serialization: bool = True, fault: str | None = None
) -> Path:
    """Save the language model's adapter by PEFT's `save_pretrained`; return the directory.

    It then holds `adapter_config.json` and `adapter_model.safetensors`, or `adapter_model.bin` without
    `safe_serialization`, and whatever else PEFT puts there. For an adapter name other than `default` PEFT writes all
    that into a subdirectory of that name, which is then returned.

    Raises:
        ValueError: The model has no LoRA, or no data; or see `save_replica` on `fault`.

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
    if name != "default":
        target = target / name
    if fault is not None:
        _damage_adapter(target, fault, safe_serialization=safe_serialization)
    return target


def save_replica(
    directory: str | os.PathLike[str],
    *,
    layout: str = "lightning",
    stage: str = "finetune",
    fault: str | None = None,
    keep: str = "all",
    **make_kwargs: Any,
) -> Path:
    """Make a replica and save it in a layout, whole or with a fault; return the path to point an audit at.

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
        fault: A name out of `FAULTS`, or None.
        keep: As for `save_stage_checkpoint`.
        make_kwargs: For `make_panorama_vlm`.

    Raises:
        ValueError: An argument is not as above, or the fault finds nothing to befall.
        ImportError: The layout `lightning` without Lightning.

    Example:
        >>> import tempfile
        >>> save_replica(tempfile.mkdtemp(), layout="torch", fault="nan").name
        'panorama-finetune.pt'
    """  # noqa: E501 - a table cell cannot be wrapped
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    if fault is not None and fault not in FAULTS:
        raise ValueError(f"fault={fault!r} must be one of {', '.join(FAULTS)}")
    where = Path(directory)
    if layout == "lightning":
        path = save_stage_checkpoint(where, stage=stage, keep=keep, **make_kwargs)
        if fault is not None:
            _damage_lightning(path, fault)
        return path
    model = make_panorama_vlm(stage=stage, **make_kwargs)
    require_data(model)
    where.mkdir(parents=True, exist_ok=True)
    if layout == "peft_adapter":
        return save_adapter(model, where / LORA_WEIGHTS, fault=fault)
    held = is_held(stage, keep)
    state = {key: tensor for key, tensor in model.state_dict().items() if held(key)}
    if fault is not None:
        state = apply_fault(fault, state)
    if layout == "safetensors":
        return _save_safetensors(state, where / f"panorama-{stage}.safetensors")
    path = where / f"panorama-{stage}.pt"
    torch.save(state, path, _use_new_zipfile_serialization=layout == "torch")
    return path


def drop_aliases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep of the keys that name one tensor only the first."""
    first: dict[Hashable, str] = {}
    for key, tensor in state.items():
        first.setdefault(place(tensor), key)
    return {key: state[key] for key in first.values()}


def _save_safetensors(state: dict[str, Tensor], path: Path) -> Path:
    from safetensors.torch import save_file  # only this layout needs it

    save_file(drop_aliases(state), path, metadata={"format": "pt"})
    return path


def _damage_lightning(path: Path, fault: str) -> None:
    # Not from a memory map: the file is written over.
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = apply_fault(fault, checkpoint["state_dict"])
    torch.save(checkpoint, path)


def _damage_adapter(directory: Path, fault: str, *, safe_serialization: bool) -> None:
    if safe_serialization:
        from safetensors.torch import load_file  # only this layout needs it

        path = directory / "adapter_model.safetensors"
        _save_safetensors(apply_fault(fault, load_file(path)), path)
    else:
        path = directory / "adapter_model.bin"
        torch.save(apply_fault(fault, torch.load(path, weights_only=True)), path)
