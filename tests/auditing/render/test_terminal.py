"""The section of one checkpoint: what is shown in brief, what with `-v`, and how wide."""

from __future__ import annotations

from typing import Any

from pytest_lora_ckpt import compare
from pytest_lora_ckpt.auditing.render.lines import View
from pytest_lora_ckpt.auditing.render.terminal import TerminalRenderer
from pytest_lora_ckpt.auditing.result import (
    AuditResult,
)
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
