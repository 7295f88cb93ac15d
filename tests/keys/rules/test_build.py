"""From pairs of templates to rules that take each key where it belongs, and no other key anywhere."""

from __future__ import annotations

from pytest_lora_ckpt.keys import infer_remapping
from pytest_lora_ckpt.keys.matching.candidates import IndexMap
from pytest_lora_ckpt.keys.matching.pairs import Link, Pairs
from pytest_lora_ckpt.keys.rules.build import flat_goals, rules_for
from pytest_lora_ckpt.keys.templates import templates


def test_keys_that_differ_in_numbers_are_one_goal() -> None:
    [goal] = flat_goals({f"h.{n}.fc": f"layers.{n}.fc" for n in range(3)})
    assert (goal.keys, goal.example) == (3, "h.0.fc")


def test_keys_whose_numbers_change_are_goals_of_their_own() -> None:
    assert {goal.now for goal in flat_goals({"h.0.fc": "first.fc", "h.1.fc": "rest.0.fc"})} == {"h.0.fc", "h.1.fc"}


def test_keys_of_one_template_that_go_different_ways_are_told_apart_by_a_number() -> None:
    sources = templates({f"tower.{n}.{m}.fc.weight": (2,) for n in range(2) for m in range(2)})
    targets = templates({f"{side}.{m}.fc.weight": (2,) for side in ("left", "right") for m in range(2)})
    pairs = Pairs()
    for n, target in enumerate(targets):
        members = [(str(n), str(m)) for m in range(2)]
        pairs.links.setdefault(0, []).append(Link(target, IndexMap((1,), straight=False), members))
        for member in members:
            pairs.add(sources[0].members[member], target.members[member[1:]], same=True)
    rules = rules_for(sources, set(pairs.source_of), pairs)
    for key, goal in pairs.mapping.items():
        for rule in rules:
            key = rule.apply(key)  # noqa: PLW2901
        assert key == goal


def test_a_key_without_a_place_is_not_taken_into_the_model() -> None:
    """`extra.fc` would become the model's `fc` by the rule that serves the others."""
    checkpoint = {**{f"m.{name}.weight": (4, 4) for name in ("fc", "proj")}, "m.norm.weight": (4,)}
    found = infer_remapping(checkpoint, {"fc.weight": (4, 4), "proj.weight": (4, 4), "norm.weight": (5,)})
    assert {key: found.apply(key) for key in found.mapping} == dict(found.mapping)
    assert found.apply("m.norm.weight") != "norm.weight" or "m.norm.weight" in found.shape_mismatches
