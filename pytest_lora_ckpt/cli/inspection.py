"""What `lora-ckpt inspect` says of a checkpoint, as data: `Inspection`. By its index alone, and what lies around it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping  # noqa: TC003  # `to_plain` reads the annotations.
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.auditing.plain import to_plain
from pytest_lora_ckpt.auditing.result import CheckpointFacts
from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.keys import readings
from pytest_lora_ckpt.lora.adapters import DEFAULT
from pytest_lora_ckpt.lora.config import AdapterConfig, scaling_of
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.manifest.places import find_manifest

if TYPE_CHECKING:
    from typing import Any

    from pytest_lora_ckpt.checkpoint import Checkpoint
    from pytest_lora_ckpt.comparison.stages import Demands
    from pytest_lora_ckpt.lora.pairs import LoraPair

_NUMBERS = re.compile(r"(?<=_)\d+(?=_)")
_TRAINED = ("epoch", "global_step", "step", "iteration", "pytorch-lightning_version", "accelerate_version")


@dataclass(frozen=True, slots=True)
class ComponentFacts:
    """One component, its base weights or its adapter parameters.

    Attributes:
        name: The first segment of its keys.
        lora: Whether this counts its adapter parameters.
        keys: How many.
        bytes: Size of its tensors; one that has several names counts once.
        dtypes: Dtype -> number of keys.
    """

    name: str
    lora: bool
    keys: int
    bytes: int
    dtypes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """One adapter.

    Attributes:
        method: `peft_type`, where its config says it.
        rank: As in `AdapterInfo`; so are `alpha` and `modules`.
        scaling: What the update is multiplied by; a sorted tuple where modules differ; None where nothing says it.
        rslora: Whether the scaling is alpha / sqrt(rank); None where no config says it.
        dora: Whether it has magnitudes (DoRA).
        targets: Last name of the adapted modules, without numbers where it is a whole path in one -> how many.
        saved: Modules that were trained whole (`modules_to_save`).
        base: The base model that its config names.
    """

    method: str | None
    rank: int | tuple[int, ...] | None
    alpha: float | tuple[float, ...] | None
    scaling: float | tuple[float, ...] | None
    rslora: bool | None
    dora: bool
    modules: int
    targets: Mapping[str, int]
    saved: tuple[str, ...] = ()
    base: str | None = None


@dataclass(frozen=True, slots=True)
class SafetyFacts:
    """What the pickles ask for, judged.

    Attributes:
        outcome: `"passed"`, or `"failed"` where loading the file would run code.
        summary: The same in a sentence.
        warnings: What is not known of it, in sentences.
    """

    outcome: str
    summary: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """Why it cannot be read: the fields of `CheckpointError`."""

    problem: str
    path: str
    expected: str
    found: str
    remedy: str
    text: str = field(metadata={"plain": False})

    @classmethod
    def of(cls, error: CheckpointError) -> ErrorFacts:
        """Take them from the exception."""
        return cls(error.problem, str(error.path), error.expected, error.found, error.remedy, str(error))


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a checkpoint is.

    Attributes:
        checkpoint: The same as in the report of an audit.
        safety: What its pickles ask for, as far as they can be read.
        error: Why it cannot be read; then little else is known.
        adapters: Its adapters by name.
        components: One row per component and kind.
        training: What the file says of its training: epoch, steps, versions.
        opaque: Entries of the state dict that are no plain tensors -> what they are.
        manifest: Name of the manifest that belongs to it.
    """

    checkpoint: CheckpointFacts
    safety: SafetyFacts
    error: ErrorFacts | None = None
    adapters: Mapping[str, AdapterFacts] = field(default_factory=dict)
    components: tuple[ComponentFacts, ...] = ()
    training: Mapping[str, str] = field(default_factory=dict)
    opaque: Mapping[str, str] = field(default_factory=dict)
    manifest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def inspect(path: Path | str, demands: Demands | None = None, *, spec: str | None = None) -> Inspection:
    """Look at a checkpoint: what it is, by its index alone.

    Args:
        path: Where it lies, or its address.
        demands: Stages, limits, and the names that are trusted.
        spec: What was asked for, where that is not the path.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(4, 2)}, f"{folder}/a.pt")
        ...     found = inspect(f"{folder}/a.pt")
        >>> found.adapters["default"].rank, found.components[0].bytes
        (2, 64)
        >>> inspect("no/such.pt").error.problem
        'missing'
    """
    context = AuditContext(path, demands, spec=spec)
    facts = context.checkpoint_facts().checkpoint or CheckpointFacts(str(path))
    judged = context.safety
    warnings = tuple(each.message for each in judged.findings if each.severity == "warning")
    safety = SafetyFacts(judged.outcome, judged.summary, warnings)
    try:
        checkpoint = context.checkpoint
    except CheckpointError as error:
        return Inspection(facts, safety, ErrorFacts.of(error))
    # At an address it would be one request more.
    manifest = find_manifest(checkpoint.path) if isinstance(checkpoint.path, Path) else None
    return Inspection(
        checkpoint=facts,
        safety=safety,
        adapters=adapters_of(checkpoint),
        components=_components(checkpoint),
        training=_training(checkpoint),
        opaque=dict(checkpoint.opaque_keys),
        manifest=None if manifest is None else manifest.name,
    )


