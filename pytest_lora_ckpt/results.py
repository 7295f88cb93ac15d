"""The result of a comparison: `LoadReport`. Data and counting only; `comparison` fills it, `findings` explain it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, overload

from pytest_lora_ckpt.wording import sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_lora_ckpt.keys import Remapping

KEY_CLASSES = ("lora", "lora_wrapped", "prefix", "alias", "excused", "non_lora")
"""Every missing or unexpected key is in exactly one of these classes.

`lora`: an adapter parameter. `lora_wrapped`: a base weight that the other side holds under PEFT's wrapped or unwrapped
name. `prefix`: the other side holds it under another prefix. `alias`: the same tensor is there under its other name.
`excused`: the checkpoint is not meant to hold it. `non_lora`: lost, no counterpart.
"""

VERDICTS = ("loads", "loads-after-remap", "partial", "noop", "incompatible", "not-compared")

Severity = Literal["error", "warning", "note"]


class ClassifiedKeys(Sequence[str]):
    """Sorted keys, each in exactly one class.

    Example:
        >>> keys = ClassifiedKeys({"a.weight": "non_lora", "a.lora_A.weight": "lora"})
        >>> list(keys), keys.counts["lora"], keys.of("non_lora")
        (['a.lora_A.weight', 'a.weight'], 1, ('a.weight',))
    """

    __slots__ = ("_class_of", "_sorted")

    def __init__(self, class_of: Mapping[str, str]) -> None:
        self._class_of = class_of
        self._sorted: tuple[str, ...] | None = None

    @property
    def _keys(self) -> tuple[str, ...]:
        """The keys, sorted when somebody looks at them: of a million mostly the number is wanted."""
        if self._sorted is None:
            self._sorted = tuple(sorted(self._class_of))
        return self._sorted

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self._keys[index]

    def __len__(self) -> int:
        return len(self._class_of)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._class_of

    def __eq__(self, other: object) -> bool:
        """Compare keys with keys: a list or tuple of the same sorted keys is equal."""
        if isinstance(other, ClassifiedKeys):
            return self._class_of == other._class_of
        return list(self._keys) == list(other) if isinstance(other, (list, tuple)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # Equal to a list, and so not hashable.

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items() if count)
        return f"ClassifiedKeys({len(self)}: {counts})"

    @property
    def counts(self) -> dict[str, int]:
        """Number of keys by class, with a zero for each class that is empty."""
        counted = Counter(self._class_of.values())
        return {name: counted[name] for name in KEY_CLASSES}

    @property
    def lost(self) -> int:
        """Number of keys that are neither there under another name (`alias`) nor `excused`."""
        counts = self.counts
        return len(self) - counts["alias"] - counts["excused"]

    def of(self, *classes: str) -> tuple[str, ...]:
        """Return the sorted keys of these classes."""
        return tuple(sorted(key for key, own in self._class_of.items() if own in classes))

    def class_of(self, key: str) -> str:
        """Return the class of one key."""
        return self._class_of[key]


@dataclass(frozen=True, slots=True)
class LoadState:
    """What `load_state_dict` would do: as is, or after the remapping.

    Attributes:
        loaded: Keys of the model that receive a tensor, sorted.
        missing: Keys of the model that receive none (torch's meaning), sorted, by class.
        unexpected: Keys of the checkpoint that have no place in the model (torch's meaning), sorted, by class.
        shape_mismatches: Keys of the checkpoint that meet a key of the model of another shape, sorted.
    """

    loaded: tuple[str, ...]
    missing: ClassifiedKeys
    unexpected: ClassifiedKeys
    shape_mismatches: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, as in the JSON report."""
        return {
            "loaded": len(self.loaded),
            "missing": self.missing.counts,
            "unexpected": self.unexpected.counts,
            "shape_mismatches": len(self.shape_mismatches),
        }


@dataclass(frozen=True, slots=True)
class Component:
    """One row of the component table: the base weights of a component, or the adapters in it.

    Attributes:
        name: First segment of the keys (`vision_encoder`), or `""` where the keys have but one.
        lora: False for the base weights, True for the adapter parameters.
        in_file: Keys of the checkpoint.
        in_model: Keys of the model; None where there is no model to compare with.
        as_is: Keys of the model loaded without any renaming.
        remapped: Keys of the model loaded after the remapping.
        excused: Keys of the model that the checkpoint is not meant to hold.
    """

    name: str
    lora: bool
    in_file: int
    in_model: int | None = None
    as_is: int | None = None
    remapped: int | None = None
    excused: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the row for the JSON report."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know: its cause, the keys it is about, and what to do.

    What its texts quote of a file becomes safe to print; the keys stay as they are.

    Attributes:
        cause: Slug of the cause, stable; `docs/causes.md` has a paragraph on each.
        severity: `"error"` (a weight is lost, or the adapter does nothing), `"warning"` (act before serving), `"note"`.
        message: The fact, in a sentence, with the counts.
        remedy: What to do, in a sentence.
        keys: The keys that it is about.
        follows: Slug of the root cause, where it follows from another one; then it is a warning, without a remedy.
        accepted: Why the project accepts it (`lora_ignore`); then it is a note, whatever it was.
    """

    cause: str
    severity: Severity
    message: str
    remedy: str
    keys: tuple[str, ...] = ()
    follows: str = ""
    accepted: str = ""

    def __post_init__(self) -> None:
        """Make the texts safe to print, whoever wrote them."""
        for name in ("message", "remedy", "accepted"):
            object.__setattr__(self, name, sentence(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for the JSON report."""
        return {name: getattr(self, name) for name in self.__slots__} | {"keys": list(self.keys)}


@dataclass(frozen=True)
class LoadReport:
    """A checkpoint compared with a model: what loads, what is lost, and why.

    Attributes:
        as_is: What `load_state_dict(strict=False)` does with the keys as they are; None without a model.
        remapped: The same after `remapping`; None without a model.
        remapping: How the checkpoint's keys become the model's.
        components: One row per component and kind (base weights, adapters).
        scope: `"adapter"` (only trained tensors are meant to be in the checkpoint) or `"full"`.
        stage: The stage asked for, or None.
        checkpoint_keys: Number of keys in the checkpoint.
        model_keys: Number of keys in the model.
        lora_keys: Number of adapter parameters in the checkpoint, and in the model.
        companion_lora_keys: Number of adapter parameters in the adapter directories that lie with the checkpoint.
        findings: Causes and remedies, the gravest first.
    """

    verdict: str
    as_is: LoadState | None
    remapped: LoadState | None
    remapping: Remapping | None
    components: tuple[Component, ...]
    scope: str = "full"
    stage: str | None = None
    checkpoint_keys: int = 0
    model_keys: int = 0
    lora_keys: tuple[int, int] = (0, 0)
    companion_lora_keys: int = 0
    findings: tuple[Finding, ...] = field(default=())

    @property
    def mapping(self) -> Mapping[str, str]:
        """Checkpoint key -> model key after the remapping: pairs that load."""
        return self.remapping.mapping if self.remapping else {}

    def state(self, when: str) -> LoadState:
        """Return `.as_is` or `.remapped` by its name.

        Raises:
            ValueError: Any other name, or nothing was compared.
        """
        if when not in {"as_is", "remapped"}:
            raise ValueError(f"when= is 'as_is' or 'remapped', and was {when!r}.")
        state: LoadState | None = getattr(self, when)
        if state is None:
            raise ValueError("Nothing was compared: the report was made without a model.")
        return state

    def loaded_ratio(self, *, of: str = "model", when: str = "remapped") -> float:
        """Share of the keys that load, from 0.0 to 1.0.

        Args:
            of: `"model"`: of the keys that the model needs from this checkpoint. Keys that the checkpoint is not meant
                to hold (class `excused`) do not count; a tensor that is there under its other name counts as loaded.
                `"checkpoint"`: of the keys that the checkpoint holds.
            when: `"as_is"` or `"remapped"`.

        Raises:
            ValueError: Another word in `of` or `when`, or a report without a model.

        Example:
            >>> from pytest_lora_ckpt.comparison.compare import compare
            >>> compare({"a.weight": (2, 2)}, {"a.weight": (2, 2), "b.weight": (2, 2)}).loaded_ratio(of="model")
            0.5
        """
        state = self.state(when)
        if of == "model":
            counts = state.missing.counts
            needed = self.model_keys - counts["excused"]
            return (len(state.loaded) + counts["alias"]) / needed if needed else 1.0
        if of == "checkpoint":
            lost = len(state.unexpected) - state.unexpected.counts["alias"] + len(state.shape_mismatches)
            return (self.checkpoint_keys - lost) / self.checkpoint_keys if self.checkpoint_keys else 0.0
        raise ValueError(f"of= is 'model' or 'checkpoint', and was {of!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON: counts, not keys, except in the findings."""
        return {
            "verdict": self.verdict,
            "scope": self.scope,
            "as_is": self.as_is.to_dict() if self.as_is else None,
            "remapped": self.remapped.to_dict() if self.remapped else None,
            "rules": [rule.to_dict() for rule in (self.remapping.rules if self.remapping else ())],
            "components": [component.to_dict() for component in self.components],
            "findings": [finding.to_dict() for finding in self.findings],
        }
