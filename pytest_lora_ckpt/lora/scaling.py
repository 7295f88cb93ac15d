"""Where the layers of a live model have another scaling in force than a config gives, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.lora.config import AdapterConfig, Scaling, scaling_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_lora_ckpt.lora.layers import AdapterLayer
    from pytest_lora_ckpt.lora.pairs import LoraPair

# Both sides are one division of two short numbers in double precision; a file may hold a rounded quotient.
_TOLERANCE = 1e-6


def expected_scaling(
    config: AdapterConfig | Mapping[str, Any] | None, module: str = "", rank: int | None = None
) -> float | None:
    """Return the scaling that PEFT gives a module under a config (`AdapterConfig.scaling`); None where not known.

    Example:
        >>> expected_scaling({"r": 4, "lora_alpha": 8, "use_rslora": True}, "layers.0.q_proj")
        4.0
    """
    scaling = AdapterConfig.of(config).scaling(module, rank)
    return None if scaling is None else scaling.value


def alpha_of(pair: LoraPair, numbers: Mapping[str, float]) -> float | None:
    """Return the alpha that lies next to the factors in the file (kohya, LyCORIS), or None.

    Args:
        pair: The factors, and what lies next to them.
        numbers: Key -> number (`Checkpoint.alphas`).
    """
    alpha = numbers.get(pair.others.get("alpha", ""))
    return alpha if alpha is not None and math.isfinite(alpha) else None


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


def scaling_differences(
    layers: Iterable[AdapterLayer], config: AdapterConfig | Mapping[str, Any]
) -> list[ScalingDifference]:
    """Compare the scaling in force in each module with the one that a config gives.

    Modules whose scaling is not known, and modules for which the config has no number, are left out. A merged adapter
    is compared as well: its layer still holds the number that it was merged with.

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
    config = AdapterConfig.of(config)
    outliers: list[_Case] = []
    for layer in layers:
        scaling = config.scaling(_config_path(layer), layer.rank)
        if layer.scaling is not None and scaling is not None and not _same(layer.scaling, scaling.value):
            outliers.append((layer, layer.scaling, scaling))
    return [
        ScalingDifference(layer.module, layer.adapter, in_force, scaling.value, why)
        for (layer, in_force, scaling), why in zip(outliers, _explain(outliers), strict=True)
    ]


_Case = tuple["AdapterLayer", float, Scaling]


def _explain(outliers: list[_Case]) -> list[str]:
    """Take the first explanation that holds for all; else for each module the first that holds for it."""
    results = [[explain(*case) for case in outliers] for explain in _EXPLANATIONS]
    for answers in results:
        if all(answers):
            return [answer or "" for answer in answers]
    return [next(answer for answers in results if (answer := answers[at])) for at in range(len(outliers))]


def _rslora(layer: AdapterLayer, in_force: float, config: Scaling) -> str | None:
    """Say that the root was lost, or came in: unless the layer itself says otherwise."""
    if not _same(in_force, scaling_of(config.alpha, config.rank, rslora=not config.rslora)):
        return None
    if _by_record(layer) and (layer.rslora == config.rslora or layer.alpha != config.alpha):
        return None
    if config.rslora:
        return "rsLoRA lost: alpha / r in the model, alpha / sqrt(r) by the config"
    return "rsLoRA in the model alone: alpha / sqrt(r) there, alpha / r by the config"


def _pattern(layer: AdapterLayer, in_force: float, config: Scaling) -> str | None:
    """Say that the alpha of alpha_pattern did not arrive."""
    default = config.default_alpha
    if default is None or default == config.alpha or (_by_record(layer) and layer.rslora not in {config.rslora, None}):
        return None
    if not _same(in_force, scaling_of(default, config.rank, rslora=config.rslora)):
        return None
    return f"alpha_pattern lost: alpha {default:.4g} in the model, {config.alpha:.4g} by the pattern"


def _record(layer: AdapterLayer, in_force: float, config: Scaling) -> str | None:
    """Compare what the layer was made with, where that gives the number in force."""
    if not _by_record(layer):
        return None
    del in_force
    differences = []
    if layer.alpha is not None and layer.alpha != config.alpha:
        differences.append(f"alpha {layer.alpha:.4g} in the model, {config.alpha:.4g} in the config")
    if layer.rank != config.rank:
        differences.append(f"rank {layer.rank} in the model, {config.rank:.4g} in the config")
    if bool(layer.rslora) != config.rslora:
        differences.append("rsLoRA lost" if config.rslora else "rsLoRA in the model alone")
    return "; ".join(differences) or None


def _rescaled(layer: AdapterLayer, in_force: float, config: Scaling) -> str | None:
    """Say that the layer was made as the config says, and got another number afterwards."""
    if layer.alpha is None or layer.alpha != config.alpha or _by_record(layer):
        return None
    return f"set by hand after the layer was made: {_times(in_force, config)} the config's (set_scale, scale_layer)"


def _alpha(layer: AdapterLayer, in_force: float, config: Scaling) -> str | None:
    """Compute the alpha that gives the number in force, for layers that do not say theirs."""
    if layer.alpha is not None:
        return None
    alpha = in_force * config.alpha / config.value if config.value else math.nan
    return f"alpha {alpha:.4g} in the model, {config.alpha:.4g} in the config"


def _any(layer: AdapterLayer, in_force: float, config: Scaling) -> str:
    del layer
    return f"{in_force:.4g} in force, {config.value:.4g} by the config"


_EXPLANATIONS: tuple[Callable[[AdapterLayer, float, Scaling], str | None], ...] = (
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
    return _same(layer.scaling, scaling_of(layer.alpha, layer.rank, rslora=layer.rslora))


def _times(in_force: float, config: Scaling) -> str:
    return f"{in_force / config.value:.4g} x" if config.value else "not"


def _config_path(layer: AdapterLayer) -> str:
    """Name the module as PEFT did when it made the layer."""
    # The output projection inside an attention, and the second parameter of one module, lie in the first's layer.
    path = layer.module.split(".base_layer")[0]
    return path if layer.parameter in {"weight", "in_proj_weight"} else f"{path}.{layer.parameter}"


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_TOLERANCE)
