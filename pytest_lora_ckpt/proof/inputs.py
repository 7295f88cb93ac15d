"""Inputs for a Hugging Face model, made from its config, for projects that give none."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.lora.layers import adapter_layers
from pytest_lora_ckpt.models import attribute, is_module
from pytest_lora_ckpt.proof.media import Inputs, Media, generator, images, is_size, sound, takes_of, tensor_of
from pytest_lora_ckpt.proof.running import ForwardHooks, at_rest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_TOKENS, _DECODER_TOKENS, _ROOM, _DRAWN = 8, 4, 10, 256


def default_inputs(model: Any) -> Inputs | None:
    """Make small inputs for a Hugging Face model from its config, for a forward pass and for `generate`.

    The dict that a Lightning module has as its `example_input_array` goes before. Else the model is the one
    `PreTrainedModel` in what is given, be it wrapped by PEFT, `torch.compile` or a module of the project. The values
    are drawn from a generator of their own, so they are the same each time and no random state is touched. They are
    tried: the forward pass must accept them, and reach every tower that has adapters. It never raises.

    | model | inputs |
    | --- | --- |
    | text, and sequence or token classifiers | `input_ids` (1, 8), no special tokens, and `attention_mask` |
    | encoder-decoder | the same, and `decoder_input_ids` (1, 4) |
    | image classifiers and encoders | `pixel_values` (1, channels, height, width) |
    | image and text (LLaVA, PaliGemma; CLIP, SigLIP) | ids with as many image tokens as the model makes, and pixels |
    | the same with tiles (Idefics3), or with patches (Qwen2-VL) | the same, and the size of the image in patches |
    | speech (Whisper, wav2vec 2.0) | `input_features` (1, bins, frames) and `decoder_input_ids`, or `input_values` |

    Args:
        model: Any module.

    Returns:
        Keyword arguments on the model's device; None where the config does not tell what the model needs (video, sound
        among text, models of no library).

    Example:
        >>> default_inputs(torch.nn.Linear(1, 1)) is None
        True
    """
    inner = _hugging_face_model(model) if is_module(model) else None
    example = attribute(model, "example_input_array")
    if is_module(model) and isinstance(example, dict) and _runs(model, example):
        return example
    candidates = _candidates(inner) if inner is not None else ()
    # A module of sentence-transformers takes them in one dict.
    inside = inner is not None and inner is not model and "input" in inspect.signature(model.forward).parameters
    tried = ({"input": made} if inside else made for made in candidates)
    return next((inputs for inputs in tried if _runs(model, inputs)), None)


def _hugging_face_model(model: torch.nn.Module) -> Any:
    """Return the one `PreTrainedModel` that lies in no other one; None where there are several, or none."""
    outermost: dict[str, torch.nn.Module] = {}
    for path, module in model.named_modules():
        inside = any(not outer or path.startswith(f"{outer}.") for outer in outermost)
        if not inside and any(base.__name__ == "PreTrainedModel" for base in type(module).__mro__):
            outermost[path] = module
    return next(iter(outermost.values())) if len(outermost) == 1 else None


def _candidates(model: Any) -> Iterator[Inputs]:
    """Make what the model may take, the likeliest first."""
    config, takes = model.config, takes_of(model)
    senses = [*sound(model, takes), *images(model, takes)]
    text = attribute(config, "text_config") or config
    if "input_ids" not in takes and "decoder_input_ids" not in takes:
        yield from (each.inputs for each in senses)
        return
    blind = attribute(config, "vision_config") is not None and not senses
    if blind or not is_size(attribute(text, "vocab_size")):
        return
    ids = _draw_ids(model, text)
    device = tensor_of(model).device
    decoder: Inputs = {}
    if attribute(config, "is_encoder_decoder", default=False) and "decoder_input_ids" in takes:
        if isinstance(end := attribute(config, "eos_token_id"), int):
            ids[-1:] = [end]  # Classifiers look for its position.
        starts = (attribute(config, f"{name}_token_id") for name in ("decoder_start", "bos", "pad"))
        start = next((token for token in starts if isinstance(token, int)), ids[0])
        decoder = {"decoder_input_ids": torch.tensor([[start, *ids[: _DECODER_TOKENS - 1]]], device=device)}
    for each in senses or [Media()]:
        words = _words(each.tokens, ids, takes, device) if "input_ids" in takes else {}
        if decoder:
            yield words | decoder | each.inputs
        yield words | each.inputs  # A classifier that is an encoder-decoder makes its decoder's inputs itself.


def _words(image: Sequence[int], ids: list[int], takes: Collection[str], device: torch.device) -> Inputs:
    """Put the tokens of an image before those of a text, and say which are which to a model that asks."""
    given = torch.tensor([[*image, *ids]], device=device)
    further = {
        "attention_mask": torch.ones_like(given),
        "mm_token_type_ids": torch.tensor([[1] * len(image) + [0] * len(ids)], device=device),
    }
    return {"input_ids": given} | {name: each for name, each in further.items() if name in takes}


def _runs(model: torch.nn.Module, inputs: Inputs) -> bool:
    """Whether a model accepts these inputs, and runs its adapted towers on them."""
    hooks = ForwardHooks(model)
    try:
        with at_rest(model), hooks:
            model(**inputs)
    except Exception:  # noqa: BLE001  # The user's model: whatever it raises, it does not accept them.
        return any(each.is_meta for each in model.parameters())  # Without data it accepts nothing.
    ran = {*hooks.ended}
    return all(_is_reached(layer.module, ran) for layer in adapter_layers(model))


def _is_reached(path: str, ran: Collection[str]) -> bool:
    """Whether the layer of a tower around this module ran. An expert inside it need not be chosen."""
    segments = path.split(".")
    numbers = [place for place, segment in enumerate(segments) if segment.isdigit()]
    return not numbers or ".".join(segments[: numbers[0] + 1]) in ran or path in ran


def _draw_ids(model: Any, text: Any) -> list[int]:
    """Draw token ids that are not special tokens."""
    vocabulary = text.vocab_size
    with contextlib.suppress(NotImplementedError, AttributeError):  # Not every model gives its embedding.
        vocabulary = min(vocabulary, model.get_input_embeddings().num_embeddings)
    special = set()
    for config in (model.config, text):
        for name, value in vars(config).items():
            if name.endswith(("_token_id", "_token_index", "_token_ids")):
                special |= {*value} if isinstance(value, (list, tuple)) else {value}
    # Leave room for what is generated after them, where positions are few.
    longest = attribute(text, "max_position_embeddings")
    length = min(_TOKENS, max(1, longest - _ROOM)) if is_size(longest) else _TOKENS
    drawn = torch.randint(vocabulary, (_DRAWN,), generator=generator(), device="cpu").tolist()
    return ([token for token in drawn if token not in special] or drawn)[:length]
