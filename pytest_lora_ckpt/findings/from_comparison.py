"""Name the causes behind a comparison: from what is missing, unexpected or of another shape after the remapping."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings.finding import finding, of_kind
from pytest_lora_ckpt.keys import ParsedKey, parse_key, readings
from pytest_lora_ckpt.vocabulary.lora import MAGNITUDES, TOKENS_DELTA
from pytest_lora_ckpt.vocabulary.models import FLAT_PARAMETERS, HEADS, QUANTISED
from pytest_lora_ckpt.wording import count, group_keys, listed, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_lora_ckpt.keys import Remapping
    from pytest_lora_ckpt.lora.config import AdapterConfig
    from pytest_lora_ckpt.results import Finding, LoadReport, LoadState
    from pytest_lora_ckpt.tensors import KeySet

_FEW_LOADED = 0.5
_NOT_LOST = ("alias", "excused")
_MOST_NAMES = 6
_HOMELESS = "of the checkpoint have no place in the model"


@dataclass(frozen=True)
class Comparison:
    """All that a recogniser may look at.

    Attributes:
        report: The counts, without findings.
        source: The checkpoint's keys.
        target: The model's keys.
        by_lightning: Whether the checkpoint is one of Lightning's.
        config: What `adapter_config.json` asks for, or None.
    """

    report: LoadReport
    source: KeySet
    target: KeySet
    by_lightning: bool
    config: AdapterConfig | None

    def in_source(self, key: str) -> ParsedKey:
        """Parse a key of the checkpoint."""
        return ParsedKey(key, readings(self.source)[key])

    def in_target(self, key: str) -> ParsedKey:
        """Parse a key of the model."""
        return ParsedKey(key, readings(self.target)[key])

    @property
    def after(self) -> LoadState:
        """What loads after the remapping."""
        return self.report.state("remapped")

    @property
    def remapping(self) -> Remapping:
        """How the keys were renamed."""
        remapping = self.report.remapping
        if remapping is None:
            raise ValueError("Nothing was compared.")
        return remapping

    @property
    def model_is_peft(self) -> bool:
        """Whether a `PeftModel` stands around the model, whose loader inserts adapter names by itself."""
        return any("peft_wrapper" in reading.structure for reading in {*readings(self.target).values()})

    @property
    def model_has_lora(self) -> bool:
        """Whether the model has adapter parameters."""
        return self.report.lora_keys[1] > 0

    @cached_property
    def exchanged_heads(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Heads that only the model has, and heads that only the checkpoint has: key -> name; both or neither."""
        lost, unused = (
            {key: name for key in keys.of("non_lora") if (name := "".join(parse(key).modules[-1:])) in HEADS}
            for keys, parse in ((self.after.missing, self.in_target), (self.after.unexpected, self.in_source))
        )
        return (lost, unused) if lost and unused else ({}, {})


def empty(c: Comparison) -> Iterator[Finding]:
    """Find a checkpoint without tensors."""
    if not c.source:
        yield finding("empty-adapter", "The checkpoint holds no tensor.")


def flat_parameters(c: Comparison) -> Iterator[Finding]:
    """Find what FSDP makes of parameters when its full state dict is not asked for."""
    keys = [key for key in c.source if key.rpartition(".")[2] in FLAT_PARAMETERS]
    if keys:
        yield finding("one-rank-only", f"{_count(keys)} of FSDP, each a part of several tensors laid end to end.", keys)


def quantised(c: Comparison) -> Iterator[Finding]:
    """Find weights that are quantised on one side only."""
    for keys, who in ((c.after.unexpected, "checkpoint"), (c.after.missing, "model")):
        own = [key for key in keys.of("non_lora") if key.rpartition(".")[2] in QUANTISED]
        if own:
            yield finding("quantised-weights", f"Only the {who} has quantised weights: {_count(own)}.", own)


