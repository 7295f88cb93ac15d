"""Training stages: what a checkpoint of each must hold, and which components it may lack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_lora_ckpt.checkpoint.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

LORA = "lora"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training.

    Attributes:
        name: `"vision"`, `"resampler"`, `"finetune"`, or a project's own.
        holds: Components (first segments of the keys) that a checkpoint of this stage must hold.
        lora: Whether it must hold an adapter as well.
        may_hold: Components that belong to this stage where the model has them.
        excuses: Components that only later stages train: their keys may be missing.

    Example:
        >>> STAGES["resampler"].holds
        ('vision_encoder', 'resampler_module')
        >>> "language_model" in STAGES["resampler"].excuses
        True
    """

    name: str
    holds: tuple[str, ...]
    lora: bool = False
    may_hold: tuple[str, ...] = ()
    excuses: frozenset[str] = frozenset()


def parse_stages(lines: Iterable[str]) -> Mapping[str, Stage]:
    """Read the stages of a project, in the order in which it trains them.

    One line a stage: `name: component component … [lora] [(component …)]`. The word `lora` says that the stage has an
    adapter; components in parentheses belong to the stage where the model has them. What a stage does not name, but
    another one does, it excuses.

    Raises:
        ValueError: A line has no name, no component, or a name that came before. The message quotes the line.

    Example:
        >>> stages = parse_stages(["warmup: vision_tower", "sft: vision_tower language_model lora (projector)"])
        >>> stages["sft"].lora, sorted(stages["warmup"].excuses)
        (True, ['language_model', 'projector'])
    """
    drafts: dict[str, tuple[list[str], list[str]]] = {}
    for line in lines:
        name, colon, rest = line.partition(":")
        name = name.strip()
        if not colon or not name or not rest.strip():
            raise ValueError(f"a stage is written `name: component component … [lora] [(component …)]`, not {line!r}")
        if name in drafts:
            raise ValueError(f"the stage {name!r} comes twice, again in {line!r}")
        required, _, optional = rest.partition("(")
        drafts[name] = (required.split(), optional.rstrip(") \t").split())
    everything = {word for required, optional in drafts.values() for word in (*required, *optional)} - {LORA}
    return {
        name: Stage(
            name=name,
            holds=tuple(word for word in required if word != LORA),
            lora=LORA in required,
            may_hold=tuple(optional),
            excuses=frozenset(everything.difference(required, optional)),
        )
        for name, (required, optional) in drafts.items()
    }


# The guide's three stages. `resampler` and `vision_to_language_projection` are the second names of the resampler and of
# the projector in the guide's own model.
DEFAULT_STAGE_LINES: Sequence[str] = (
    "vision: vision_encoder",
    "resampler: vision_encoder resampler_module (resampler projector vision_to_language_projection)",
    "finetune: vision_encoder resampler_module language_model lora (resampler projector vision_to_language_projection)",
)
STAGES: Mapping[str, Stage] = parse_stages(DEFAULT_STAGE_LINES)


@dataclass(frozen=True, slots=True)
class Demands:
    """What is asked of a checkpoint.

    Attributes:
        stage: The stage that it must hold, or None.
        stages: All stages of the project by name.
        min_ratio: Least share of the needed model keys loaded after remapping, from 0.0 to 1.0.
        strict: A check that could not be made counts as failed.
        manifest: The manifest of its training; None looks for one next to it.
        companions: Files and adapter directories that are part of it, wherever they lie.
        base: Its base model, a path or an id on the Hub; None looks into its config.
        limits: What its files may ask for.
        trust: Names that its pickles may ask for, `module.name`.
        ignored: Causes that the project accepts -> why.
    """

    stage: Stage | None = None
    stages: Mapping[str, Stage] = field(default_factory=lambda: STAGES)
    min_ratio: float = 1.0
    strict: bool = False
    manifest: Path | None = None
    companions: tuple[Path, ...] = ()
    base: str | None = None
    limits: Limits = field(default_factory=Limits)
    trust: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)


def detect_stage(
    components: Iterable[str], stages: Mapping[str, Stage] = STAGES, *, lora: bool, trained_only: bool = False
) -> Stage | None:
    """Return the latest stage all of whose components are there, or None.

    Args:
        components: First segments of the checkpoint's keys.
        stages: The project's stages.
        lora: Whether the checkpoint holds an adapter.
        trained_only: It keeps only what was trained: the latest stage with an adapter that has all these components.

    Example:
        >>> detect_stage(["vision_encoder", "resampler_module"], lora=False).name
        'resampler'
    """
    present = set(components)
    if trained_only:
        having = [s for s in stages.values() if s.lora and present.issubset({*s.holds, *s.may_hold})]
        return having[-1] if having else None
    fitting = [s for s in stages.values() if present.issuperset(s.holds) and (lora or not s.lora)]
    return fitting[-1] if fitting else None
