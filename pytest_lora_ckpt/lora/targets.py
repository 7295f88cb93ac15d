"""Which modules the fields of an adapter's config name, by PEFT's own rules of matching."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def is_target(module: str, name: str) -> bool:
    """Tell whether a name in a list of `target_modules` names this module.

    Example:
        >>> is_target("layers.0.q_proj", "q_proj"), is_target("layers.0.q_proj", "proj")
        (True, False)
    """
    return module == name or module.endswith(f".{name}")


def is_left_out(module: str, config: Mapping[str, Any]) -> str | None:
    """Name the field by which PEFT leaves a module out, though `target_modules` names it; None where it does not.

    Source: `check_target_module_exists` in peft/tuners/tuners_utils.py.

    Example:
        >>> is_left_out("layers.3.q_proj", {"layers_to_transform": [0, 1], "target_modules": ["q_proj"]})
        'layers_to_transform'
    """
    excluded = config.get("exclude_modules")
    if isinstance(excluded, str) and matches(excluded, module):
        return "exclude_modules"
    if isinstance(excluded, list) and any(is_target(module, str(name)) for name in excluded):
        return "exclude_modules"
    wanted = config.get("layers_to_transform")
    layers = {number for number in (wanted if isinstance(wanted, list) else [wanted]) if isinstance(number, int)}
    targets = config.get("target_modules")
    # With a pattern as target_modules PEFT takes no layers, and a module named in full is one whatever its layer.
    if not layers or not isinstance(targets, list) or module in targets:
        return None
    return "layers_to_transform" if layers.isdisjoint(_layers_of(module, config.get("layers_pattern"))) else None


def _layers_of(module: str, patterns: object) -> set[int]:
    """Give the number of the layer around a module, as any release of PEFT counts it.

    Without a pattern it is the first number that follows two names, and was the last one in releases before 0.19
    (`layers.1.experts.0` is layer 1, and was layer 0).
    """
    listed = patterns if isinstance(patterns, list) else [patterns] if isinstance(patterns, str) and patterns else []
    forms = [rf"(?:^|{any_}\.){name}" for name in listed for any_ in (".*?", ".*")]
    forms = forms or [r".*?\.[^.]*", r".*\.[^.]*"]
    found = (_match(rf"{form}\.(\d{{1,9}})\.", module) for form in forms)
    return {int(match[1]) for match in found if match}


def is_saved(key: str, names: Iterable[str]) -> bool:
    """Tell whether a module around this tensor is in `modules_to_save`: PEFT takes each whose path ends with a name.

    So `norm` takes `input_layernorm` as well (`_set_trainable` in peft/utils/other.py).

    Example:
        >>> is_saved("layers.0.input_layernorm.weight", ["norm"]), is_saved("layers.0.normal.weight", ["norm"])
        (True, False)
    """
    wanted = tuple(names)
    return any(path.endswith(wanted) for path in modules_around(key))


def modules_around(key: str) -> Iterator[str]:
    """Give the path of every module around a tensor.

    Example:
        >>> list(modules_around("layers.0.norm.weight"))
        ['layers', 'layers.0', 'layers.0.norm']
    """
    segments = key.split(".")
    return (".".join(segments[:end]) for end in range(1, len(segments)))


def matches(pattern: str, path: str) -> bool:
    """Tell whether a regular expression takes the whole path; one that is broken takes none."""
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error:
        return False


def _match(pattern: str, path: str) -> re.Match[str] | None:
    try:
        return re.match(pattern, path)
    except re.error:
        return None
