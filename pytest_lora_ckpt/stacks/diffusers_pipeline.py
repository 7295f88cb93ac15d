"""diffusers: `DiffusionPipeline.from_pretrained`, of a whole pipeline, or of the base with `load_lora_weights`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.layouts.json_file import read_object
from pytest_lora_ckpt.checkpoint.storage import LocalStorage
from pytest_lora_ckpt.stacks.base import Base, find_base
from pytest_lora_ckpt.stacks.base_model import from_pretrained
from pytest_lora_ckpt.stacks.errors import GIVE_LOADER, StackError
from pytest_lora_ckpt.vocabulary.stacks import DENOISERS, PIPELINE_INDEX
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.stacks.request import Request

NAME = "diffusers"
NEEDS = "diffusers"

_SIDE, _TOKENS = 64, 8


def load(request: Request) -> Any:
    """See `Stack`: the parts of the pipeline that have weights, by their names."""
    if (request.directory / PIPELINE_INDEX).is_file():
        return _parts(_pipeline(Base(str(request.directory), request.directory), request))
    pipeline = _pipeline(find_base(request.base, request.checkpoint, request.around), request)
    if not hasattr(pipeline, "load_lora_weights"):
        raise StackError(f"{type(pipeline).__name__} of diffusers loads no LoRA.", GIVE_LOADER)
    pipeline.load_lora_weights(str(request.directory), weight_name=request.checkpoint.files[0].name)
    return _parts(pipeline)


def _pipeline(base: Base, request: Request) -> Any:
    from diffusers import DiffusionPipeline

    if base.directory is not None:
        _check_parts(base.directory, request)
    return from_pretrained(DiffusionPipeline, base)


def _parts(pipeline: Any) -> Any:
    """Return the modules of a pipeline as one, which runs the one that takes the noise away."""
    import torch

    class Parts(torch.nn.ModuleDict):
        example_input_array: Any = None

        def forward(self, **inputs: Any) -> Any:
            return self[denoiser](**inputs)

    parts = Parts({name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)})
    denoiser = next((name for name in DENOISERS if name in parts), "")
    parts.example_input_array = _noise(parts[denoiser]) if denoiser else None
    return parts


def _noise(model: Any) -> dict[str, Any] | None:
    """Make inputs of a U-Net that is guided by a text alone; None for any other."""
    import torch

    config = model.config
    size, channels, width = (config.get(name) for name in ("sample_size", "in_channels", "cross_attention_dim"))
    if config.get("addition_embed_type") or not all(isinstance(each, int) for each in (size, channels, width)):
        return None
    generator = torch.Generator().manual_seed(0)
    side = min(size, _SIDE)
    return {
        "sample": torch.randn(1, channels, side, side, generator=generator),
        "timestep": torch.tensor([1]),
        "encoder_hidden_states": torch.randn(1, _TOKENS, width, generator=generator),
    }


def _check_parts(directory: Path, request: Request) -> None:
    """Refuse parts of other packages: diffusers imports what the index names.

    Raises:
        StackError: There is one.
    """
    import diffusers

    listing = LocalStorage(request.checkpoint.budget).locate(str(directory))
    try:
        index = read_object(
            listing, PIPELINE_INDEX, "index_bytes", what="index", expected="a pipeline of diffusers", remedy=GIVE_LOADER
        ).value
    except CheckpointError as error:
        raise StackError(f"{printable(error.path)}: {error.found}.", GIVE_LOADER) from error
    for name, part in index.items():
        library = part[0] if isinstance(part, list) and part else None
        own = library in {None, "diffusers", "transformers"} or (
            isinstance(library, str) and library.isidentifier() and hasattr(diffusers.pipelines, library)
        )
        if not own or (name == "_class_name" and not hasattr(diffusers, str(part))):
            message = (
                f"{PIPELINE_INDEX} names {printable(repr(part), 100)} for {printable(name)}, which is not of diffusers."
            )
            raise StackError(message, GIVE_LOADER)
