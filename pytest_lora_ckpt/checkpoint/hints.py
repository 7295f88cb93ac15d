"""LoRA configs that a project or a library wrote down, for a checkpoint without adapter_config.json.

They lie in the settings around a state dict (Lightning's hyper-parameters, a runner's config), in the metadata of a
safetensors or GGUF file, and in files next to it.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint.bounded_json import parse_json
from pytest_lora_ckpt.checkpoint.hyperparameters import lora_config_in
from pytest_lora_ckpt.checkpoint.limits import Budget, OverLimitError
from pytest_lora_ckpt.checkpoint.storage import Listing, LocalStorage
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG, RUN_CONFIGS, STEP_DIRECTORY
from pytest_lora_ckpt.vocabulary.formats import CONFIG_ENTRIES
from pytest_lora_ckpt.vocabulary.lora import ADAPTER_METADATA, GGUF_ALPHA

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_MOST_BYTES = 1 << 17  # A config of a run has some kB, and YAML takes a second for this.


def hinted_configs(
    envelope: Mapping[str, object], around: Listing | None, ranks: Collection[int], budget: Budget
) -> tuple[Mapping[str, Any], ...]:
    """Return every LoRA config that is written down, under PEFT's names, equal ones once.

    Args:
        envelope: What lies around the state dict.
        around: Where the checkpoint lies.
        ranks: The ranks of its adapters.
        budget: What is left of the audit's limits.
    """
    configs: list[Mapping[str, Any]] = []
    sources: list[object] = [envelope.get(name) for name in CONFIG_ENTRIES]
    sources += [configs_of_components(envelope, budget), *_next_to(around, budget)]
    for source in sources:
        configs += [each for each in lora_config_in(source) if each not in configs]
    alpha = envelope.get(GGUF_ALPHA)
    if isinstance(alpha, float) and alpha:  # llama.cpp takes alpha / rank, and 1 where alpha is 0.
        configs += [{"r": rank, "lora_alpha": alpha, "use_rslora": False} for rank in sorted(ranks)]
    return tuple(configs)


def configs_of_components(envelope: Mapping[str, object], budget: Budget) -> Mapping[str, Mapping[str, object]]:
    """Read what diffusers writes, `{"unet.r": 4, "unet.lora_alpha": 8, …}`: a config for each component of a pipeline.

    A model saved by itself has no component, `{"r": 4, "lora_alpha": 8, …}`. Anything else says nothing.
    """
    text = envelope.get(ADAPTER_METADATA)
    if not isinstance(text, str):
        return {}
    try:
        content = parse_json(text.encode(), budget).value
    except (ValueError, OverLimitError):
        return {}
    configs: dict[str, dict[str, object]] = defaultdict(dict)
    for name, value in content.items() if isinstance(content, dict) else ():
        component, dot, field = name.partition(".")
        configs[component if dot else ""][field if dot else name] = value
    return configs


def _next_to(around: Listing | None, budget: Budget) -> Iterator[object]:
    """Read the configs of the run, where PyYAML is installed; one that cannot be read says nothing."""
    names = (ADAPTER_CONFIG, *RUN_CONFIGS)
    for listing in _places(around, budget):
        listing.expect(names)
        for name in names:
            content = None
            with contextlib.suppress(Exception):  # Whatever is wrong with it, or no PyYAML.
                window = listing.window(name)
                if window.length <= _MOST_BYTES:
                    text = window.read(0, _MOST_BYTES)
                    content = parse_json(text, budget).value if name == ADAPTER_CONFIG else _yaml(text)
            yield content


def _places(around: Listing | None, budget: Budget) -> Iterator[Listing]:
    """Give the checkpoint's directory, and the one above of a run that has one for each epoch (torchtune)."""
    if around is None:
        return
    yield around
    folder = Path(around.folder).absolute()
    if not around.storage.is_remote and re.fullmatch(STEP_DIRECTORY, folder.name):
        above = str(folder.parent)
        yield Listing(LocalStorage(budget, above), above)


def _yaml(text: bytes) -> object:
    yaml = importlib.import_module("yaml")
    # libyaml takes a tenth of the time, and has a limit on the levels.
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