def _training(checkpoint: Checkpoint) -> dict[str, str]:
    values = {name: checkpoint.envelope.get(name) for name in _TRAINED}
    return {name: str(value) for name, value in values.items() if isinstance(value, (int, str))}


def _components(checkpoint: Checkpoint) -> tuple[ComponentFacts, ...]:
    """Count keys, bytes and dtypes of each component, adapters apart."""
    keys = checkpoint.keys
    again = {name for group in keys.aliases for name in group[1:]}
    rows: dict[tuple[str, bool], tuple[list[int], Counter[str]]] = {}
    for key, reading in readings(keys).items():
        sizes, dtypes = rows.setdefault((reading.component, reading.is_adapter), ([], Counter()))
        sizes.append(0 if key in again else keys[key].nbytes)
        dtypes[keys[key].dtype] += 1
    return tuple(
        ComponentFacts(*row, len(sizes), sum(sizes), dict(dtypes.most_common()))
        for row, (sizes, dtypes) in sorted(rows.items())
    )


def adapters_of(checkpoint: Checkpoint) -> dict[str, AdapterFacts]:
    """Say more of each adapter than `Checkpoint.adapters` does."""
    parts = [checkpoint, *(each.checkpoint for each in checkpoint.trained if each.kind == "adapter")]
    facts: dict[str, AdapterFacts] = {}
    for name, info in checkpoint.adapters.items():
        part, pairs = _home(name, [each for each in parts if each is not None])
        config = part.config or AdapterConfig.of(None)
        facts[name] = AdapterFacts(
            method=config.method,
            rank=info.rank,
            alpha=info.alpha,
            scaling=_one({number for pair in pairs if (number := _scaling(pair, part, info.alpha)) is not None}),
            rslora=config.rslora,
            dora=bool(config.dora) or any("lora_magnitude_vector" in pair.others for pair in pairs),
            modules=info.modules,
            targets=dict(Counter(map(_target, pairs)).most_common()),
            saved=config.saved,
            base=config.base,
        )
    return facts


def _target(pair: LoraPair) -> str:
    """Return the last name of an adapted module; where names are written in one (kohya), that without its numbers."""
    name = pair.module.rpartition(".")[2]
    return name if "." in pair.module else _NUMBERS.sub("*", name)


def _home(name: str, parts: list[Checkpoint]) -> tuple[Checkpoint, list[LoraPair]]:
    """Return the part of a checkpoint that holds an adapter, with its pairs."""
    for part in parts:
        own = [pair for pair in part.keys.derived(lora_pairs) if pair.down is not None]
        named = [pair for pair in own if (pair.adapter or DEFAULT) == name]
        if named or (own and part.path.name == name):
            return part, named or own
    return parts[0], []


def _scaling(pair: LoraPair, part: Checkpoint, alpha: float | tuple[float, ...] | None) -> float | None:
    """Return what the update of one module is multiplied by."""
    by_config = part.config.scaling(pair.module, pair.rank) if part.config is not None else None
    if by_config is not None:
        return by_config.value
    own = part.alphas.get(pair.others.get("alpha", ""), alpha)
    if not isinstance(own, float) or not pair.rank or not math.isfinite(own) or not pair.is_scaled:
        return None
    return scaling_of(own, pair.rank)


def _one(numbers: set[float]) -> float | tuple[float, ...] | None:
    return tuple(sorted(numbers)) if len(numbers) > 1 else next(iter(numbers), None)
