"""Images and sound for a Hugging Face model, made from its config."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from pytest_lora_ckpt.models import attribute
from pytest_lora_ckpt.proof.running import at_rest, tensors_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_MERGED = 2  # Patches a side, in units of those that are merged into one token.
_STEPS = 32  # Frames of sound.
_SIDES, _IMAGE = 3, 4

Inputs = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Media:
    """What a model sees or hears.

    Attributes:
        inputs: Keyword arguments of its `forward`.
        tokens: Those that stand for it among the ids.
    """

    inputs: Inputs = field(default_factory=dict)
    tokens: Sequence[int] = ()


def images(model: Any, takes: Collection[str]) -> Iterator[Media]:
    """Give images as the model may take them: as pixels, as tiles of one image, as rows of patches.

    None where the model sees and its config does not tell what, or how many tokens an image becomes.

    Args:
        model: A `PreTrainedModel`.
        takes: Parameters of its `forward`.
    """
    if "pixel_values" not in takes:
        return
    tower = attribute(model.config, "vision_config") or model.config
    pixels = _pixels(model, tower)
    shapes = [] if pixels is None else [{"pixel_values": pixels}, {"pixel_values": pixels[None]}]
    if "image_grid_thw" in takes:
        shapes = _patches(model, tower)
    for made in shapes:
        if (tokens := _tokens(model, made)) is not None:
            yield Media(made, tokens)


def sound(model: Any, takes: Collection[str]) -> Iterator[Media]:
    """Give sound as the model may take it: as a spectrogram (Whisper), or as a wave (wav2vec 2.0)."""
    config = model.config
    bins, frames = attribute(config, "num_mel_bins"), attribute(config, "max_source_positions")
    if "input_features" in takes and is_size(bins) and is_size(frames):
        # The encoder's second convolution halves the frames (transformers/models/whisper/modeling_whisper.py).
        yield Media({"input_features": _noise(model, 1, bins, 2 * frames)})
    stride = attribute(config, "inputs_to_logits_ratio")
    if "input_values" in takes and is_size(stride):
        yield Media({"input_values": _noise(model, 1, stride * _STEPS)})


def _pixels(model: Any, tower: Any) -> torch.Tensor | None:
    """(1, channels, height, width), floats around 0, by the sizes in the config; None without sizes."""
    size = attribute(tower, "image_size")
    sizes = [attribute(tower, "num_channels", 3), *(size if isinstance(size, (list, tuple)) else [size, size])]
    shape = [1, *filter(is_size, sizes)]
    return _noise(model, *shape) if len(sizes) == _SIDES and len(shape) == _IMAGE else None


def _patches(model: Any, tower: Any) -> list[Inputs]:
    """Make an image as rows, a patch each, with its size in patches: Qwen2-VL's and its successors'."""
    side, times = attribute(tower, "patch_size"), attribute(tower, "temporal_patch_size", 1)
    channels, merged = attribute(tower, "in_channels", 3), attribute(tower, "spatial_merge_size", 1)
    if not all(map(is_size, (side, times, channels, merged))):
        return []
    across = _MERGED * merged
    rows = _noise(model, across * across, channels * times * side * side)
    return [{"pixel_values": rows, "image_grid_thw": torch.tensor([[1, across, across]], device=rows.device)}]


def _tokens(model: Any, made: Inputs) -> list[int] | None:
    """Return the tokens that stand for an image among the ids; None where their number cannot be known."""
    token = attribute(model.config, "image_token_id") or attribute(model.config, "image_token_index")
    if not isinstance(token, int):
        return []
    # How many tokens an image becomes depends on CLS tokens, strides and poolers, so the model itself is asked.
    try:
        with at_rest(model):
            features = model.get_image_features(**made)
    except Exception:  # noqa: BLE001  # The user's model: it needs more than that.
        return None
    features = attribute(features, "pooler_output", features)
    return [token] * sum(one.numel() // one.shape[-1] for one in tensors_in(features))


def takes_of(model: torch.nn.Module) -> Collection[str]:
    """Return the parameters of a model's `forward`."""
    return inspect.signature(model.forward).parameters


def tensor_of(model: torch.nn.Module) -> torch.Tensor:
    """Return a parameter that has the model's device and dtype: the first floating one that has data."""
    floats = (each for each in model.parameters() if each.dtype.itemsize > 1 and each.is_floating_point())
    return next((each for each in floats if not each.is_meta), torch.empty(0, device="cpu", dtype=torch.float32))


def is_size(value: object) -> TypeGuard[int]:
    """Whether a value of a config is a size."""
    return isinstance(value, int) and value > 0


def generator() -> torch.Generator:
    """Return a generator of random numbers, always the same ones."""
    return torch.Generator(device="cpu").manual_seed(0)


def _noise(model: Any, *shape: int) -> torch.Tensor:
    like = tensor_of(model)
    values = torch.randn(shape, generator=generator(), device="cpu", dtype=torch.float32)
    return values.to(like.device, like.dtype)
