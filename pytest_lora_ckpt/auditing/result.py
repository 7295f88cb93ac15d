"""The result of an audit: `AuditResult`, and the report of each check that it is put together from. Data only."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # `from_plain` reads the annotations.
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_lora_ckpt.auditing.picture.facts import Stack, union
from pytest_lora_ckpt.auditing.plain import from_plain, to_plain
from pytest_lora_ckpt.lora.adapters import AdapterInfo  # noqa: TC001  # The same.
from pytest_lora_ckpt.results import Component, Finding  # noqa: TC001  # `from_plain` reads the annotations.
from pytest_lora_ckpt.wording import block

SCHEMA = 1
"""Version of `AuditResult.to_dict()` and of the JSON report; raised when a field changes its meaning.

1: the first. Fields were added since: `schema`, `spec`, `faults`, `meaning` and `failed_by` of a run, its `values`,
`next_step` and `picture`; `ranks` of a proof.
"""

Outcome = Literal["passed", "failed", "skipped"]

MEANINGS = {
    "loads": "everything loads under its own name",
    "loads-after-remap": "everything loads once the keys are renamed",
    "partial": "even after renaming, some tensors have no counterpart",
    "noop": "the adapter changes nothing",
    "incompatible": "names match but shapes differ",
    "not-compared": "there was no model or loader to compare with",
}
"""The verdicts in words, where nothing more is known."""


@dataclass(frozen=True, slots=True)
class CompanionFacts:
    """A companion of a checkpoint: its kind (`Companion.kind`), where it lies, what it holds, or why it is not read."""

    kind: str
    path: str
    keys: int | None = None
    bytes: int | None = None
    error: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class GlobalFacts:
    """One class or function that a pickle asks for: `Global`, and how it is judged.

    `kind`: `"inert"`, known to describe data; `"trusted"`, by --lora-trust; `"unknown"`, of a module that is not known;
    or `"code"`.
    """

    module: str
    name: str
    entry: str
    path: str | None
    use: str
    called: bool
    count: int
    kind: str


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What a checkpoint is.

    Attributes:
        path: Where it lies.
        layout: How it lies on disk; None where it cannot be read, and then nothing else is known.
        format: Encoding of its file.
        keys: Number of keys.
        bytes: Size of all tensors.
        stage: The latest training stage all of whose components it holds.
        adapters: Its adapters by name.
        envelope: Names of what lies around the state dict, sorted.
        beside: Path of the adapter directory next to it.
        notes: What reading it brought up, in sentences.
        companions: What lies with it: further adapters, trained weights in other files.
        globals: What its pickles, and those that lie with it, ask for; also where it cannot be read.
    """

    path: str
    layout: str | None = None
    format: str | None = None
    keys: int | None = None
    bytes: int | None = None
    stage: str | None = None
    adapters: Mapping[str, AdapterInfo] = field(default_factory=dict)
    envelope: tuple[str, ...] = ()
    beside: str | None = None
    notes: tuple[str, ...] = ()
    companions: tuple[CompanionFacts, ...] = ()
    globals: tuple[GlobalFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class StateFacts:
    """What `load_state_dict` would do, counted: as is, or after the remapping. The classes are `KEY_CLASSES`."""

    loaded: int
    missing: Mapping[str, int]
    unexpected: Mapping[str, int]
    shape_mismatches: int = 0


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """One rule of the remapping: its text, how many keys it renames, who applies it, as a regex, and an example.

    `applied`: the loaded model shows that the project's loader does it.
    """

    rule: str
    keys: int
    by: str
    pattern: str
    replacement: str
    example: tuple[str, ...]
    applied: bool = False


@dataclass(frozen=True, slots=True)
class ComparisonFacts:
    """The checkpoint compared with the model: `LoadReport.to_dict()` as data."""

    verdict: str
    as_is: StateFacts | None = None
    remapped: StateFacts | None = None
    rules: tuple[RuleFacts, ...] = ()
    components: tuple[Component, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor that is not simply equal to the loaded model's."""

    key: str
    model_key: str
    source: str
    outcome: str
    how: str = ""


@dataclass(frozen=True, slots=True)
class ProofFacts:
    """The proof by value, counted: `Proof.to_dict()` as data.

    `ranks`: the counts of each rank by its number, where several proved their part of a sharded model; the others are
    then those of the rank on which the least is proved.
    """

    proved: bool
    counts: Mapping[str, int]
    sources: Mapping[str, int]
    tensors: tuple[TensorFacts, ...] = ()
    ranks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """A tensor that differs between two checkpoints: its key in each, and the largest difference of two elements."""

    key: str
    other_key: str
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """The values of two checkpoints against each other.

    `counts`: number of tensors that are equal bit for bit, up to a cast, or that differ; `left`: of those not compared.
    """

    other: str
    counts: Mapping[str, int]
    left: int = 0
    tensors: tuple[ValueDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class UpdateFacts:
    """The size of one adapter's update in one module, and of the weight that it changes."""

    module: str
    adapter: str | None
    update: float | None
    weight: float | None = None
    finite: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What one check established about the checkpoint, besides its own outcome. None where it did not look."""

    checkpoint: CheckpointFacts | None = None
    components: tuple[Component, ...] | None = None
    comparison: ComparisonFacts | None = None
    proof: ProofFacts | None = None
    values: ValueFacts | None = None
    updates: tuple[UpdateFacts, ...] | None = None
    provenance: Mapping[str, Mapping[str, int]] | None = None
    faults: Mapping[str, Any] | None = None
    picture: tuple[Stack, ...] | None = None

    def __or__(self, other: Facts) -> Facts:
        """Return these facts, with those of the other where these have none; their pictures are put together."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.__slots__}
        known = {name: second if first is None else first for name, (first, second) in pairs.items()}
        return Facts(**known | {"picture": union(self.picture, other.picture)})


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """How a check ended on one checkpoint, and what it established; goes through xdist as `to_dict()`.

    Attributes:
        name: The check's name.
        outcome: `"passed"`, `"failed"` or `"skipped"`.
        summary: The result in a sentence.
        findings: Causes and remedies that this check adds to those of the comparison.
        applies: False where the checkpoint has nothing of the kind, so that there was nothing to check.
        gives: What to give, each of which would do to make the check, as far as is known; where it was skipped.
        facts: What it established.
        made: False where the run ended before it was made, or while it was: then it is skipped.
        same_as: The check that reported all of its errors, or their root cause, before; only in that process as well.
        error: The exception behind a failure, with its traceback; only in the process that made the check.
    """

    name: str
    outcome: Outcome
    summary: str
    findings: tuple[Finding, ...] = ()
    applies: bool = True
    gives: tuple[str, ...] = ()
    facts: Facts = NO_FACTS
    made: bool = True
    same_as: str = field(default="", compare=False, metadata={"plain": False})
    error: BaseException | None = field(default=None, compare=False, repr=False, metadata={"plain": False})

    def __post_init__(self) -> None:
        """Make the summary safe to print, whatever it quotes of a file."""
        object.__setattr__(self, "summary", block(self.summary, wrapped=False))

    def to_dict(self) -> dict[str, Any]:
        """Return the report in JSON's types."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CheckReport:
        """Read what `to_dict()` gave.

        Raises:
            ValueError: It is something else.
        """
        return from_plain(cls, data)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How a check ended: one row of `AuditResult.checks`."""

    name: str
    outcome: Outcome
    summary: str


@dataclass(frozen=True, slots=True)
class NextStep:
    """What to give so that the most of the checks that were not made can be, and which these are."""

    give: str
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The audit of one checkpoint, as data: what every renderer shows and computes nothing of.

    Attributes:
        spec: What was asked for: a path, an address, or `replica:STAGE`.
        checkpoint: What the checkpoint is.
        verdict: What loads; `"not-compared"` where there was nothing to compare with.
        meaning: The verdict in words, with what is known of how it comes about.
        as_is: What loads under its own name, in numbers; None where nothing was compared.
        remapped: What loads after the remapping; None where nothing was compared.
        rules: The rules of the remapping, in order.
        components: One row per component and kind (base weights, adapters).
        checks: How each check ended, in the order of the checks.
        findings: Causes and remedies, the gravest first, each once; what follows from an error is a warning.
        failed_by: Root cause -> the checks that failed for it, or for what follows from it.
        next_step: What to give so that more is checked; None where nothing that could be given would help.
        proof: The proof by value; None without a loaded model.
        values: The values against another checkpoint's; None where none was given as the model.
        updates: The size of each update in the loaded model.
        provenance: Where the loaded model's tensors come from: component -> origin -> how many; empty without a base.
        faults: The score of the loader (`LoaderScore.to_dict()`), where it was asked for.
        picture: What became of each key, layer by layer and module by module.
        unused_ignores: What the project accepts (`lora_ignore`) and no check found, where all checks were run.
        errors: The exceptions behind failed checks, with their tracebacks; only in the process that made the audit.
    """

    spec: str = field(repr=False)  # It may carry credentials.
    checkpoint: CheckpointFacts
    verdict: str = "not-compared"
    meaning: str = MEANINGS["not-compared"]
    as_is: StateFacts | None = None
    remapped: StateFacts | None = None
    rules: tuple[RuleFacts, ...] = ()
    components: tuple[Component, ...] = ()
    proof: ProofFacts | None = None
    values: ValueFacts | None = None
    updates: tuple[UpdateFacts, ...] = ()
    provenance: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    faults: Mapping[str, Any] | None = None
    picture: tuple[Stack, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    findings: tuple[Finding, ...] = ()
    failed_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    next_step: NextStep | None = None
    unused_ignores: tuple[str, ...] = ()
    errors: tuple[BaseException, ...] = field(default=(), compare=False, repr=False, metadata={"plain": False})

    def check(self, name: str) -> CheckResult:
        """Return the row of one check.

        Raises:
            KeyError: It was not made.
        """
        return {each.name: each for each in self.checks}[name]

    def named(self, outcome: Outcome) -> tuple[str, ...]:
        """Return the names of the checks that ended like this, in the order of the checks."""
        return tuple(each.name for each in self.checks if each.outcome == outcome)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.named("failed")

    @property
    def standing(self) -> Literal["good", "doubtful", "bad"]:
        """Whether all is well (`"good"`), a check failed (`"bad"`), or there are warnings or nothing to load."""
        if not self.passed:
            return "bad"
        is_warned = any(each.severity == "warning" for each in self.findings)
        return "good" if self.verdict in {"loads", "loads-after-remap"} and not is_warned else "doubtful"

    def to_dict(self) -> dict[str, Any]:
        """Return one run of the JSON report, in JSON's types."""
        return {"schema": SCHEMA, **to_plain(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AuditResult:
        """Read what `to_dict()` gave; fields that are not known are left out.

        Raises:
            ValueError: It is of a newer schema, or something else.
        """
        if data.get("schema", SCHEMA) != SCHEMA:
            raise ValueError(f"The result has schema {data['schema']!r}, and this release reads schema {SCHEMA}.")
        return from_plain(cls, {"spec": "", **data})
