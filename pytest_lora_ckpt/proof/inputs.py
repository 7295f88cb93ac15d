"""Inputs for a Hugging Face model, made from its config, where the project gives none."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pytest_lora_ckpt.proof.running import at_rest, tensors_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_TOKENS, _DECODER_TOKENS, _ROOM, _DRAWN = 8, 4, 10, 256
_DUAL_ENCODERS = frozenset({"clip", "siglip"})
# They want more than ids and pixels: boxes, recorded sound, several images in time.
_STRANGE_ARGUMENTS = frozenset({"bbox", "input_features", "input_values", "image_grid_thw", "aspect_ratio_ids"})
# A language model's config says nothing of the images that a class of the project's own adds to it.
_IMAGES = frozenset({"pixel_values", "images", "image"})
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_STRANGE_WORDS = ("audio", "speech", "codebook", "num_frames", "image_grid_pinpoints")


class _Found(NamedTuple):
    model: Any  # The Hugging Face model, without wrappers.
    config: Any
    takes: frozenset[str]  # Names of the arguments of its `forward`.
    held: bool  # Whether another model holds it, whose own `forward` is in between.


def default_inputs(model: Any) -> dict[str, torch.Tensor] | None:
    """Make small inputs for a Hugging Face model from its config, for a forward pass and for `generate`.

    The model is known by its `config`, also inside PEFT's wrappers, `torch.compile`, and a module (`LightningModule`)
    that holds one such model and whose own `forward` takes its arguments. transformers is not imported. The values are
    drawn from a generator of their own, so they are the same each time and no random state is touched.

    | model | inputs |
    | --- | --- |
    | text, and sequence or token classifiers | `input_ids` (1, 8), no special tokens, and `attention_mask` |
    | encoder-decoder | the same, and `decoder_input_ids` (1, 4) |
    | image classifiers and encoders | `pixel_values` (1, channels, height, width) |
    | image and text (LLaVA, PaliGemma; CLIP, SigLIP) | ids with as many image tokens as the model makes, and pixels |

    Returns:
        Keyword arguments on the model's device; None where what the model needs cannot be known for sure (audio, video,
        images cut into tiles, encoder-decoders of images, models of no library). It never raises.

    Example:
        >>> default_inputs(torch.nn.Linear(1, 1)) is None
        True
    """
    try:
        found = _find(model)
        inputs = _make(found) if found else None
        return inputs if found and inputs and _accepts(model, inputs, found) else None
    except Exception:  # noqa: BLE001  # A config may be of any shape; what it does not tell is not known.
        return None


def _find(model: Any) -> _Found | None:
    """Look for the one Hugging Face model: the model itself, or a direct child."""
    inner = _unwrapped(model)
    held = not _is_hugging_face(inner)
    if held:
        children = [_unwrapped(child) for child in inner.children()]
        ours = [child for child in children if _is_hugging_face(child)]
        if len(ours) != 1:
            return None
        inner = ours[0]
    return _Found(inner, inner.config, frozenset(inspect.signature(inner.forward).parameters), held)


def _unwrapped(model: Any) -> Any:
    """Take PEFT's wrappers, `torch.compile` and `torch.nn.parallel` off."""
    for _ in range(4):
        library = type(model).__module__
        if callable(getattr(model, "get_base_model", None)):
            model = model.get_base_model()
        elif library.startswith("torch._dynamo"):
            model = model._orig_mod  # noqa: SLF001  # The only name that torch has for it.
        elif library.startswith(("torch.nn.parallel", "torch.distributed")):
            model = model.module
        elif library.startswith("peft."):
            model = model.model
        else:
            break
    return model


def _is_hugging_face(model: Any) -> bool:
    config = getattr(model, "config", None)
    return isinstance(getattr(config, "model_type", None), str) and callable(getattr(config, "to_dict", None))


def _accepts(model: Any, inputs: Mapping[str, Any], found: _Found) -> bool:
    """Tell whether the outermost `forward` takes these arguments, and asks for nothing that only it knows."""
    signature = inspect.signature(model.forward)
    if found.held:
        home = getattr(model.forward, "__module__", "")
        named = {name for name, each in signature.parameters.items() if each.kind not in _VARIADIC}
        # Where nobody wrote a forward, the one that is there raises.
        if home.startswith(("lightning.", "pytorch_lightning.", "torch.nn.modules")) or not named <= found.takes:
            return False
    try:
        signature.bind(**inputs)
    except TypeError:
        return False
    return True


