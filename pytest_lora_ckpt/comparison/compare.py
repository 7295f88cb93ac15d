"""Compare a checkpoint with a model: `compare`, and `infer_remapping` for whatever has keys and shapes."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt import keys
from pytest_lora_ckpt.checkpoint import Checkpoint
from pytest_lora_ckpt.comparison.pairing import Excuses, Pairing, Terms, count_rows
from pytest_lora_ckpt.comparison.verdict import is_idle, judge
from pytest_lora_ckpt.findings import Comparison, diagnose
from pytest_lora_ckpt.keys import readings, templates
from pytest_lora_ckpt.lora.config import AdapterConfig
from pytest_lora_ckpt.models import as_key_set
from pytest_lora_ckpt.results import Component, LoadReport
from pytest_lora_ckpt.vocabulary.lora import LORA_SCALES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.keys import Remapping, Template
    from pytest_lora_ckpt.keys.conventions import Path
    from pytest_lora_ckpt.tensors import KeySet

SCOPES = ("auto", "adapter", "full")


def compare(  # noqa: PLR0913  # The contract names them; all but the first three are keyword-only.
    checkpoint: Any,
    model: Any,
    remapping: Remapping | None = None,
    *,
    scope: str = "auto",
    adapter_config: Mapping[str, Any] | None = None,
    adapter_name: str = "default",
    aliases: Iterable[Iterable[str]] = (),
    stage: Stage | None = None,
    excuses: Excuses | None = None,
) -> LoadReport:
    """Compare a checkpoint with a model: what loads, as is and after a remapping, and what is lost.

    Counted by torch's own definition: a key of the model is loaded when the checkpoint has the same key with the same
    shape; missing when the checkpoint lacks it; a key of the checkpoint is unexpected when the model lacks it.

    Args:
        checkpoint: A `Checkpoint`, or a mapping key -> shape.
        model: An `nn.Module`, or a mapping key -> shape. None compares nothing (verdict `not-compared`).
        remapping: How the checkpoint's keys become the model's. Inferred by default.
        scope: `"adapter"`: only trained tensors are meant to be in the checkpoint, so frozen base weights are not lost.
            `"full"`: the whole model is. `"auto"` looks whether the base weights of the adapted layers are there.
        adapter_config: The content of `adapter_config.json`; taken from the checkpoint where it has one.
        adapter_name: Name of the adapter in the model.
        aliases: Groups of keys that name one tensor, where shapes alone do not show it.
        stage: The training stage, whose untrained components are excused.
        excuses: The same, with what reaches the model by another way.

    Raises:
        TypeError: `checkpoint` or `model` is nothing that has keys and shapes.
        ValueError: `scope` is none of the three words.

    Example:
        >>> report = compare({"model.lin.weight": (2, 2)}, {"lin.weight": (2, 2)})
        >>> report.verdict, report.as_is.missing.counts["prefix"], report.mapping
        ('loads-after-remap', 1, {'model.lin.weight': 'lin.weight'})
    """
    excuses = excuses or Excuses(stage)
    if scope not in SCOPES:
        raise ValueError(f"scope= is one of {', '.join(map(repr, SCOPES))}, and was {scope!r}.")
    groups = [tuple(group) for group in aliases]
    source = as_key_set(checkpoint, groups)
    config = _config(checkpoint, adapter_config)
    if scope == "auto":
        partial = config is not None or _is_of_one_component(checkpoint, source)
        scope = "adapter" if partial else detect_scope(source)
    if model is None:
        return _not_compared(source, scope, excuses.stage, _count_companion(checkpoint))
    target = as_key_set(model, groups)
    inferred = remapping is None
    if remapping is None:
        remapping = _remap(source, target, adapter_name, config)
    biases = config is not None and config.bias in {"all", "lora_only"}
    pairing = Pairing(source, target, remapping, Terms(scope, adapter_name, biases, excuses), inferred=inferred)
    as_is, remapped = pairing.as_is(), pairing.remapped()
    holder = (checkpoint, source) if excuses.adapter is None else (excuses.adapter, excuses.adapter.keys)
    report = LoadReport(
        verdict=judge(pairing, as_is, remapped, lambda: is_idle(*holder)),
        as_is=as_is,
        remapped=remapped,
        remapping=remapping,
        components=pairing.components(as_is, remapped),
        scope=scope,
        stage=excuses.stage.name if excuses.stage else None,
        checkpoint_keys=len(source),
        model_keys=len(target),
        lora_keys=(_count_lora(source), _count_lora(target)),
        companion_lora_keys=_count_companion(checkpoint),
    )
    by_lightning = isinstance(checkpoint, Checkpoint) and checkpoint.by_lightning
    return dataclasses.replace(report, findings=diagnose(Comparison(report, source, target, by_lightning, config)))


def infer_remapping(
    checkpoint_keys: Any,
    model_keys: Any,
    *,
    adapter_name: str = "default",
    adapter_config: Mapping[str, Any] | None = None,
    aliases: Iterable[Iterable[str]] = (),
) -> Remapping:
    """Infer how a checkpoint's keys become a model's, by names and shapes.

    Unusual names never raise: what cannot be paired is in no pair.

    Args:
        checkpoint_keys: A `Checkpoint`, an `nn.Module`, or a mapping key -> shape.
        model_keys: The same for the model that is to receive the tensors.
        adapter_name: The adapter of the model that a checkpoint without adapter names is for.
        adapter_config: The content of `adapter_config.json`; taken from the checkpoint where it has one.
        aliases: Groups of keys, of either side, that name one tensor.

    Raises:
        TypeError: One of the two is nothing that has keys and shapes.

    Example:
        >>> infer_remapping({"module.fc.weight": (2, 3)}, {"fc.weight": (2, 3)}).mapping
        {'module.fc.weight': 'fc.weight'}
    """
    groups = [tuple(group) for group in aliases]
    source, target = as_key_set(checkpoint_keys, groups), as_key_set(model_keys, groups)
    return _remap(source, target, adapter_name, _config(checkpoint_keys, adapter_config))


def _config(checkpoint: Any, content: Mapping[str, Any] | None) -> AdapterConfig | None:
    """Return the config that was given, else the checkpoint's."""
    if content is None and isinstance(checkpoint, Checkpoint):
        return checkpoint.config
    return None if content is None else AdapterConfig.of(content)


