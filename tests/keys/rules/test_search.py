from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt.keys.rules.search import Goal, find_rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_lora_ckpt.keys.rules.rule import Rule

KEYS = st.lists(st.sampled_from(["a", "b", "module", "model", "1"]), min_size=1, max_size=4).map(".".join)


def goals(pairs: Mapping[str, str]) -> list[Goal]:
    return [Goal(key, goal, 1, key) for key, goal in pairs.items()]


def apply(rules: Sequence[Rule], key: str) -> str:
    return reduce(lambda now, rule: rule.apply(now), rules, key)


@given(st.dictionaries(KEYS, KEYS, max_size=5), st.booleans())
def test_applied_in_order_the_rules_give_every_goal(pairs: dict[str, str], general: bool) -> None:  # noqa: FBT001
    rules = find_rules(goals(pairs), general=general)
    assert rules is not None
    assert {key: apply(rules, key) for key in pairs} == pairs


def test_one_rule_serves_all_that_moved_alike() -> None:
    pairs = {f"module.{name}.weight": f"{name}.weight" for name in "abc"}
    [rule] = find_rules(goals(pairs)) or []
    assert (rule.pattern, rule.keys, rule.kind, rule.text) == (r"^module\.", 3, "strip", "strip module.")


def test_a_key_that_stays_is_not_harmed() -> None:
    pairs = {"model.a.weight": "a.weight", "model.b.weight": "model.b.weight"}
    rules = find_rules(goals(pairs)) or []
    assert {key: apply(rules, key) for key in pairs} == pairs


def test_names_that_change_places() -> None:
    pairs = {"a.weight": "b.weight", "b.weight": "a.weight"}
    rules = find_rules(goals(pairs)) or []
    assert {key: apply(rules, key) for key in pairs} == pairs
    assert len(rules) == 3


def test_one_key_cannot_become_two() -> None:
    assert find_rules([Goal("a", "b", 1, "a"), Goal("a", "c", 1, "a")]) is None


def test_a_line_break_at_the_end_belongs_to_the_key() -> None:
    rules = find_rules(goals({"a.w": "b.w", "a.w\n": "a.w\n"})) or []
    assert apply(rules, "a.w\n") == "a.w\n"


@pytest.mark.parametrize(
    ("source", "target", "kind", "by"),
    [
        ("q.lora_A.weight", "q.lora_A.x.weight", "insert-adapter", "peft"),
        ("q.lora_A.x.weight", "q.lora_A.y.weight", "rename-adapter", "you"),
        ("q.lora_A.x.weight", "q.lora_A.weight", "drop-adapter", "you"),
        ("q.lora_down.weight", "q.lora_A.weight", "convention", "you"),
        ("base_model.model.q.weight", "q.weight", "unwrap-peft", "you"),
        ("q.weight", "q.base_layer.weight", "wrap-peft", "you"),
        ("score.weight", "score.modules_to_save.x.weight", "modules-to-save", "peft"),
        ("q.weight", "text.q.weight", "insert", "you"),
        ("attn.q.weight", "mixer.q.weight", "replace", "you"),
    ],
)
def test_a_rule_says_what_it_does_and_who_applies_it(source: str, target: str, kind: str, by: str) -> None:
    [rule] = find_rules(goals({source: target})) or []
    assert (rule.kind, rule.by) == (kind, by)
