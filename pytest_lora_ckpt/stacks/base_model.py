"""Loads the base model of an adapter with transformers, as its documentation does."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.stacks.base import GIVE_ANOTHER, GIVE_ANY, find_base
from pytest_lora_ckpt.stacks.classes import candidates, config_of
from pytest_lora_ckpt.stacks.errors import StackError
from pytest_lora_ckpt.stacks.meta import blueprint
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG, MODEL_CONFIG
from pytest_lora_ckpt.wording import beginning, printable, said

if TYPE_CHECKING:
    from pytest_lora_ckpt.stacks.base import Base
    from pytest_lora_ckpt.stacks.request import Request


def load_base(request: Request) -> Any:
    """Load the base model of an adapter, with the vocabulary and the labels that the adapter was trained with.

    Raises:
        StackError: It is not an adapter, its base model is not to be had, or transformers cannot load it.
    """
    checkpoint = request.checkpoint
    if checkpoint.adapter_config is None:
        message = f"{printable(request.path.name)} is not an adapter of PEFT, with {ADAPTER_CONFIG}."
        raise StackError(
            message, "Give the directory of the adapter, or a loader of your own: --lora-loader=module:function."
        )
    base = at_hand(find_base(request.base, checkpoint, request.around))
    content = base.config(checkpoint.budget)
    config = config_of(content)
    kind, *_ = candidates(config, checkpoint.adapter_config)
    labels = vocabulary = None
    with contextlib.suppress(StackError):  # What cannot be built without weights may load all the same.
        plan = blueprint(checkpoint, content)
        kind, labels, vocabulary = plan.kind, plan.labels, plan.vocabulary
    options = {}
    if labels is not None:
        config.num_labels = labels
        options = {"ignore_mismatched_sizes": True}  # A head of another size is the adapter's own.
    model = from_pretrained(kind, base, config=config, **options)
    if vocabulary is not None:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return model


def at_hand(base: Base) -> Base:
    """Return a base model whose config lies on this machine; one from the Hub is fetched through the Hub's own cache.

    Raises:
        StackError: It is not in the local cache, and cannot be fetched.
    """
    if not base.is_named:
        raise StackError(f"{ADAPTER_CONFIG} names no base model.", GIVE_ANY)
    if base.directory is not None:
        return base
    from huggingface_hub import constants, hf_hub_download

    name = printable(base.name)
    download = f"Run `hf download {name}` first, or give the base model: --lora-base=PATH."
    if constants.HF_HUB_OFFLINE:
        raise StackError(
            f"The base model {name} is not in the local Hugging Face cache, and HF_HUB_OFFLINE is set.", download
        )
    try:
        found = hf_hub_download(base.name, MODEL_CONFIG, revision=base.revision)
    except Exception as error:  # No network, no such id, no permission.
        message = f"The base model {name} is not in the local Hugging Face cache, and cannot be fetched: "
        raise StackError(f"{message}{type(error).__name__}: {beginning(said(error), 2)}", download) from error
    return dataclasses.replace(base, directory=Path(found).parent)


def from_pretrained(kind: Any, base: Base, **options: Any) -> Any:
    """Load a model with its class, from the local cache where it is there.

    Raises:
        StackError: It cannot be loaded.
    """
    from huggingface_hub import constants

    options["trust_remote_code"] = False
    if base.on_hub:
        options |= {"revision": base.revision, "local_files_only": True}
    try:
        try:
            return kind.from_pretrained(base.source, **options)
        except OSError:
            if not base.on_hub or constants.HF_HUB_OFFLINE:
                raise
            return kind.from_pretrained(base.source, **options | {"local_files_only": False})
    except Exception as error:  # Whatever transformers raises.
        message = f"{kind.__name__}.from_pretrained({printable(base.source)}) raised "
        remedy = "Install what it asks for." if isinstance(error, ImportError) else GIVE_ANOTHER
        raise StackError(f"{message}{type(error).__name__}: {beginning(said(error))}", remedy) from error
