"""The section of one checkpoint: what is shown in brief, what with `-v`, and how wide."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_lora_ckpt import compare
from pytest_lora_ckpt.auditing.gather import gather
from pytest_lora_ckpt.auditing.render.lines import View
from pytest_lora_ckpt.auditing.render.terminal import HEALTHY, TerminalRenderer, not_checked, section
from pytest_lora_ckpt.auditing.render.terminal_failures import failure
from pytest_lora_ckpt.auditing.render.terminal_overview import heading, needs_section, overview
from pytest_lora_ckpt.auditing.result import (
    AuditResult,
    CheckpointFacts,
    CheckReport,
    CheckResult,
    CompanionFacts,
    NextStep,
    RuleFacts,
    StateFacts,
)
from pytest_lora_ckpt.lora.adapters import AdapterInfo
from pytest_lora_ckpt.results import Finding
from tests.helpers.sections import flat, shown

CHECKPOINT = {
    "path": "best.ckpt", "layout": "lightning", "format": "torch zip", "keys": 4, "bytes": 2048, "stage": "finetune",
    "adapters": {"default": {"rank": 4, "alpha": 8.0, "modules": 1}}, "envelope": ["epoch"], "beside": None,
    "notes": ["a note"],
}  # fmt: skip


def compared(checkpoint: dict[str, Any], model: dict[str, Any]) -> AuditResult:
    report = compare(checkpoint, model).to_dict()
    checks = [{"name": "generate", "outcome": "skipped", "summary": "there is no loader"}]
    return AuditResult.from_dict({**report, "checkpoint": CHECKPOINT, "checks": checks})


ODD = compared({"model.q.weight": (8, 8), "x.weight": (1,)}, {"q.weight": (8, 8), "y.weight": (1,)})


def test_what_is_shown_with_v() -> None:
    text = "\n".join(shown(ODD, verbose=True))
    for words in (
        "lightning · torch zip · 4 keys · 2.0 KiB · stage finetune",
        "adapter default: rank 4, alpha 8, 1 module",
        "beside the state dict: epoch",
        "note: a note",
        "as is: loaded 0 · missing 2 (prefix 1, non_lora 1) · unexpected 2 (prefix 1, non_lora 1)",
        "  1. strip model. (1 key, your loader must)\n     model.q.weight -> q.weight",
        "after remapping: loaded 1 · missing 1 (non_lora 1) · unexpected 1 (non_lora 1)",
        "verdict: partial",
        "[unexpected-weights]",
        "  -> ",
        "not checked: generate (there is no loader)",
    ):
        assert words in text, words
    assert TerminalRenderer(View(verbose=True)).render([ODD]) == f"{text}\n"


def test_the_verdict_the_cause_and_the_remedy_come_first() -> None:
    told = shown(ODD)
    begin = [next(n for n, line in enumerate(told) if line.startswith(each)) for each in ("verdict", "error", "  ->")]
    assert begin == sorted(begin)
    assert begin[0] == 0
    assert told.index("best.ckpt") > begin[-1]
    assert TerminalRenderer().render([ODD]).splitlines() == told
    assert "epoch" not in flat(told)
    assert (
        "keys: loaded 1 (0 as is) · missing 1 (non_lora 1) · unexpected 1 (non_lora 1) · renamed: strip model."
        in flat(told)
    )


def test_a_section_stays_short_whatever_the_keys() -> None:
    model = {f"layers.{n}.{'y' * 5000}.weight": (1,) for n in range(300)}
    odd = {f"a\x1b[31m{n}\n.{'x' * 5000}": (1,) for n in range(300)}
    for verbose in (False, True):
        told = shown(compared(odd, model), verbose=verbose)
        assert len(told) < 60
        assert all(len(line) <= 200 and line.isprintable() for line in told)


# A healthy checkpoint of which there is as much to say as there can be.
EVERYTHING = AuditResult(
    "runs/final",
    CheckpointFacts(
        "/models/runs/2026-11-27/final/adapter",
        "peft_adapter", "safetensors", 1568, 339 << 20, "finetune",
        adapters={"default": AdapterInfo(32, 64.0, 196), "ref": AdapterInfo(16, 16.0, 196)},
        envelope=("format",),
        notes=("3 of 4 files were not looked at: they are larger than what is read of files beside a checkpoint.",),
        companions=(CompanionFacts("file", "/models/runs/value_head.safetensors", 2, 8192),),
    ),
    verdict="loads-after-remap",
    meaning="everything is loaded: the loader renames the keys",
    as_is=StateFacts(0, {"lora": 1568, "excused": 311}, {"lora": 1568}),
    remapped=StateFacts(1568, {"excused": 311}, {}),
    rules=(
        RuleFacts("strip model.", 1568, "you", r"^model\\.", "", ("model.a", "a"), applied=True),
        RuleFacts("insert the adapter's name default", 1568, "peft", "x", "y", ("a.lora_A", "a.lora_A.default")),
    ),
    checks=(
        CheckResult("readable", "passed", "peft_adapter, 1568 keys"),
        CheckResult("stage", "skipped", "no stage was asked for (--lora-stage)"),
        CheckResult("loaded", "passed", "1570 tensors compared with the loaded model: 1570 equal bit for bit."),
        CheckResult("base-untouched", "passed", "311 base weights match the base model"),
        CheckResult(
            "adapter-active",
            "passed",
            "Switching the adapter off changes the output by up to 3.52. Updates ‖s·BA‖/‖W‖ of 196 modules: 1% to 4%.",
        ),
        CheckResult("manifest", "passed", "All 1568 tensors match the manifest, in the file and in the loaded model."),
    ),
    findings=tuple(
        Finding(cause, "note", f"{cause} is nothing to mend, {'and is said at length ' * 5}.", "Nothing to mend.")
        for cause in ("benign-report", "strict-load-of-adapter", "adapter-alone")
    ),
    next_step=NextStep("--lora-stage=finetune", ("stage",)),
)  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 120, 160, 240])
def test_a_healthy_checkpoint_takes_a_dozen_lines(width: int) -> None:
    assert EVERYTHING.standing == "good"
    told = shown(EVERYTHING, width)
    assert len(told) + 1 <= HEALTHY == 12
    assert max(map(len, told)) <= min(width, 120)
    text = flat(told)
    for words in (
        "verdict: loads-after-remap (everything is loaded: the loader renames the keys)",
        "adapters: default (rank 32, alpha 64), ref (rank 16, alpha 16)",
        "with it: value_head.safetensors, 2 keys, 8.0 KiB",
        "keys: loaded 1568 (0 as is) · missing 0 · unexpected 0 · excused 311 · renamed",
        "loaded: 1570 tensors",
        "adapter-active: Switching the adapter off changes the output by up to 3.52",
        "note: 3 of 4 files were not looked at",
        "more: -v)",
        "not checked: stage: give --lora-stage=finetune",
    ):
        assert words in text, words


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("width", [60, 80, 120, 160])
@pytest.mark.parametrize("result", [EVERYTHING, ODD], ids=["healthy", "sick"])
def test_the_width_is_respected(result: AuditResult, width: int, verbose: bool) -> None:  # noqa: FBT001
    for line in shown(result, width, verbose=verbose):
        # What is longer does not break: a key, a path, a line of code.
        assert len(line) <= width or len(line.split()) <= 2 or "state_dict" in line, line


def test_everything_is_there_with_v() -> None:
    text = flat(shown(EVERYTHING, verbose=True))
    for check in EVERYTHING.checks:
        assert check.outcome != "passed" or check.name == "readable" or f"{check.name}: {check.summary}" in text
    for found in EVERYTHING.findings:
        assert f"[{found.cause}]" in text
    assert "adapter ref: rank 16, alpha 16, 196 modules" in text
    assert "not checked: stage (no stage was asked for (--lora-stage))" in text


def roles(result: AuditResult, *, verbose: bool = False) -> dict[str, str]:
    """Return what lines mean, by their first word."""
    return {each.text.split()[0]: each.role for each in section(result, View(verbose=verbose))}


def test_colours_by_meaning() -> None:
    assert roles(EVERYTHING)["verdict:"] == "good"
    assert set(roles(EVERYTHING).values()) == {"good", "plain"}
    sick = dataclasses.replace(ODD, checks=(CheckResult("keys", "failed", "partial"),))
    assert [roles(sick)[word] for word in ("verdict:", "error:", "->", "best.ckpt")] == [
        "bad",
        "error",
        "remedy",
        "plain",
    ]
    alone = AuditResult("a.ckpt", CheckpointFacts("a.ckpt"))
    assert roles(alone)["verdict:"] == "doubtful"
    warned = dataclasses.replace(EVERYTHING, findings=(Finding("compile-prefix", "warning", "A name.", "Strip it."),))
    assert roles(warned)["verdict:"] == "doubtful"
    assert roles(warned)["warning:"] == "warning"
    (first, _) = next(section(EVERYTHING)).spans
    assert first == ("verdict: loads-after-remap", {"green": True, "bold": True})


def test_what_failed_without_a_cause_is_told_in_full() -> None:
    summary = (
        "cannot read checkpoint a.ckpt (truncated)\n  expected: an archive\n    or so\n  what to do: Copy it again."
    )
    checks = [CheckResult("readable", "failed", summary), CheckResult("values", "skipped", "not readable: truncated")]
    told = shown(AuditResult("a.ckpt", CheckpointFacts("a.ckpt"), checks=tuple(checks)))
    assert told == [
        "verdict: not-compared (there was no model or loader to compare with)",
        "error: cannot read checkpoint a.ckpt (truncated)",
        "  expected: an archive",
        "    or so",
        "  what to do: Copy it again.",
        "  failed checks: readable",
        "not checked: values (not readable: truncated)",
    ]


def failing(*others: str) -> AuditResult:
    """A result with a cause that two checks failed for, and further errors."""
    keys = tuple(
        f"layers.{n}.{leaf}.weight" for n in range(3) for leaf in ("a.b", "c", "d.e.f", "g.h.i.j", "k.l.m.n.o")
    )
    found = [Finding(cause, "error", f"{cause} it is.", f"Mend {cause}.", keys) for cause in ("rank-mismatch", *others)]
    follows = Finding("scaling-differs", "warning", "The scaling is another one.", "", (), "rank-mismatch")
    return AuditResult(
        "a.ckpt",
        CheckpointFacts("a.ckpt", notes=("a note",)),
        verdict="partial",
        checks=(
            CheckResult("keys", "failed", "partial: 3 keys"),
            CheckResult("ratio", "failed", "rank-mismatch it is."),
        ),
        findings=(*found, follows),
        failed_by={"rank-mismatch": ("keys", "ratio")},
    )


def test_many_keys_and_many_causes_are_cut_and_counted() -> None:
    told = shown(failing(*"abcdefg"))
    assert told.count("        6 … and 2 more patterns: see -v") == 5
    assert "  … and 3 more causes: see -v" in told
    assert told[-1] == "with -v: 1 note"
    assert "The scaling" not in flat(told)
    whole = shown(failing(*"abcde"), verbose=True)
    assert sum(line.startswith("error:") for line in whole) == 6
    assert "  From this follows: scaling-differs." in whole
    assert "more patterns" not in flat(whole)


def test_a_failure_does_not_repeat_the_section() -> None:
    result = failing()
    assert [each.text for each in failure(result, "keys", View())] == ["partial: 3 keys [rank-mismatch]"]
    (told,) = failure(result, "ratio", View())
    assert told.text == "see the section of the checkpoint below [rank-mismatch]"


def test_a_table_of_many() -> None:
    named = [("best.ckpt", EVERYTHING), ("odd.ckpt", failing()), ("x" * 300, EVERYTHING)]
    told = [each.text for each in overview(named, View(100))]
    assert told[0].split() == ["loads-after-remap", "best.ckpt", "5", "passed,", "1", "not", "checked"]
    assert told[1].split(None, 2) == ["partial", "odd.ckpt", "failed: rank-mismatch"]
    assert told[3] == "not checked: stage: give --lora-stage=finetune [in 2 of 3]"
    assert max(map(len, told)) <= 100
    assert heading([result for _, result in named]) == "LoRA checkpoints: 1 of 3 failed"
    assert heading([EVERYTHING]) == "LoRA checkpoints: none of 1 failed"
    assert [needs_section(result) for _, result in named] == [False, True, False]


def test_what_was_asked_for_besides_the_checks_is_told_with_its_reason() -> None:
    checks = (CheckResult("config", "skipped", "no config"), CheckResult("faults", "skipped", "not scored: it fails"))
    told = [each.text for each in not_checked(dataclasses.replace(ODD, checks=checks), View())]
    assert told == ["not checked: config (no config)", "faults: not scored: it fails"]


def test_not_checked_names_the_one_thing_to_give() -> None:
    reports = [
        CheckReport("keys", "skipped", "no model", gives=("--lora-loader=x", "--lora-model=x")),
        CheckReport("stage", "skipped", "no stage", applies=False, gives=("--lora-stage=x",)),
        CheckReport("loaded", "skipped", "no loader", gives=("--lora-loader=x",)),
        CheckReport("manifest", "skipped", "no manifest", gives=("--lora-manifest=x",)),
        CheckReport("values", "passed", "fine"),
    ]
    result = gather("a.ckpt", reports)
    assert result.next_step == NextStep("--lora-loader=x", ("keys", "loaded"))
    assert AuditResult.from_dict(result.to_dict()) == result
    (told,) = not_checked(result, View(120))
    assert told.text == "not checked: keys, stage, loaded, manifest: give --lora-loader=x (for keys, loaded)"
    # Of two that open one check each, the one that applies.
    assert gather("a.ckpt", [reports[1], reports[3]]).next_step == NextStep("--lora-manifest=x", ("manifest",))
    assert gather("a.ckpt", [reports[4]]).next_step is None
