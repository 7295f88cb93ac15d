"""The scaling of LoRA: what a config asks for, and where the layers of a live model have another one in force."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.keys import parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_lora_ckpt.lora.layers import AdapterLayer

__all__ = ["ScalingDifference", "expected_scaling", "scaling_differences"]

# Both sides are one division of two short numbers in double precision; a file may hold a rounded quotient.
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class ScalingDifference:
    """One adapted module whose scaling in force is not the config's.

    Attributes:
        module: Path of the module.
        adapter: Name of the adapter, or None.
        in_force: What the layer multiplies B A by.
        expected: What the config gives.
        why: The one explanation that gives the number in force exactly, the same for all modules where there is one.
    """

    module: str
    adapter: str | None
    in_force: float
    expected: float
    why: str


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a config says of one module."""

    alpha: float
    rank: float
    rslora: bool
    default_alpha: float | None

    def scaling(self, alpha: float, *, rslora: bool) -> float:
        return alpha / (math.sqrt(self.rank) if rslora else self.rank)

    @property
    def expected(self) -> float:
        return self.scaling(self.alpha, rslora=self.rslora)


def expected_scaling(config: Mapping[str, Any], module: str, rank: int | None = None) -> float | None:
    """Compute the scaling that PEFT gives a module under a config: alpha / r, or alpha / sqrt(r) with rsLoRA.

    `rank_pattern` and `alpha_pattern` are matched as PEFT matches them: the first name, or regular expression, that
    ends the module's path (`get_pattern_key` in peft/utils/other.py, `LoraModel._create_and_replace`).

    Args:
        config: The content of `adapter_config.json`, or a config found in hyper-parameters.
        module: Path of the module, in the PEFT model or in the base model; for `target_parameters` with the parameter.
        rank: The rank in the model, for a config without `r`.

    Returns:
        None where the config has no number, or is not one of LoRA.

    Example:
        >>> config = {"r": 4, "lora_alpha": 8, "use_rslora": False, "alpha_pattern": {"v_proj": 2}}
        >>> expected_scaling(config, "layers.0.q_proj"), expected_scaling(config, "layers.0.v_proj")
        (2.0, 0.5)
    """
    terms = _terms(config, module, rank)
    return None if terms is None else terms.expected


def scaling_differences(layers: Iterable[AdapterLayer], config: Mapping[str, Any]) -> list[ScalingDifference]:
    """Hold the scaling in force in each module against the one that a config gives.

    Modules whose scaling is not known, and modules for which the config has no number, are left out. A merged adapter
    is measured as well: its layer still holds the number that it was merged with.

    Args:
        layers: What `adapter_layers` gives, of the adapters that this config is for.
        config: The content of `adapter_config.json`, or a config found in hyper-parameters.

    Example:
        >>> from torch import ones
        >>> from pytest_lora_ckpt.lora.layers import AdapterLayer
        >>> layer = AdapterLayer("q", None, "linear", ones(4, 8), ones(8, 4), scaling=2.0, rank=4)
        >>> [each.why for each in scaling_differences([layer], {"r": 4, "lora_alpha": 8, "use_rslora": True})]
        ['rsLoRA lost: alpha / r in the model, alpha / sqrt(r) by the config']
    """
    odd = []
    for layer in layers:
        terms = _terms(config, _config_path(layer), layer.rank)
        if layer.scaling is not None and terms is not None and not _same(layer.scaling, terms.expected):
            odd.append((layer, layer.scaling, terms))
    whys = _explain(odd)
    return [
        ScalingDifference(layer.module, layer.adapter, in_force, terms.expected, why)
        for (layer, in_force, terms), why in zip(odd, whys, strict=True)
    ]


_Case = tuple["AdapterLayer", float, _Terms]


def _explain(odd: list[_Case]) -> list[str]:
    """Take the first explanation that holds for all; else for each module the first that holds for it."""
    found = [[explain(*case) for case in odd] for explain in _EXPLANATIONS]
    for answers in found:
        if all(answers):
            return [answer or "" for answer in answers]
    return [next(answer for answers in found if (answer := answers[at])) for at in range(len(odd))]


def _rslora(layer: AdapterLayer, in_force: float, terms: _Terms) -> str | None:
    """Say that the root was lost, or came in: unless the layer itself says otherwise."""
    if not _same(in_force, terms.scaling(terms.alpha, rslora=not terms.rslora)):
        return None
    if _by_record(layer) and (layer.rslora == terms.rslora or layer.alpha != terms.alpha):
        return None
    if terms.rslora:
        return "rsLoRA lost: alpha / r in the model, alpha / sqrt(r) by the config"
    return "rsLoRA in the model alone: alpha / sqrt(r) there, alpha / r by the config"


