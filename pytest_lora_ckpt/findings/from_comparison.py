"""Name the causes behind a comparison: from what is missing and unexpected after the remapping, and from its rules.

A recogniser is a function from a `Comparison` to findings; `_RECOGNISERS` lists them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.findings.causes import finding
from pytest_lora_ckpt.keys import ParsedKey, Rule, parse_key, readings, templates
from pytest_lora_ckpt.results import Finding, LoadReport, LoadState
from pytest_lora_ckpt.wording import group_keys

if TYPE_CHECKING:
    from pytest_lora_ckpt.keys import Remapping
    from pytest_lora_ckpt.tensors import KeySet

_SEVERITIES = ("error", "warning", "note")

# Modules that turn hidden states into scores; which one a class has is what tells these classes apart.
_HEADS = frozenset({"lm_head", "score", "classifier", "output", "v_head", "value_head", "qa_outputs", "embed_out"})
_FEW_LOADED = 0.5
_NOT_LOST = ("alias", "excused")


@dataclass(frozen=True)
class Comparison:
    """All that a recogniser may look at.

    Attributes:
        report: The counts, without findings.
        source: The checkpoint's keys.
        target: The model's keys.
        layout: The checkpoint's layout, where it is a `Checkpoint`.
        adapter_config: The content of `adapter_config.json`, or None.
    """

    report: LoadReport
    source: KeySet
    target: KeySet
    layout: str | None
    adapter_config: Mapping[str, Any] | None

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


Recogniser = Callable[[Comparison], Iterable[Finding]]


def diagnose(comparison: Comparison) -> tuple[Finding, ...]:
    """Run every recogniser; the gravest findings first."""
    found = [finding for recognise in _RECOGNISERS for finding in recognise(comparison)]
    return tuple(sorted(found, key=lambda each: _SEVERITIES.index(each.severity)))


def _empty(c: Comparison) -> Iterator[Finding]:
    if not c.source:
        yield finding("empty-adapter", "The checkpoint holds no tensor.")


def _misfits(c: Comparison) -> Iterator[Finding]:
    by_cause: dict[str, list[str]] = defaultdict(list)
    for key in c.after.shape_mismatches:
        place = c.remapping.shape_mismatches.get(key, key)
        by_cause[_misfit_cause(c, key, place)].append(key)
    for cause, keys in by_cause.items():
        key = keys[0]
        place = c.remapping.shape_mismatches.get(key, key)
        shapes = f"{list(c.source[key].shape)} in the file, {list(c.target[place].shape)} in the model"
        yield finding(cause, f"{_count(keys)} of another shape: {key} is {shapes}.", keys)


# What the inference calls what no renaming can mend -> our cause.
_PROBLEM_CAUSES = {
    "size-0": "zero3-empty",
    "rank-mismatch": "rank-mismatch",
    "resized-vocabulary": "resized-embedding",
    "transposed": "transposed-factors",
    "merged-linear": "merged-linear",
    "fused-qkv": "fused-weights",
    "fused-gate-up": "fused-weights",
    "fused": "fused-weights",
    "fused-experts": "fused-experts",
    "extra-layers": "extra-layers",
    "missing-layers": "missing-layers",
}


def _misfit_cause(c: Comparison, key: str, place: str) -> str:
    if not c.source[key].numel:
        return "zero3-empty"
    for problem in c.remapping.problems:
        if key in problem.keys and place in problem.model_keys:
            return _PROBLEM_CAUSES.get(problem.kind, "shape-mismatch")
    return "shape-mismatch"


def _beyond_renaming(c: Comparison) -> Iterator[Finding]:
    """Name what was left over for a reason that no renaming mends; `_misfits` tells what meets in another shape."""
    misfits = {*c.after.shape_mismatches}
    for problem in c.remapping.problems:
        cause = _PROBLEM_CAUSES.get(problem.kind)
        keys = [key for key in problem.keys if key not in misfits]
        if cause is not None and (keys or (problem.model_keys and not problem.keys)):
            told = keys or [key for key in problem.model_keys if c.after.missing.class_of(key) not in _NOT_LOST]
            if problem.kind == "missing-layers":
                told = _in_absent_layers(c, told)
            if told:
                yield finding(cause, f"{_count(told)}: {problem.text}.", told)


def _in_absent_layers(c: Comparison, keys: list[str]) -> list[str]:
    """Leave the keys that lie in a layer or an expert of which nothing is loaded: else it is there, and not whole."""
    there = {around for key in c.after.loaded for around in _numbered(key)}
    return [key for key in keys if not there.issuperset(_numbered(key))]


def _numbered(key: str) -> Iterator[str]:
    """Give the paths of the layers and the experts around a key: `layers.3` and `layers.3.experts.7`."""
    segments = key.split(".")
    return (".".join(segments[: at + 1]) for at, segment in enumerate(segments) if segment.isdigit())


def _adapter_without_home(c: Comparison) -> Iterator[Finding]:
    homeless = c.after.unexpected.of("lora")
    if not homeless:
        return
    total = c.report.lora_keys[0]
    told = f"{len(homeless)} of {total} adapter keys of the checkpoint have no place in the model"
    if not c.model_has_lora:
        yield finding(
            "adapter-not-loaded", f"{told}: the model has no LoRA, so the adapter was never loaded.", homeless
        )
        if c.report.scope == "full" and c.layout != "lightning":
            yield finding("unmerged-peft-full-save", "A full checkpoint was saved with its adapter unmerged.")
    elif len(homeless) < total:
        modules = {c.in_source(key).module_path for key in homeless}
        yield finding("target-mismatch", f"{told}: the model has no LoRA on {_list(modules)}.", homeless)
    else:
        yield finding("adapter-without-home", f"{told}, though the model has LoRA: the names do not meet.", homeless)


def _empty_slots(c: Comparison) -> Iterator[Finding]:
    slots = c.after.missing.of("lora")
    if not slots or not c.source:
        return
    if not c.report.lora_keys[0]:
        yield finding(
            "lora-not-saved",
            f"The checkpoint has no LoRA keys, and the model has {len(slots)}: they keep their initial values.",
            slots,
        )
    elif not c.after.unexpected.of("lora"):
        yield finding("lora-slot-empty", f"{_count(slots)} of the model's LoRA are not in the checkpoint.", slots)


def _heads(c: Comparison) -> Iterator[Finding]:
    lost, unused = _exchanged_heads(c)
    if lost:
        yield finding(
            "wrong-base-class",
            f"The checkpoint has {_list(unused.values())}, and the model has {_list(lost.values())} instead: "
            "another class.",
            (*lost, *unused),
        )


def _exchanged_heads(c: Comparison) -> tuple[dict[str, str], dict[str, str]]:
    """Find heads that only the model has and heads that only the checkpoint has: key -> name; both or neither."""
    lost, unused = (
        {key: parse(key).modules[-1] for key in keys.of("non_lora") if not _HEADS.isdisjoint(parse(key).modules[-1:])}
        for keys, parse in ((c.after.missing, c.in_target), (c.after.unexpected, c.in_source))
    )
    return (lost, unused) if lost and unused else ({}, {})


def _lost(c: Comparison) -> Iterator[Finding]:
    """Trouble 1 of the guide: many non-LoRA keys missing."""
    heads, _ = _exchanged_heads(c)
    told = {key for found in _biases(c) for key in found.keys}
    lost = [key for key in c.after.missing.of("non_lora") if key not in heads and key not in told]
    by_component: dict[str, list[str]] = defaultdict(list)
    for key in lost:
        by_component[c.in_target(key).component].append(key)
    absent = {
        row.name
        for row in c.report.components
        if not row.lora and row.in_model and not row.in_file and not row.remapped
    }
    whole = sorted(name for name in by_component if name in absent)
    if whole and c.after.loaded:
        keys = [key for name in whole for key in by_component[name]]
        yield finding(
            "wrong-stage", f"The checkpoint holds nothing of {_list(whole)} ({len(keys)} keys missing).", keys
        )
    rest = [key for name, keys in by_component.items() if name not in whole for key in keys]
    if rest and c.after.loaded:
        yield finding("lost-weights", f"{_count(rest)} that the model needs are not in the checkpoint.", rest)


def _biases(c: Comparison) -> Iterator[Finding]:
    """Find trained biases that are not in an adapter: only a model shows that there are any to train."""
    kind = (c.adapter_config or {}).get("bias")
    # Those that were not trained are excused.
    lost = [key for key in c.after.missing.of("non_lora") if c.in_target(key).parameter == "bias"]
    if lost and kind in {"all", "lora_only"} and c.report.scope == "adapter":
        told = f"adapter_config.json has bias {kind!r}, and {len(lost)} biases of the model are not in the file"
        yield finding("config-bias", f"{told}, such as {lost[0]}.", lost)


def _partly_held(c: Comparison) -> Iterator[Finding]:
    """Say where a checkpoint of trained weights holds some of a component: the rest was frozen, or is lost."""
    if c.report.scope != "adapter" or c.adapter_config is not None:
        return
    adapted = {row.name for row in c.report.components if row.lora}
    for row in c.report.components:
        if not row.lora and row.name not in adapted and row.in_file and row.remapped and row.excused:
            left = [key for key in c.after.missing.of("excused") if c.in_target(key).component == row.name]
            yield finding(
                "component-partly-held",
                f"The checkpoint holds {row.remapped} of the {row.in_model} keys of {row.name}.",
                [key for key in left if not c.in_target(key).is_adapter],
            )


def _homeless(c: Comparison) -> Iterator[Finding]:
    _, heads = _exchanged_heads(c)
    homeless = [key for key in c.after.unexpected.of("non_lora") if key not in heads]
    if homeless and c.after.loaded:
        yield finding(
            "unexpected-weights", f"{_count(homeless)} of the checkpoint have no place in the model.", homeless
        )


def _too_few(c: Comparison) -> Iterator[Finding]:
    """Trouble 2 of the guide: too few keys loaded."""
    ratio = c.report.loaded_ratio(of="model")
    if c.source and ratio < _FEW_LOADED and not c.after.shape_mismatches:
        needed = c.report.model_keys - c.after.missing.counts["excused"]
        yield finding(
            "too-few-loaded",
            f"{len(c.after.loaded)} of the {needed} keys that the model needs are loaded ({ratio:.1%}), "
            f"by any renaming; the checkpoint has {c.report.checkpoint_keys} keys.",
        )


def _ambiguous(c: Comparison) -> Iterator[Finding]:
    for ambiguity in c.remapping.ambiguities:
        places = " or ".join(choice[0] for choice in ambiguity.choices)
        yield finding(
            "ambiguous-remapping",
            f"{_count(ambiguity.keys)} fit several places equally well ({places}); none was picked. "
            f"{ambiguity.distinction}",
            ambiguity.keys,
        )


_WRAPPER_CAUSES = {
    "module": "ddp-prefix",
    "_orig_mod": "compile-prefix",
    "_fsdp_wrapped_module": "fsdp-prefix",
    "_checkpoint_wrapped_module": "wrapper-prefix",
    "_forward_module": "wrapper-prefix",
}
_KIND_CAUSES = {
    "rename-adapter": "adapter-name",
    "drop-adapter": "adapter-name",
    "insert-adapter": "adapter-name",
    "modules-to-save": "modules-to-save",
    "convention": "key-convention",
    "unwrap-peft": "wrapper-prefix",
    "wrap-peft": "wrapper-prefix",
}
_TOWERS = frozenset({"language_model", "vision_tower", "vision_model", "text_model", "visual", "vision_encoder"})


def _renamed(c: Comparison) -> Iterator[Finding]:
    """Turn the rules that somebody has to apply into causes."""
    by_cause: dict[str, list[str]] = defaultdict(list)
    keys: dict[str, list[str]] = defaultdict(list)
    mapping = c.report.mapping
    renamed = [
        [key for key in template.members.values() if mapping.get(key, key) != key] for template in templates(c.source)
    ]
    for rule in c.remapping.rules:
        if rule.by == "torch" or (rule.by == "peft" and _peft_does(c, rule)):
            continue
        cause = _rule_cause(c, rule)
        by_cause[cause].append(rule.text)
        keys[cause] += [key for own in renamed for key in _changed_by(rule, own)]
    for cause, texts in by_cause.items():
        yield finding(cause, f"The keys need a renaming ({_texts(texts)})", dict.fromkeys(keys[cause]))


def _changed_by(rule: Rule, alike: Sequence[str]) -> Sequence[str]:
    """Return the keys that a rule changes, of some that differ only in numbers: all or none unless it has a number."""
    if any(map(str.isdigit, re.sub(r"\[0-9\][+*]", "", rule.pattern))):
        return [key for key in alike if rule.apply(key) != key]
    return alike if alike and rule.apply(alike[0]) != alike[0] else ()


def _texts(texts: list[str], most: int = 3) -> str:
    more = f"; and {len(texts) - most} more" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more


def _peft_does(c: Comparison, rule: Rule) -> bool:
    """Whether the loader that will meet these keys is PEFT's: it needs an adapter directory, or a `PeftModel`."""
    if rule.kind == "modules-to-save":
        return c.model_is_peft
    return c.adapter_config is not None or c.model_is_peft or ".default." in rule.example[1]


