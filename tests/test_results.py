from __future__ import annotations

import json

import pytest

from pytest_lora_ckpt import compare
from pytest_lora_ckpt.results import KEY_CLASSES, VERDICTS, ClassifiedKeys


def test_classified_keys_are_sorted_and_counted() -> None:
    keys = ClassifiedKeys({"b": "lora", "a": "non_lora", "c": "alias", "d": "excused"})
    assert list(keys) == ["a", "b", "c", "d"]
    assert keys == ["a", "b", "c", "d"]
    assert keys != ["a"]
    assert keys[0] == "a"
    assert keys[1:3] == ("b", "c")
    assert "b" in keys
    assert keys.counts == {"lora": 1, "lora_wrapped": 0, "prefix": 0, "alias": 1, "excused": 1, "non_lora": 1}
    assert keys.of("lora", "non_lora") == ("a", "b")
    assert keys.class_of("c") == "alias"
    assert keys.lost == 2
    assert repr(keys) == "ClassifiedKeys(4: lora 1, alias 1, excused 1, non_lora 1)"


def test_to_dict_is_the_contracts_json() -> None:
    told = compare({"model.a.weight": (1,)}, {"a.weight": (1,), "b.weight": (1,)}).to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["verdict"] in VERDICTS
    assert set(told["as_is"]) == {"loaded", "missing", "unexpected", "shape_mismatches"}
    assert tuple(told["as_is"]["missing"]) == KEY_CLASSES
    assert told["as_is"]["missing"]["prefix"] == 1
    assert told["remapped"]["loaded"] == 1
    assert set(told["rules"][0]) == {"rule", "kind", "keys", "by", "pattern", "replacement", "example"}
    assert told["rules"][0]["keys"] == 1
    assert set(told["findings"][0]) == {"cause", "severity", "message", "remedy", "keys", "follows", "accepted"}


def test_ratio_of_model_and_of_checkpoint() -> None:
    report = compare({"a": (1,), "x": (1,), "y": (1,)}, {"a": (1,), "b": (1,)})
    assert report.loaded_ratio(of="model") == 1 / 2
    assert report.loaded_ratio(of="checkpoint") == 1 / 3
    assert report.loaded_ratio(of="model", when="as_is") == 1 / 2


def test_ratio_of_empty_sides() -> None:
    assert compare({}, {}).loaded_ratio() == 1.0
    assert compare({}, {"a": (1,)}).loaded_ratio(of="checkpoint") == 0.0


@pytest.mark.parametrize("bad", [{"of": "file"}, {"when": "later"}])
def test_ratio_refuses_other_words(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad.values()))):
        compare({"a": (1,)}, {"a": (1,)}).loaded_ratio(**bad)


def test_the_gravest_finding_comes_first() -> None:
    report = compare({"module.a.weight": (1,), "b.lora_A.weight": (2, 2)}, {"a.weight": (1,), "c.weight": (1,)})
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=("error", "warning", "note").index)
    assert severities[0] == "error"
