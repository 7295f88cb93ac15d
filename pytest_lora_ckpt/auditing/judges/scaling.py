"""Judges of the scaling that is in force in a loaded model, or was merged into it, against what is written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.lora.scaling import expected_scaling, scaling_differences
from pytest_lora_ckpt.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_lora_ckpt.lora.config import AdapterConfig
    from pytest_lora_ckpt.lora.layers import AdapterLayer
    from pytest_lora_ckpt.lora.scaling import ScalingDifference
    from pytest_lora_ckpt.proof import Merge
    from pytest_lora_ckpt.results import Finding

_SLACK = 0.02  # Of a scaling that was fitted.
_EXACT = 1e-3  # Of one that is in force: a file may hold alpha in half precision.
_TWICE = 2


def off_scale(
    layers: Sequence[AdapterLayer], config: AdapterConfig | None, hints: Iterable[Mapping[str, Any]]
) -> Finding | None:
    """Find modules whose scaling in force is not the one that is written down.

    Args:
        layers: The layers of this checkpoint's adapter.
        config: Its adapter_config.json.
        hints: Configs in the hyper-parameters, for a checkpoint without one. They may be other adapters', and leave
            out what the code sets by itself (rsLoRA, patterns): only where no module is scaled as any of them says
            has something gone wrong.
    """
    if config is not None:
        return _differing(scaling_differences(layers, config), layers, "adapter_config.json gives")
    ranks = {layer.rank for layer in layers}
    differences = [scaling_differences(layers, guess) for guess in _guesses(hints, ranks)]
    if layers and differences and all(len(each) == len(layers) for each in differences):
        return _differing(differences[0], layers, "the hyper-parameters give")
    return None


def off_alpha(layers: Sequence[AdapterLayer], scalings: Mapping[str, float]) -> Finding | None:
    """Find modules whose scaling in force is not that of the alpha next to their factors (kohya, LyCORIS).

    Args:
        layers: The layers of this checkpoint's adapter.
        scalings: Path of a module -> alpha / rank, by the file.
    """
    outliers = [
        (layer, expected)
        for layer in layers
        if layer.scaling is not None
        and (expected := scalings.get(layer.module)) is not None
        and abs(layer.scaling - expected) > _EXACT * abs(expected)
    ]
    if not outliers:
        return None
    first, expected = outliers[0]
    message = f"The scaling of {len(outliers)} of {count(len(layers), 'module')} is not what alpha in the file gives: "
    message += f"{first.scaling:.4g} in {first.module}, expected {expected:.4g}."
    return finding("scaling-differs", message, [layer.module for layer, _ in outliers])


def merged_off_scale(
    merge: Merge, hints: Iterable[Mapping[str, Any]], recorded: Mapping[str, float | Mapping[str, float]]
) -> Finding | None:
    """Find a merge by another scaling than any that the hyper-parameters give, or the manifest.

    With an adapter_config.json there is nothing to find: `Merge.proved` has compared the scaling.

    Args:
        merge: The merge.
        hints: Configs in the hyper-parameters.
        recorded: The scalings of training, by adapter, from the manifest.
    """
    guesses = _guesses(hints, {each.rank for each in merge.modules})
    of_rank = {(each["r"], scaling) for each in guesses if (scaling := expected_scaling(each, ""))}
    expected = {scaling for _, scaling in of_rank}
    fitted = [each for each in merge.modules if each.rank in {rank for rank, _ in of_rank} and each.scaling]
    written = "the hyper-parameters give"
    if recorded:
        values = [each if isinstance(each, Mapping) else {"": each} for each in recorded.values()]
        expected = {number for each in values for number in each.values() if number}
        fitted = [each for each in merge.modules if each.kind == "merged" and each.scaling]
        written = "the manifest gives"
    if not expected or not fitted or any(abs(each.scaling - e) <= each.slack for each in fitted for e in expected):
        return None
    # Without rsLoRA, unless it is written down: the lower of two.
    scaling = fitted[0].scaling
    twice = abs(scaling / min(expected) - _TWICE) < _SLACK
    message = f"The adapter was merged with the scaling {scaling:.4g}, and {written} "
    message += " or ".join(f"{each:.4g}" for each in sorted(expected)) + "."
    return finding("merged-twice" if twice else "scaling-differs", message)


def _guesses(hints: Iterable[Mapping[str, Any]], ranks: set[int | None]) -> list[dict[str, Any]]:
    """Complete the configs that have one of these ranks by what they leave open: rsLoRA or not."""
    return [
        {**each, "use_rslora": rslora}
        for each in hints
        if each.get("r") in ranks
        for rslora in ((bool(each["use_rslora"]),) if "use_rslora" in each else (False, True))
    ]


def _differing(
    differences: Sequence[ScalingDifference], layers: Sequence[AdapterLayer], written: str
) -> Finding | None:
    if not differences:
        return None
    first = differences[0]
    message = f"The scaling of {len(differences)} of {count(len(layers), 'module')} is not what {written}: "
    message += f"{first.in_force:.4g} in {first.module}, expected {first.expected:.4g} ({first.why})."
    return finding("scaling-differs", message, [each.module for each in differences])