def _rule_cause(c: Comparison, rule: Rule) -> str:  # noqa: PLR0911  # One line, and one answer, per kind of renaming.
    before, after = rule.example
    words, others = before.split("."), after.split(".")
    changed = [*(word for word in words if word not in others), *(word for word in others if word not in words)]
    for word in changed:
        if word in _WRAPPER_CAUSES:
            return _WRAPPER_CAUSES[word]
    if rule.kind in _KIND_CAUSES:
        return _KIND_CAUSES[rule.kind]
    if c.layout == "lightning" and before == f"model.{after}":
        return "lightning-prefix"
    if parse_key(before).lora != parse_key(after).lora:
        return "key-convention"
    # Where no word is new and none is gone, there is one more or one less of a word: `model.model.`
    if not changed and (before.endswith(f".{after}") or after.endswith(f".{before}")):
        return "wrapper-prefix"
    if not _TOWERS.isdisjoint(changed or words):
        return "vlm-refactor-prefix"
    if not changed and c.adapter_config is not None:
        return "wrong-base-class"
    return "wrapper-prefix" if before.endswith(f".{after}") or after.endswith(f".{before}") else "renamed-module"


def _benign(c: Comparison) -> Iterator[Finding]:
    """Say that a long list of missing base weights is as it should be."""
    if c.report.scope != "adapter" or c.report.verdict not in {"loads", "loads-after-remap"}:
        return
    base = c.after.missing.counts["excused"]
    if not base or any(rule.by == "you" for rule in c.remapping.rules):
        return
    if c.report.verdict == "loads":
        yield finding("strict-load-of-adapter", f"A strict load would stop at the {base} base weights that it lacks.")
    else:
        yield finding("benign-report", f"Loaders will call {base} base weights missing.")


_RECOGNISERS: tuple[Recogniser, ...] = (
    _empty,
    _misfits,
    _beyond_renaming,
    _adapter_without_home,
    _empty_slots,
    _heads,
    _lost,
    _biases,
    _partly_held,
    _homeless,
    _too_few,
    _ambiguous,
    _renamed,
    _benign,
)


def _count(keys: Iterable[str]) -> str:
    groups = group_keys(keys)
    total = sum(count for _, count in groups)
    more = f" and {len(groups) - 1} more patterns" if len(groups) > 1 else ""
    return f"{total} {'key' if total == 1 else 'keys'} ({groups[0][0] if groups else ''}{more})"


def _list(names: Iterable[str], most: int = 6) -> str:
    listed = sorted(set(names))
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