def misfits(c: Comparison) -> Iterator[Finding]:
    """Name the cause of tensors whose names match and whose shapes differ."""
    model_key_of = c.remapping.shape_mismatches
    problems = [(of_kind(each.kind), {*each.keys}, {*each.model_keys}) for each in c.remapping.problems]
    by_cause: dict[str, list[str]] = defaultdict(list)
    for key in c.after.shape_mismatches:
        model_key = model_key_of.get(key, key)
        causes = (cause for cause, keys, model_keys in problems if key in keys and model_key in model_keys)
        cause = next(causes, None) if c.source[key].numel else "zero3-empty"
        by_cause[cause or "shape-mismatch"].append(key)
    for cause, keys in by_cause.items():
        key = keys[0]
        shapes = [list(c.source[key].shape), list(c.target[model_key_of.get(key, key)].shape)]
        message = f"{_count(keys)} of another shape: {printable(key)} is {shapes[0]} in the file, "
        yield finding(cause, f"{message}{shapes[1]} in the model.", keys)


def beyond_renaming(c: Comparison) -> Iterator[Finding]:
    """Name what is left over for a reason that no renaming mends; `misfits` names what has another shape."""
    mismatched = {*c.after.shape_mismatches}
    for problem in c.remapping.problems:
        cause = of_kind(problem.kind)
        keys = [key for key in problem.keys if key not in mismatched]
        if cause is None or not (keys or (problem.model_keys and not problem.keys)):
            continue
        lost = keys or [key for key in problem.model_keys if c.after.missing.class_of(key) not in _NOT_LOST]
        if problem.kind == "missing-layers":
            lost = _in_absent_layers(c, lost)
        if lost:
            yield finding(cause, f"{_count(lost)}: {problem.text}.", lost)


def _in_absent_layers(c: Comparison, keys: list[str]) -> list[str]:
    """Keep the keys in a layer or an expert of which nothing is loaded: the others are there, in part."""
    there = {around for key in c.after.loaded for around in _numbered(key)}
    return [key for key in keys if not there.issuperset(_numbered(key))]


def _numbered(key: str) -> Iterator[str]:
    """Give the paths of the layers and the experts around a key: `layers.3` and `layers.3.experts.7`."""
    segments = key.split(".")
    return (".".join(segments[: at + 1]) for at, segment in enumerate(segments) if segment.isdigit())


def adapter_without_home(c: Comparison) -> Iterator[Finding]:
    """Find adapter keys of the checkpoint that have no place in the model."""
    keys, total = c.after.unexpected.of("lora"), c.report.lora_keys[0]
    if not keys:
        return
    message = f"{len(keys)} of {count(total, 'adapter key')} {_HOMELESS}"
    if not c.model_has_lora:
        message += ": the model has no LoRA, so the adapter was never loaded."
        yield finding("adapter-not-loaded", message, keys)
        if c.report.scope == "full" and not c.by_lightning:
            yield finding("unmerged-peft-full-save", "A full checkpoint was saved with its adapter unmerged.")
    elif len(keys) < total:
        # What `beyond_renaming` names has its reason.
        named = {key for problem in c.remapping.problems if of_kind(problem.kind) for key in problem.keys}
        keys = tuple(key for key in keys if key not in named)
        for cause, why, own in _without_slot(c, keys):
            message = f"{len(own)} of {count(total, 'adapter key')} {_HOMELESS}: {why}."
            parts = {c.in_source(key).lora for key in own}
            if parts <= {*MAGNITUDES} and c.config is not None and c.config.dora:
                says = "adapter_config.json has use_dora true, and the LoRA of the model was built without it."
                yield finding("config-dora", says, own, remedy=_remedy(c, parts))
            yield finding(cause, message, own, remedy=_remedy(c, parts))
    else:
        message += ", though the model has LoRA: the names do not match."
        yield finding("adapter-without-home", message, keys)


