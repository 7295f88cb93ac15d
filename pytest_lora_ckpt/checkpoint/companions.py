"""What else lies in an adapter's directory: trained weights in other files, and further adapters. Found by content."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint, Companion, open_companion
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.checkpoint.formats import FORMATS, gguf_file
from pytest_lora_ckpt.checkpoint.layouts import peft_adapter, transformers_model
from pytest_lora_ckpt.checkpoint.layouts.several_files import Part, join
from pytest_lora_ckpt.checkpoint.layouts.single_file import checkpoint_of
from pytest_lora_ckpt.checkpoint.limits import HEAD
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.vocabulary.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_CARD,
    MODEL_WEIGHTS,
    MODULE_DIRECTORY,
    MODULES_INDEX,
    SHARD,
    STEP_DIRECTORY,
    TRAINING_STATE,
    WEIGHTS_ENDINGS,
)
from pytest_lora_ckpt.wording import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_lora_ckpt.checkpoint.address import Place
    from pytest_lora_ckpt.checkpoint.index import IndexFile
    from pytest_lora_ckpt.checkpoint.layouts import Layout
    from pytest_lora_ckpt.checkpoint.storage import Listing

    Assemble = Callable[[Listing, Sequence[Layout]], Checkpoint]

# The ways in which a state dict is broken; any other file that cannot be read is no state dict.
_BROKEN = frozenset(
    {"truncated", "damaged", "zeros", "empty", "empty-file", "git-lfs-pointer", "incomplete-tensor", "no-permission"}
    | {"ambiguous-archive", "link-outside", "over-limit"}
)
_MODELS = tuple(name.rpartition(".")[0] for name in MODEL_WEIGHTS)
_MOST = 0.5  # Of the adapted modules.


def beside(adapter: Checkpoint, listing: Listing, assemble: Assemble, index_file: IndexFile) -> Iterator[Companion]:
    """Open what lies in an adapter's directory and may be part of what was trained.

    Args:
        adapter: The adapter.
        listing: Its directory.
        assemble: Makes one checkpoint of the files of a layout.
        index_file: Reads what one file holds.
    """
    folder = type(listing)(listing.storage, listing.folder)
    names = [name for name in folder.names if name not in {ADAPTER_CONFIG, *ADAPTER_WEIGHTS}]
    whole = _whole_model(folder, assemble)
    if whole is not None:
        yield _judged(adapter, whole, whole.files[0].parent if len(whole.files) > 1 else whole.files[0])
    taken = {path.name for path in whole.files} if whole else set()
    folder.expect(name for name in names if name not in taken and name.endswith(WEIGHTS_ENDINGS))
    yield from below(adapter, folder, assemble)
    for name in names:
        if name not in taken and folder.has(name):
            found = open_companion("weights", folder.where(name), lambda name=name: _open(folder, name, index_file))  # type: ignore[misc]
            if found.checkpoint is not None:
                if not _is_training_state(name, found.checkpoint):
                    yield _judged(adapter, found.checkpoint, found.path)
            elif found.error is not None and _is_broken(name, found.error):
                why = "a model that cannot be read" if name.startswith(_MODELS) else ""
                yield dataclasses.replace(found, kind="other", why=why) if why else found


def below(checkpoint: Checkpoint, folder: Listing, assemble: Assemble) -> Iterator[Companion]:
    """Open what was trained and lies in sub-directories: adapters, and modules and components of a model.

    Args:
        checkpoint: What the directory itself is.
        folder: The directory.
        assemble: Makes one checkpoint of the files of a layout.
    """
    has_modules = folder.has(MODULES_INDEX)
    for name in folder.names:
        inside = folder.directory(name) if name != checkpoint.called else None
        if inside is None:
            continue
        if inside.has(ADAPTER_CONFIG) and not _is_step(name, inside):
            found = open_companion("adapter", inside.path, partial(assemble, inside, (peft_adapter,)), called=name)
            yield dataclasses.replace(found, has_card=inside.has(MODEL_CARD))
        elif has_modules and re.fullmatch(MODULE_DIRECTORY, name) and transformers_model.accepts(inside):
            # sentence-transformers' model calls a module by the number that its directory begins with.
            found = open_companion("weights", inside.path, partial(_part, name.partition("_")[0], inside, assemble))
            yield _judged(checkpoint, found.checkpoint, found.path) if found.checkpoint else found
        elif not has_modules and _may_be_component(checkpoint, name, inside):
            found = open_companion("weights", inside.path, partial(_part, name, inside, assemble))
            yield _component(checkpoint, found.checkpoint, name) if found.checkpoint else found


def _may_be_component(checkpoint: Checkpoint, name: str, inside: Listing) -> bool:
    """Whether a directory below an adapter's holds weights, and is no intermediate checkpoint."""
    is_adapter = checkpoint.adapter_config is not None
    return is_adapter and transformers_model.accepts(inside) and not _is_step(name, inside)