def _pattern(layer: AdapterLayer, in_force: float, terms: _Terms) -> str | None:
    """Say that the alpha of alpha_pattern did not arrive."""
    default = terms.default_alpha
    if default is None or default == terms.alpha or (_by_record(layer) and layer.rslora not in {terms.rslora, None}):
        return None
    if not _same(in_force, terms.scaling(default, rslora=terms.rslora)):
        return None
    return f"alpha_pattern lost: alpha {default:.4g} in the model, {terms.alpha:.4g} by the pattern"


def _record(layer: AdapterLayer, in_force: float, terms: _Terms) -> str | None:
    """Compare what the layer was made with, where that gives the number in force."""
    if not _by_record(layer):
        return None
    del in_force
    told = []
    if layer.alpha is not None and layer.alpha != terms.alpha:
        told.append(f"alpha {layer.alpha:.4g} in the model, {terms.alpha:.4g} in the config")
    if layer.rank != terms.rank:
        told.append(f"rank {layer.rank} in the model, {terms.rank:.4g} in the config")
    if bool(layer.rslora) != terms.rslora:
        told.append("rsLoRA lost" if terms.rslora else "rsLoRA in the model alone")
    return "; ".join(told) or None


def _rescaled(layer: AdapterLayer, in_force: float, terms: _Terms) -> str | None:
    """Say that the layer was made as the config says, and got another number afterwards."""
    if layer.alpha is None or layer.alpha != terms.alpha or _by_record(layer):
        return None
    return f"set by hand after the layer was made: {_times(in_force, terms)} the config's (set_scale, scale_layer)"


def _alpha(layer: AdapterLayer, in_force: float, terms: _Terms) -> str | None:
    """Compute the alpha that gives the number in force, for layers that do not tell theirs."""
    if layer.alpha is not None:
        return None
    alpha = in_force * terms.alpha / terms.expected if terms.expected else math.nan
    return f"alpha {alpha:.4g} in the model, {terms.alpha:.4g} in the config"


def _any(layer: AdapterLayer, in_force: float, terms: _Terms) -> str:
    del layer
    return f"{in_force:.4g} in force, {terms.expected:.4g} by the config"


_EXPLANATIONS: tuple[Callable[[AdapterLayer, float, _Terms], str | None], ...] = (
    _rslora,
    _pattern,
    _record,
    _rescaled,
    _alpha,
    _any,
)


def _by_record(layer: AdapterLayer) -> bool:
    """Whether the layer's own alpha and rank give the number in force."""
    if layer.alpha is None or not layer.rank or layer.scaling is None:
        return False
    return _same(layer.scaling, layer.alpha / (math.sqrt(layer.rank) if layer.rslora else layer.rank))


def _times(in_force: float, terms: _Terms) -> str:
    return f"{in_force / terms.expected:.4g} x" if terms.expected else "not"


def _terms(config: Mapping[str, Any], module: str, rank: int | None) -> _Terms | None:
    if config.get("peft_type") not in ("LORA", None):
        return None
    default = _positive(config.get("lora_alpha"))
    alpha = _positive(_by_pattern(config.get("alpha_pattern"), module, default))
    own = _positive(_by_pattern(config.get("rank_pattern"), module, config.get("r", rank)))
    if alpha is None or not own:
        return None
    return _Terms(alpha, own, bool(config.get("use_rslora")), default)


def _by_pattern(pattern: Any, module: str, default: Any) -> Any:
    if not isinstance(pattern, Mapping) or not pattern:
        return default
    for path in _base_paths(module):
        for name, value in pattern.items():
            if _ends(str(name), path):
                return value
    return default


def _base_paths(module: str) -> list[str]:
    """Give the path as the base model has it, and that path without wrappers: a pattern may begin with `^`."""
    inside = module.rpartition("base_model.model.")[2]
    return [inside, parse_key(f"{inside}.weight").module_path]


def _ends(pattern: str, path: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", path) is not None
    except re.error:
        return False


def _config_path(layer: AdapterLayer) -> str:
    """Name the module as PEFT did when it made the layer."""
    # The output projection inside an attention, and the second parameter of one module, lie in the first's layer.
    path = layer.module.split(".base_layer")[0]
    return path if layer.parameter in {"weight", "in_proj_weight"} else f"{path}.{layer.parameter}"


def _positive(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number and value >= 0 else None


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_TOLERANCE)