def _without_slot(c: Comparison, keys: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Say what the model lacks for these adapter keys: the adapter, a part of it, or LoRA on the module at all."""
    adapted: dict[str, set[str | None]] = defaultdict(set)
    for key, reading in readings(c.target).items():
        if reading.is_lora:
            adapted[ParsedKey(key, reading).module_path].add(reading.adapter)
    bare: list[str] = []
    others: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in keys:
        parsed = c.in_source(key)
        # The rules take a key to where its neighbours are, though it has no place there itself.
        names = adapted.get(parse_key(c.remapping.apply(key)).module_path) if parsed.is_lora else None
        if names is None and parsed.lora == TOKENS_DELTA:
            others["target-mismatch", f"it trains no rows of {printable(parsed.module_path)}"].append(key)
        elif names is None:
            bare.append(key)
        elif parsed.adapter is not None and parsed.adapter not in names:
            others["adapter-without-home", f"it has no adapter {printable(parsed.adapter)}"].append(key)
        else:
            part = f"{parsed.lora} bias" if parsed.parameter == "bias" else parsed.lora or ""
            others["target-mismatch", f"its LoRA on these modules has no {printable(part)}"].append(key)
    if bare:
        groups = group_keys({c.in_source(key).module_path for key in bare}, _MOST_NAMES)
        yield "target-mismatch", f"it has no LoRA on {listed([pattern for pattern, _ in groups])}", bare
    for (cause, why), own in sorted(others.items()):
        yield cause, why, own


def _remedy(c: Comparison, parts: set[str | None]) -> str | None:
    """Say what to do where the model has none of these parts of an adapter; None where the cause says it."""
    says_none = c.config is not None and c.config.dora is False
    if parts <= {*MAGNITUDES} and not says_none:
        return "Build the LoRA with use_dora, or load with PeftModel.from_pretrained: the magnitudes are dropped."
    if parts == {TOKENS_DELTA}:
        return "Build it with trainable_token_indices, or load with PeftModel.from_pretrained: these rows are dropped."
    return None


def empty_slots(c: Comparison) -> Iterator[Finding]:
    """Find LoRA parameters of the model that the checkpoint does not fill."""
    keys = c.after.missing.of("lora")
    if not keys or not c.source:
        return
    if not c.report.lora_keys[0]:
        message = f"The checkpoint has no LoRA keys, and the model has {len(keys)}: they keep their initial values."
        yield finding("lora-not-saved", message, keys)
    elif not c.after.unexpected.of("lora"):
        yield finding("lora-slot-empty", f"{_count(keys)} of the model's LoRA are missing from the checkpoint.", keys)


def heads(c: Comparison) -> Iterator[Finding]:
    """Find another head in the checkpoint than in the model."""
    missing, unused = c.exchanged_heads
    if missing:
        file, model = (listed(sorted({*names.values()})) for names in (unused, missing))
        message = f"The checkpoint has {file}, and the model has {model} instead: another class."
        yield finding("wrong-base-class", message, (*missing, *unused))


def biases(c: Comparison) -> Iterator[Finding]:
    """Find trained biases that are not in an adapter: only a model shows that there are any to train."""
    keys, kind = _lost_biases(c)
    if keys:
        message = f"adapter_config.json has bias {kind!r}, and {len(keys)} biases of the model are not in the file"
        remedy = "Save again from the run, with all biases that were trained: those in the model are the base model's."
        yield finding("config-bias", f"{message}, such as {printable(keys[0])}.", keys, remedy=remedy)


def _lost_biases(c: Comparison) -> tuple[list[str], str | None]:
    kind = c.config.bias if c.config is not None else None
    if kind not in ("all", "lora_only") or c.report.scope != "adapter":
        return [], None
    # Those that were not trained are excused.
    return [key for key in c.after.missing.of("non_lora") if c.in_target(key).parameter == "bias"], kind


def lost_weights(c: Comparison) -> Iterator[Finding]:
    """Find base weights of the model that the checkpoint should hold (trouble 1 of the guide)."""
    explained = {*c.exchanged_heads[0], *_lost_biases(c)[0]}
    by_component: dict[str, list[str]] = defaultdict(list)
    for key in c.after.missing.of("non_lora"):
        if key not in explained:
            by_component[c.in_target(key).component].append(key)
    if not c.after.loaded:
        return
    rows = [row for row in c.report.components if not row.lora and row.in_model and not (row.in_file or row.remapped)]
    absent = sorted({row.name for row in rows} & {*by_component})
    keys = [key for name in absent for key in by_component.pop(name)]
    if keys:
        names = listed(absent, _MOST_NAMES)
        message = f"The checkpoint holds nothing of {names} ({count(len(keys), 'key')} missing)."
        yield finding("wrong-stage", message, keys)
    rest = [key for own in by_component.values() for key in own]
    if rest:
        yield finding("lost-weights", f"{_count(rest)} that the model needs are not in the checkpoint.", rest)


def partly_held(c: Comparison) -> Iterator[Finding]:
    """Find a component of which a checkpoint of trained weights holds a part: the rest was frozen, or is lost."""
    if c.report.scope != "adapter" or c.config is not None:
        return
    adapted = {row.name for row in c.report.components if row.lora}
    for row in c.report.components:
        if not row.lora and row.name not in adapted and row.in_file and row.remapped and row.excused:
            parsed = [c.in_target(key) for key in c.after.missing.of("excused")]
            keys = [each.key for each in parsed if each.component == row.name and not each.is_adapter]
            message = f"The checkpoint holds {row.remapped} of the {row.in_model} keys of {printable(row.name)}."
            yield finding("component-partly-held", message, keys)


def unexpected_weights(c: Comparison) -> Iterator[Finding]:
    """Find base weights of the checkpoint that have no place in the model."""
    keys = [key for key in c.after.unexpected.of("non_lora") if key not in c.exchanged_heads[1]]
    if keys and c.after.loaded:
        yield finding("unexpected-weights", f"{_count(keys)} of the checkpoint have no place in the model.", keys)


def too_few(c: Comparison) -> Iterator[Finding]:
    """Find a checkpoint of which too little is loaded (trouble 2 of the guide)."""
    ratio = c.report.loaded_ratio(of="model")
    if c.source and ratio < _FEW_LOADED and not c.after.shape_mismatches:
        needed = c.report.model_keys - c.after.missing.counts["excused"]
        message = f"{len(c.after.loaded)} of the {needed} keys that the model needs are loaded ({ratio:.1%}), "
        message += f"by any renaming; the checkpoint has {count(c.report.checkpoint_keys, 'key')}."
        yield finding("too-few-loaded", message)


def ambiguous(c: Comparison) -> Iterator[Finding]:
    """Find keys that fit several keys of the model."""
    for ambiguity in c.remapping.ambiguities:
        choices = " or ".join(printable(choice[0]) for choice in ambiguity.choices)
        message = f"{_count(ambiguity.keys)} fit several places equally well ({choices}); none was picked: "
        yield finding("ambiguous-remapping", f"{message}{ambiguity.distinction}.", ambiguity.keys)


def as_it_should_be(c: Comparison) -> Iterator[Finding]:
    """Say that a long list of missing base weights is as it should be."""
    if c.report.scope != "adapter" or any(rule.by == "you" for rule in c.remapping.rules):
        return
    # Those of another adapter, which lies in a file of its own, are no base weights.
    frozen = sum(not c.in_target(key).is_adapter for key in c.after.missing.of("excused"))
    if not frozen:
        return
    if c.report.verdict == "loads" and c.after.loaded:  # A merged adapter is loaded by no name.
        yield finding("strict-load-of-adapter", f"A strict load would stop at the {frozen} base weights that it lacks.")
    elif c.report.verdict == "loads-after-remap":
        yield finding("benign-report", f"Loaders will call {frozen} base weights missing.")


def _count(keys: Iterable[str]) -> str:
    groups = group_keys(keys)
    total = sum(number for _, number in groups)
    more = f" and {len(groups) - 1} more patterns" if len(groups) > 1 else ""
    return f"{count(total, 'key')} ({printable(groups[0][0]) if groups else ''}{more})"
