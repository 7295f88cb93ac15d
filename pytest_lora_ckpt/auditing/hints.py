"""LoRA configs that a project or a library wrote down, for a checkpoint without adapter_config.json.

They lie in Lightning's hyper-parameters, in the metadata of a safetensors file, and in YAML files next to it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.hyperparameters import lora_config_in
from pytest_lora_ckpt.checkpoint.bounded_json import parse_json
from pytest_lora_ckpt.checkpoint.limits import Budget, OverLimitError
from pytest_lora_ckpt.checkpoint.storage import LocalStorage
from pytest_lora_ckpt.vocabulary.files import RUN_CONFIGS
from pytest_lora_ckpt.vocabulary.lora import ADAPTER_METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint import Checkpoint

_MOST_BYTES = 1 << 17  # A config of a run has some kB, and YAML takes a second for this.


def hinted_configs(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], ...]:
    """Return every LoRA config that is written down, under PEFT's names, equal ones once."""
    configs: list[Mapping[str, Any]] = []
    envelope = checkpoint.envelope
    sources = [envelope.get("hyper_parameters"), _by_component(envelope.get(ADAPTER_METADATA), checkpoint.budget)]
    for source in (*sources, *_next_to(checkpoint.path)):
        configs += [each for each in lora_config_in(source) if each not in configs]
    return tuple(configs)


def _by_component(text: object, budget: Budget) -> Mapping[str, Mapping[str, object]]:
    """Read what diffusers writes: `{"unet.r": 4, "unet.lora_alpha": 8, …}`; anything else says nothing."""
    if not isinstance(text, str):
        return {}
    try:
        content = parse_json(text.encode(), budget).value
    except (ValueError, OverLimitError):
        return {}
    configs: dict[str, dict[str, object]] = defaultdict(dict)
    for name, value in content.items() if isinstance(content, dict) else ():
        component, _, field = name.partition(".")
        configs[component][field] = value
    return configs


def _next_to(path: Path) -> Iterator[object]:
    """Read the configs of the run, where PyYAML is installed; one that cannot be read says nothing."""
    listing = LocalStorage().locate(str(path if path.is_dir() else path.parent))
    for name in RUN_CONFIGS:
        content = None
        with contextlib.suppress(Exception):  # Whatever is wrong with it, or no PyYAML.
            window = listing.window(name)
            if window.length <= _MOST_BYTES:
                yaml = importlib.import_module("yaml")
                # libyaml takes a tenth of the time, and has a limit on the levels.
                loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
                content = yaml.load(window.read(0, _MOST_BYTES), Loader=loader)
        yield content