def _remap(source: KeySet, target: KeySet, adapter_name: str, config: AdapterConfig | None) -> Remapping:
    saved = {"modules_to_save": config.saved} if config is not None else None
    return keys.infer_remapping(source, target, adapter_name=adapter_name, adapter_config=saved)


def detect_scope(names: KeySet) -> str:
    """Return `"adapter"` for a checkpoint that holds adapters without the base weights that they adapt, else `"full"`.

    Example:
        >>> detect_scope(as_key_set({"q_proj.lora_A.weight": (4, 8), "q_proj.lora_B.weight": (8, 4)}))
        'adapter'
    """
    adapted = [one for one in templates(names) if one.reading.is_lora and one.reading.lora not in LORA_SCALES]
    if not adapted:
        return "full"
    held: defaultdict[Path, list[Template]] = defaultdict(list)
    for template in templates(names):
        if not template.reading.is_adapter and template.marked[-1] == "weight":
            held[template.module].append(template)
    has_base_weights = any(
        not template.module_numbers().isdisjoint(other.module_numbers())
        for template in adapted
        for other in held[template.module]
    )
    return "full" if has_base_weights else "adapter"


def _is_of_one_component(checkpoint: Any, names: KeySet) -> bool:
    """Whether a file is called as the one component that it holds, as `mm_projector.bin`: no other was trained."""
    if not isinstance(checkpoint, Checkpoint):
        return False
    return {each.component for each in readings(names).values()} == {checkpoint.path.stem}


def _not_compared(source: KeySet, scope: str, stage: Stage | None, companion_lora_keys: int) -> LoadReport:
    rows = count_rows(readings(source).values())
    return LoadReport(
        verdict="not-compared",
        as_is=None,
        remapped=None,
        remapping=None,
        components=tuple(Component(*row, rows[row]) for row in sorted(rows)),
        scope=scope,
        stage=stage.name if stage else None,
        checkpoint_keys=len(source),
        lora_keys=(_count_lora(source), 0),
        companion_lora_keys=companion_lora_keys,
    )


def _count_lora(names: KeySet) -> int:
    return sum(count for (_, is_adapter), count in count_rows(readings(names).values()).items() if is_adapter)


def _count_companion(checkpoint: Any) -> int:
    """Count the adapter parameters in the adapter directories that lie with a checkpoint."""
    parts = checkpoint.trained if isinstance(checkpoint, Checkpoint) else ()
    return sum(_count_lora(each.checkpoint.keys) for each in parts if each.kind == "adapter" and each.checkpoint)