def _component(adapter: Checkpoint, found: Checkpoint, name: str) -> Companion:
    """Judge what lies in a directory of a component: the adapter may call it by another name."""
    adapted = {pair.module for pair in adapter.keys.derived(lora_pairs)}
    own = {module for module in adapted if module.startswith(f"{name}.")} or adapted
    ends = {module[at + 1 :] for module in own for at, letter in enumerate(module) if letter == "."} | own
    parsed = found.keys.derived(parse_keys).values()
    weights = [each for each in parsed if each.parameter == "weight" and not each.is_adapter]
    below = [(each, each.module_path.removeprefix(f"{name}.")) for each in weights]
    held = [each for each, path in below if each.module_path in own or (path in ends and "." in path)]
    if not held:
        return _judged(adapter, found, found.path)
    modules = count(len(held), "module")
    if all("base_layer" in each.roles for each in held):
        return Companion("base", found.path, found, why=f"the base model's weights of {modules} that are adapted")
    return Companion(
        "other", found.path, found, why=f"a whole model: it holds the weights of {modules} that are adapted"
    )


def _part(name: str, inside: Listing, assemble: Assemble) -> Checkpoint:
    """Index a part of a model in a directory of its own, each key behind the part's name."""
    found = assemble(inside, (transformers_model,))
    return join([Part(name, found, f"{name}.")], inside.path, found.layout)


def _open(folder: Listing, name: str, index_file: IndexFile) -> Checkpoint:
    """Index one file; a file that does not begin as one with tensors is not read any further.

    Raises:
        CheckpointError: It holds no state dict.
    """
    # On this machine a look is cheap; elsewhere the name decides.
    is_other = not name.endswith(WEIGHTS_ENDINGS)
    if is_other and (folder.storage.is_remote or not _may_hold_tensors(folder, name)):
        raise _error(folder, name, "not-a-checkpoint", "a file of another kind", "Look at the file.")
    return checkpoint_of(index_file(folder, name))


def _error(folder: Listing, name: str, problem: str, found: str, remedy: str) -> CheckpointError:
    return CheckpointError(problem, folder.where(name), expected="a state dict", found=found, remedy=remedy)


def _may_hold_tensors(folder: Listing, name: str) -> bool:
    try:
        head = folder.window(name).read(0, HEAD)
    except OSError:
        return False
    return any(form.accepts(head, name) for form in FORMATS)


def _whole_model(folder: Listing, assemble: Assemble) -> Checkpoint | None:
    """Index a model that `save_pretrained` wrote into the same directory, all its shards as one."""
    if not transformers_model.accepts(folder):
        return None
    try:
        return assemble(folder, (transformers_model,))
    except CheckpointError:
        return None  # Its files are looked at one by one.


def _judged(adapter: Checkpoint, found: Checkpoint, path: Place) -> Companion:
    """Say whether a state dict may be part of what was trained."""
    why = "a shard of a whole model" if re.search(SHARD, path.name) else _what_else(adapter, found)
    return Companion("other" if why else "weights", path, found, why=why)


def _what_else(adapter: Checkpoint, found: Checkpoint) -> str:
    if found.format == gguf_file.NAME:
        return "a file for llama.cpp"
    adapted = {pair.module for pair in adapter.keys.derived(lora_pairs)}
    parsed = list(found.keys.derived(parse_keys).values())
    weights = {each.module_path for each in parsed if each.parameter == "weight" and not each.is_adapter}
    if adapted and len(adapted & weights) > _MOST * len(adapted):
        return f"a whole model: it holds the weights of {count(len(adapted & weights), 'module')} that are adapted"
    factors = {pair.module for pair in found.keys.derived(lora_pairs)}
    if factors and all(each.is_adapter for each in parsed):
        if factors <= adapted:
            return f"another copy of the adapter, of {count(len(factors), 'module')}"
        if factors.isdisjoint(adapted) and _shapes(found) == _shapes(adapter):
            return "another copy of the adapter, under the names of another library"
    return ""


def _shapes(checkpoint: Checkpoint) -> Counter[object]:
    """Count the shapes of the updates: torchtune saves its adapter under PEFT's names and under its own."""
    return Counter((pair.rank, pair.shape) for pair in checkpoint.keys.derived(lora_pairs))


def _is_training_state(name: str, found: Checkpoint) -> bool:
    """Whether the tensors are those of an optimiser or of a random number generator; the name breaks a tie."""
    floats = any(info.dtype.startswith(("float", "bfloat")) for info in found.keys.values())
    return not floats or (name.startswith(TRAINING_STATE) and not any("." in key for key in found.keys))


def _is_broken(name: str, error: CheckpointError) -> bool:
    """Whether what cannot be read was to be trained weights."""
    return error.problem in _BROKEN and name.endswith(WEIGHTS_ENDINGS) and not name.startswith(TRAINING_STATE)


def _is_step(name: str, inside: Listing) -> bool:
    """Whether a directory below an adapter's is an intermediate checkpoint of the same run, not a further adapter."""
    if re.fullmatch(STEP_DIRECTORY, name):
        return True
    try:
        return any(each.startswith(TRAINING_STATE) for each in inside.names)
    except OSError:
        return True
