"""Results of audits, made by hand: what renderers are given."""

from __future__ import annotations

from pytest_lora_ckpt.auditing.result import AuditResult, CheckpointFacts, CheckResult, RuleFacts, StateFacts
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.results import Finding

LOST = tuple(
    f"base_model.model.model.layers.{layer}.self_attn.{name}_proj.lora_{factor}.weight"
    for layer in range(28)
    for name in "qv"
    for factor in "AB"
)
"""The keys of an adapter."""


def healthy(path: str = "runs/best.ckpt") -> AuditResult:
    """Return the result of a checkpoint with nothing to mend: a note, and what could not be checked."""
    return AuditResult(
        path,
        CheckpointFacts(path, "lightning", "torch zip", 112, 1 << 20, "finetune", notes=("It has one file.",)),
        verdict="loads",
        meaning="everything loads under its own name",
        as_is=StateFacts(112, {}, {}),
        remapped=StateFacts(112, {}, {}),
        checks=(
            CheckResult("readable", "passed", "lightning, 112 keys"),
            CheckResult("keys", "passed", "all 112 keys load"),
            CheckResult("loaded", "skipped", "there is no loader"),
            CheckResult("generate", "skipped", "there is no loader"),
        ),
        findings=(finding("model-by-config", "The model was built by its config."),),
    )


def sick(path: str = "runs/best.ckpt", said: str = "") -> AuditResult:
    """Return the result of an adapter that was dropped, with what follows; `said` stands wherever a file says it."""
    return AuditResult(
        path,
        CheckpointFacts(path, "peft_adapter", "safetensors", 112, 1 << 20),
        verdict="noop",
        meaning="the adapter changes nothing",
        as_is=StateFacts(0, {"excused": 30}, {"lora": 112}),
        remapped=StateFacts(0, {"excused": 30}, {"lora": 112}),
        rules=(
            RuleFacts(
                "strip base_model.model.", 112, "you", r"^base_model\.model\.", "", (LOST[0] + said, LOST[0][17:])
            ),
            RuleFacts("insert .default", 112, "peft", r"\.weight$", ".default.weight", (LOST[0], LOST[0])),
        ),
        checks=(
            CheckResult("readable", "passed", f"peft_adapter, 112 keys {said}"),
            CheckResult("lora-complete", "failed", f"3 modules are odd {said}"),
            CheckResult("keys", "failed", "noop: 112 keys of the checkpoint dropped"),
            CheckResult("loaded", "failed", "112 keys lost"),
            CheckResult("stage", "skipped", f"no stage was asked for {said}"),
        ),
        findings=(
            finding("adapter-not-loaded", f"112 of 112 adapter keys have no place in the model: {said}", [*LOST, said]),
            finding("dtype-mixed", f"1 tensor is of another dtype: {said}", [f"{said}.weight"]),
            Finding("adapter-inactive", "warning", "It is not there.", "", follows="adapter-not-loaded"),
            finding("loader-renames", f"Your loader renames the keys {said}."),
        ),
        failed_by={"adapter-not-loaded": ("keys", "loaded")},
    )
