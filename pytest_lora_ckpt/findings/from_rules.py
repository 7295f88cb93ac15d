"""Name the causes behind the rules by which keys were renamed: a prefix, another library's names, another class."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings.finding import finding, of_kind, of_wrapper
from pytest_lora_ckpt.keys import parse_key, templates
from pytest_lora_ckpt.keys.grammar import FLATTENED
from pytest_lora_ckpt.vocabulary.models import TOWERS
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.findings.from_comparison import Comparison
    from pytest_lora_ckpt.keys import Rule
    from pytest_lora_ckpt.results import Finding

_MOST_RULES = 3


def renamed(c: Comparison) -> Iterator[Finding]:
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
        more = f"; and {len(texts) - _MOST_RULES} more" if len(texts) > _MOST_RULES else ""
        message = f"The keys need a renaming ({'; '.join(map(printable, texts[:_MOST_RULES]))}{more})"
        yield finding(cause, message, dict.fromkeys(keys[cause]))


def _changed_by(rule: Rule, alike: Sequence[str]) -> Sequence[str]:
    """Return the keys that a rule changes, of some that differ only in numbers: all or none unless it has a number."""
    if any(map(str.isdigit, re.sub(r"\[0-9\][+*]", "", rule.pattern))):
        return [key for key in alike if rule.apply(key) != key]
    return alike if alike and rule.apply(alike[0]) != alike[0] else ()


def _peft_does(c: Comparison, rule: Rule) -> bool:
    """Whether the loader that will meet these keys is PEFT's: it needs an adapter directory, or a `PeftModel`."""
    if rule.kind == "modules-to-save":
        return c.model_is_peft
    return c.config is not None or c.model_is_peft or parse_key(rule.example[1]).adapter == "default"


def _rule_cause(c: Comparison, rule: Rule) -> str:  # noqa: PLR0911  # One line, and one answer, per kind of renaming.
    before, after = rule.example
    words, others = before.split("."), after.split(".")
    changed = [*(word for word in words if word not in others), *(word for word in others if word not in words)]
    is_prefix = before.endswith(f".{after}") or after.endswith(f".{before}")
    known = next(filter(None, map(of_wrapper, changed)), None) or of_kind(rule.kind)
    if known is not None:
        return known
    if c.by_lightning and before == f"model.{after}":
        return "lightning-prefix"
    mine, theirs = parse_key(before), parse_key(after)
    if mine.lora != theirs.lora or (FLATTENED.fullmatch(words[0]) and words[0] not in others):
        return "key-convention"
    if mine.in_modules_to_save != theirs.in_modules_to_save:
        return "modules-to-save"
    structure = mine.reading.structure ^ theirs.reading.structure
    if mine.module_path == theirs.module_path and not structure:
        same = "wrapper-prefix" if mine.parameter == theirs.parameter else "key-convention"
        return "adapter-name" if mine.adapter != theirs.adapter else same
    # Where no word is new and none is gone, there is one more or one less of a word: `model.model.`
    if not changed and is_prefix:
        return "wrapper-prefix"
    if not TOWERS.isdisjoint(changed or words):
        return "vlm-refactor-prefix"
    if not changed and c.config is not None:
        return "wrong-base-class"
    own, other = (f".{each.module_path}" if "peft_wrapper" in structure else "" for each in (mine, theirs))
    is_wrapped = bool(own) and (own.endswith(other) or other.endswith(own))
    return "wrapper-prefix" if is_prefix or is_wrapped else "renamed-module"
