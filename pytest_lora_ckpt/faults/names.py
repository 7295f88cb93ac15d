"""Keys with other names than in the model: prefixes, levels, adapter names, conventions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.faults.draft import Draft, require
from pytest_lora_ckpt.faults.fault import ADAPTERS, LAYOUTS, STATE_DICTS, fault
from pytest_lora_ckpt.faults.selecting import layer_at, lora_layers
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.vocabulary.lora import PEFT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable


@fault(LAYOUTS, "model", "https://github.com/jingyaogong/minimind/pull/594")
def wrapper_prefix(draft: Draft) -> None:
    """Saved from the DistributedDataParallel wrapper and not from its module: every key begins with `module.`."""
    draft.rename("module.{}".format)


@fault(LAYOUTS, "model", "https://github.com/MakazhanAlpamys/Soup/issues/335")
def compile_prefix(draft: Draft) -> None:
    """Saved from a compiled model: every key begins with `_orig_mod.`, and all of lora_B stays zero after loading."""
    draft.rename("_orig_mod.{}".format)


@fault(LAYOUTS, "model")
def fsdp_wrapper(draft: Draft) -> None:
    """Saved from FSDP's wrappers without its state-dict context: `_fsdp_wrapped_module` behind every layer number."""
    draft.rename(_inside_layers("_fsdp_wrapped_module"))


@fault(LAYOUTS, "model")
def checkpoint_wrapper(draft: Draft) -> None:
    """Saved from a model whose layers torch's activation checkpointing has wrapped: `_checkpoint_wrapped_module`."""
    draft.rename(_inside_layers("_checkpoint_wrapped_module"))


@fault(LAYOUTS, "model")
def outer_prefix_added(draft: Draft) -> None:
    """Saved from the LightningModule or trainer class around the model: every key is one `model.` deeper."""
    draft.rename("model.{}".format)


@fault(LAYOUTS, "model")
def outer_prefix_lost(draft: Draft) -> None:
    """A script stripped one prefix too many (`model.` of Lightning, `base_model.model.` of PEFT): nothing meets."""
    first = next(iter(draft.entries))
    prefix = PEFT_PREFIX if first.startswith(PEFT_PREFIX) else first[: first.find(".") + 1]
    require(
        prefix and all(key.startswith(prefix) and key != prefix for key in draft.entries),
        "its keys have no common prefix",
    )
    draft.rename(lambda key: key.removeprefix(prefix))


@fault(LAYOUTS, "model", "https://github.com/huggingface/peft/issues/1579")
def inner_level_lost(draft: Draft) -> None:
    """Trained on the class without the head: keys lack one `model.` before the layers, and the adapter is dropped."""
    head = _head_of_layers(draft)
    in_model = f".{head}".endswith(".model.") and not head.endswith(PEFT_PREFIX)
    require(in_model, "the layers that have LoRA are not in a module called `model`")
    draft.rename(lambda key: head.removesuffix("model.") + key[len(head) :] if key.startswith(head) else key)


@fault(LAYOUTS, "model", "https://github.com/vllm-project/vllm/issues/34186")
def inner_level_added(draft: Draft) -> None:
    """The text model of VLMs moved one level down in transformers: its layers are sought under `language_model.`."""
    head = _head_of_layers(draft)
    draft.rename(lambda key: f"{head}language_model.{key[len(head) :]}" if key.startswith(head) else key)


@fault(STATE_DICTS, "model")
def base_layer_lost(draft: Draft) -> None:
    """Converted by a script written for PEFT before 0.6: the adapted weights lost `base_layer` from their keys."""
    draft.rename(lambda key: key.replace(".base_layer.", "."))


@fault(STATE_DICTS, "model", "https://github.com/huggingface/sentence-transformers/issues/3402")
def peft_level_lost(draft: Draft) -> None:
    """LoRA was attached in place in one program and by PeftModel in the other: `base_model.model.` is in no key."""
    draft.rename(lambda key: key.replace(PEFT_PREFIX, "", 1))


@fault(STATE_DICTS, "model", "https://github.com/huggingface/diffusers/issues/11675")
def adapter_renamed(draft: Draft) -> None:
    """The adapter was attached under another name than in training: `lora_A.default_0.weight`."""
    draft.rename(_adapter("{}_0".format))


@fault(STATE_DICTS, "model")
def adapter_name_lost(draft: Draft) -> None:
    """The adapter's name was taken out of the keys, as PEFT's own file has them, and then loaded as a state dict."""
    draft.rename(_adapter(lambda _: None))


@fault(ADAPTERS, "model", "https://github.com/huggingface/peft/issues/2699")
def adapter_name_in_keys(draft: Draft) -> None:
    """The tensors were saved by hand from the model's state dict: the adapter's name stands in the keys of the file."""
    saved = draft.config.get("modules_to_save") or []

    def named(key: str) -> str:
        parsed = parse_key(key)
        segments = list(parsed.segments)
        if not parsed.is_lora:
            if parsed.modules[-1:] and parsed.modules[-1] in saved:
                segments[-1:-1] = ["modules_to_save", "default"]
            return ".".join(segments)
        at = parsed.roles.index("lora") + 1
        segments.insert(at, "default")
        # PEFT takes `default.weight` off the magnitude vector (`peft.utils.get_peft_model_state_dict`).
        if parsed.lora == "lora_magnitude_vector" and len(segments) == at + 1:
            segments.append("weight")
        return ".".join(segments)

    require(any(pair.adapter is None for pair in draft.pairs), "its keys carry an adapter name already")

    draft.rename(named)


@fault(LAYOUTS, "model")
def other_convention(draft: Draft) -> None:
    """Converted for another program: the factors are called lora_down and lora_up, and PEFT loads none of them."""
    draft.rename(lambda key: key.replace(".lora_A.", ".lora_down.").replace(".lora_B.", ".lora_up."))


def _head_of_layers(draft: Draft) -> str:
    """Return everything before `layers.0.` in the keys that have LoRA."""
    key = next(iter(lora_layers(draft, least=1).values()))[0].down
    parsed = parse_key(key)
    number = layer_at(parsed) or 1
    return "".join(f"{segment}." for segment in parsed.segments[: number - 1])


def _inside_layers(segment: str) -> Callable[[str], str]:
    """Return a renaming that adds a segment after the number of a layer."""

    def wrapped(key: str) -> str:
        parsed = parse_key(key)
        at = layer_at(parsed)
        if at is None:
            return key
        return ".".join((*parsed.segments[: at + 1], segment, *parsed.segments[at + 1 :]))

    return wrapped


def _adapter(new_name: Callable[[str], str | None]) -> Callable[[str], str]:
    """Return a renaming that gives the adapter in a key another name, or removes it."""

    def renamed(key: str) -> str:
        parsed = parse_key(key)
        if parsed.adapter is None:
            return key
        name = new_name(parsed.adapter)
        pairs = zip(parsed.segments, parsed.roles, strict=True)
        segments = [name if role == "adapter" else segment for segment, role in pairs]
        return ".".join(segment for segment in segments if segment is not None)

    return renamed
