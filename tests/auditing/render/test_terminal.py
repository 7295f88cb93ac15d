from __future__ import annotations

from typing import Any

from pytest_lora_ckpt import compare
from pytest_lora_ckpt.auditing.render.terminal import TerminalRenderer, section
from pytest_lora_ckpt.auditing.result import AuditResult

CHECKPOINT = {
    "path": "best.ckpt", "layout": "lightning", "format": "torch zip", "keys": 4, "bytes": 2048, "stage": "finetune",
    "adapters": {"default": {"rank": 4, "alpha": 8.0, "modules": 1}}, "envelope": ["epoch"], "beside": None,
    "notes": ["a note"],
}  # fmt: skip


def lines(checkpoint: dict[str, Any], model: dict[str, Any]) -> list[str]:
    report = compare(checkpoint, model).to_dict()
    checks = [{"name": "generate", "outcome": "skipped", "summary": "there is no loader"}]
    result = AuditResult.from_dict({**report, "checkpoint": CHECKPOINT, "checks": checks})
    assert TerminalRenderer().render([result]).splitlines() == list(section(result))
    return list(section(result))


def test_a_section() -> None:
    told = lines({"model.q.weight": (8, 8), "x.weight": (1,)}, {"q.weight": (8, 8), "y.weight": (1,)})
    text = "\n".join(told)
    assert "lightning · torch zip · 4 keys · 2.0 KiB · stage finetune" in text
    assert "adapter default: rank 4, alpha 8, 1 module" in text
    assert "note: a note" in text
    assert "as is: loaded 0 · missing 2 (prefix 1, non_lora 1) · unexpected 2 (prefix 1, non_lora 1)" in text
    assert "after remapping: loaded 1 · missing 1 (non_lora 1) · unexpected 1 (non_lora 1)" in text
    assert "verdict: partial" in text
    assert "[unexpected-weights]" in text
    assert "  -> " in text
    assert "not checked: generate (there is no loader)" in text


def test_a_section_stays_short_whatever_the_keys() -> None:
    model = {f"layers.{n}.{'y' * 5000}.weight": (1,) for n in range(300)}
    odd = {f"a\x1b[31m{n}\n.{'x' * 5000}": (1,) for n in range(300)}
    told = lines(odd, model)
    assert len(told) < 60
    assert all(len(line) <= 200 and line.isprintable() for line in told)