def _make(found: _Found) -> dict[str, torch.Tensor] | None:
    config, takes = found.config, found.takes
    words = {*vars(config), *takes}
    if takes & _STRANGE_ARGUMENTS or any(strange in word for word in words for strange in _STRANGE_WORDS):
        return None
    if "input_ids" not in takes:
        pixels = _pixels(found) if "pixel_values" in takes else None
        return {"pixel_values": pixels} if pixels is not None else None
    text = _text_config(config)
    if not isinstance(getattr(text, "vocab_size", None), int) or type(found.model).__name__.endswith("MultipleChoice"):
        return None
    images: dict[str, torch.Tensor] | None = {}
    before: list[int] = []
    if getattr(config, "vision_config", None) is not None:
        images, before = _images(found)
    if images is None or (not images and takes & _IMAGES):
        return None
    inputs = {name: value for name, value in _text(found, text, before).items() if name in takes}
    return inputs | images


def _text(found: _Found, text: Any, before: list[int]) -> dict[str, torch.Tensor]:
    """Make the ids, after those `before` that stand for an image, and for an encoder-decoder its second input."""
    config, device = found.config, _tensor_of(found.model).device
    ids = _draw(found, text)
    inputs = {}
    if getattr(config, "is_encoder_decoder", False):
        if isinstance(end := getattr(config, "eos_token_id", None), int):
            ids[-1:] = [end]  # Classifiers look at its place.
        tokens = (getattr(config, f"{name}_token_id", None) for name in ("decoder_start", "bos", "pad"))
        first = next((token for token in tokens if isinstance(token, int)), ids[0])
        # A classifier makes its own from `input_ids`: they must be of one length.
        if not type(found.model).__name__.endswith("SequenceClassification"):
            inputs["decoder_input_ids"] = torch.tensor([[first, *ids[: _DECODER_TOKENS - 1]]], device=device)
    given = torch.tensor([before + ids], device=device)
    return {"input_ids": given, "attention_mask": torch.ones_like(given), **inputs}


def _images(found: _Found) -> tuple[dict[str, torch.Tensor] | None, list[int]]:
    """Make the pixels, and the image tokens that stand for them; no pixels where their number cannot be known."""
    model, config = found.model, found.config
    pixels = _pixels(found) if "pixel_values" in found.takes else None
    if pixels is None:
        return None, []
    if config.model_type in _DUAL_ENCODERS:
        return {"pixel_values": pixels}, []
    token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    if not isinstance(token, int):
        return None, []
    # How many tokens an image becomes depends on CLS tokens, strides and poolers: the model itself is asked.
    with at_rest(model):
        features = model.get_image_features(pixel_values=pixels)
    features = getattr(features, "pooler_output", features)
    return {"pixel_values": pixels}, [token] * sum(one.numel() // one.shape[-1] for one in tensors_in(features))


def _pixels(found: _Found) -> torch.Tensor | None:
    """(1, channels, height, width), floats around 0, by the sizes in the config; None without sizes."""
    config = getattr(found.config, "vision_config", None) or found.config
    size = getattr(config, "image_size", None)
    sizes = [size, size] if isinstance(size, int) else list(size) if isinstance(size, (list, tuple)) else []
    if len(sizes) != 2 or not all(isinstance(side, int) and side > 0 for side in sizes):  # noqa: PLR2004  # Two sides.
        return None
    shape = (1, getattr(config, "num_channels", 3), *sizes)
    like = _tensor_of(found.model)
    values = torch.randn(shape, generator=_generator(), device="cpu", dtype=torch.float32)
    return values.to(like.device, like.dtype)


def _draw(found: _Found, text: Any) -> list[int]:
    """Draw token ids that are no special tokens."""
    special = set(_special_tokens((found.config, text)))
    vocabulary = text.vocab_size
    with contextlib.suppress(NotImplementedError, AttributeError):  # Not every model tells its embedding.
        vocabulary = min(vocabulary, found.model.get_input_embeddings().num_embeddings)
    # Room for what is generated after them, where positions are few.
    longest = getattr(text, "max_position_embeddings", None)
    length = min(_TOKENS, max(1, longest - _ROOM)) if isinstance(longest, int) and longest > 0 else _TOKENS
    drawn = torch.randint(vocabulary, (_DRAWN,), generator=_generator(), device="cpu").tolist()
    plain = [token for token in drawn if token not in special]
    return (plain or drawn)[:length]


def _special_tokens(configs: Iterable[Any]) -> Iterator[int]:
    for config in configs:
        for name, value in vars(config).items():
            if name.endswith(("_token_id", "_token_index", "_token_ids")):
                yield from (one for one in (value if isinstance(value, (list, tuple)) else [value]) if one is not None)


def _text_config(config: Any) -> Any:
    text = getattr(config, "text_config", None)
    return config if text is None else text


def _tensor_of(model: torch.nn.Module) -> torch.Tensor:
    """Return a parameter that has the model's device and dtype: the first one with floats that lies somewhere."""
    floats = [each for each in model.parameters() if each.dtype.itemsize > 1 and each.is_floating_point()]
    return next((each for each in floats if not each.is_meta), torch.empty(0, device="cpu", dtype=torch.float32))


def _generator() -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(0)
