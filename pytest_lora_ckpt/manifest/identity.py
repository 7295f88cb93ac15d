"""The adapter config and the base model of a checkpoint, compared with those of a manifest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.manifest.facts import plain_config
from pytest_lora_ckpt.manifest.outcomes import Difference
from pytest_lora_ckpt.vocabulary.lora import PEFT_FIELDS
from pytest_lora_ckpt.wording import listed, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.manifest.schema import Manifest

# Decide nothing once the tensors are trained: how they began, and which head PEFT put on.
_LEFT_OUT = {"init_lora_weights", "task_type", "peft_type"}

# Modules named in one sentence.
_NAMED = 8

# A model in the cache of the hub: `models--ORG--NAME/snapshots/COMMIT`.
_CACHED = re.compile(r"models--(?P<name>[^/\\]+)[/\\]snapshots[/\\](?P<commit>[0-9a-f]{40})")


def config_differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Name the fields in which the config beside a checkpoint differs from that of training.

    A field that is absent has PEFT's default: None, false or empty.

    Example:
        >>> config_differences({"r": 8, "lora_alpha": 16}, {"r": 8, "lora_alpha": 32})[0].message
        'adapter_config.json differs from training: lora_alpha is 32 and was 16.'
    """
    before, after = plain_config(recorded), plain_config(now)
    changes = [
        _change(name, before.get(name), after.get(name))
        for name in PEFT_FIELDS
        if name not in _LEFT_OUT and _settled(name, before.get(name)) != _settled(name, after.get(name))
    ]
    if not changes:
        return []
    return [Difference("config-differs", f"adapter_config.json differs from training: {'; '.join(changes)}.")]


def base_differences(manifest: Manifest, config: Mapping[str, Any]) -> tuple[list[Difference], list[str]]:
    """Compare the base model that an adapter's config names with that of training; return differences and notes.

    A path of one machine says little about another, so two paths, or a path and a name, give a note only.
    """
    then, now = manifest.base.name, config.get("base_model_name_or_path")
    if not isinstance(now, str) or not now or not then:
        return [], []
    before, after = _hub_name(then), _hub_name(now)
    if before != after:
        fact = f"adapter_config.json names the base model {_short(now)}, and training had {_short(then)}"
        if _is_path(before) or _is_path(after):
            return [], [f"{fact}: the names do not show whether they are one model."]
        return [Difference("other-base", f"{fact}.")], []
    revisions = (manifest.base.revision, _revision(config))
    if all(revisions) and revisions[0] != revisions[1]:
        fact = f"adapter_config.json names revision {_short(revisions[1])} of the base model {_short(now)}"
        return [Difference("other-base", f"{fact}, and training had {_short(revisions[0])}.")], []
    return [], []


def _settled(name: str, value: Any) -> Any:
    """Return one value for all spellings of a setting."""
    if name == "layers_to_transform" and isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if name == "layers_pattern" and isinstance(value, str) and value:
        return [value]
    return None if not value or value == "none" else value


def _change(name: str, before: Any, after: Any) -> str:
    if isinstance(before, list) and isinstance(after, list):
        parts = [
            f"{what} {listed(rest, most=_NAMED)}"
            for what, rest in (
                ("lacks", [one for one in before if one not in after]),
                ("adds", [one for one in after if one not in before]),
            )
            if rest
        ]
        if parts:
            return f"{name} {' and '.join(parts)}"
    return f"{name} is {_short(after)} and was {_short(before)}"


def _short(value: Any) -> str:
    return printable(f"{value!r:.120}")


def _hub_name(name: str) -> str:
    found = _CACHED.search(name)
    return found["name"].replace("--", "/") if found else name.rstrip("/\\")


def _is_path(name: str) -> bool:
    """Tell a path from `org/name` and `name` of the hub."""
    return name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1


def _revision(config: Mapping[str, Any]) -> str | None:
    revision = config.get("revision")
    return revision if isinstance(revision, str) else None
