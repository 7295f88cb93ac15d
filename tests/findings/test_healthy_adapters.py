"""No kind of adapter that PEFT writes is found fault with by the checks that need the file alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import compare
from pytest_lora_ckpt.auditing.checks import CHECKS
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.comparison.stages import Demands
from pytest_lora_ckpt.findings.from_config import intruder_findings
from tests.helpers.adapter_samples import Mixed, llama, qwen2, save, wear

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (llama, {}),
    "dora": (llama, {"use_dora": True}),
    "rslora": (llama, {"use_rslora": True}),
    "bias all, and none there": (llama, {"bias": "all"}),
    "bias lora_only, and none there": (llama, {"bias": "lora_only"}),
    "bias all": (qwen2, {"bias": "all"}),
    "bias lora_only": (qwen2, {"bias": "lora_only"}),
    "bias lora_only, elsewhere": (qwen2, {"bias": "lora_only", "target_modules": ["up_proj"]}),
    "lora bias": (qwen2, {"lora_bias": True}),
    "trained norms": (llama, {"modules_to_save": ["layernorm", "lm_head"]}),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding, dora": (llama, {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "tied embeddings": (lambda: llama(tie_word_embeddings=True), {"target_modules": ["embed_tokens", "q_proj"]}),
    "tokens": (llama, {"trainable_token_indices": [1, 2]}),
    "ranks": (llama, {"rank_pattern": {"layers.1.self_attn.q_proj": 1}}),
    "layers": (llama, {"layers_to_transform": [0, 2]}),
    "one layer": (llama, {"layers_to_transform": 1, "layers_pattern": "layers"}),
    "excluded": (llama, {"exclude_modules": ["layers.0.self_attn.q_proj"]}),
    "excluded by a pattern": (llama, {"exclude_modules": r".*layers\.0.*"}),
    "pattern": (llama, {"target_modules": r".*layers\.[12].*q_proj"}),
    "all-linear": (llama, {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}),
    "pissa": (llama, {"init_lora_weights": "pissa"}),
    "convolutions": (Mixed, {"target_modules": ["grouped", "conv", "linear"], "bias": "lora_only"}),
    "convolutions, dora": (Mixed, {"target_modules": ["conv", "linear"], "use_dora": True}),
    "embedding and norm": (Mixed, {"target_modules": ["table", "linear"], "modules_to_save": ["norm", "head"]}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, on embeddings and tied weights.
def test_nothing_is_found(kind: str, tmp_path: Path) -> None:
    base, settings = KINDS[kind]
    model = wear(base(), **settings)
    checkpoint = save(model, tmp_path / "adapter")
    run = AuditContext(tmp_path / "adapter", Demands())
    for name in ("readable", "lora-complete", "config", "values"):
        outcome = CHECKS[name](run)
        assert (outcome.passed, outcome.findings) == (True, ()), name
    assert checkpoint.adapter_config is not None
    assert intruder_findings(checkpoint.adapter_config, checkpoint.keys) == []
    report = compare(checkpoint, model)
    assert report.verdict in {"loads", "loads-after-remap"}
    assert {found.cause for found in report.findings} <= {"benign-report", "strict-load-of-adapter", "adapter-name"}


@pytest.mark.parametrize("name", ["LoHaConfig", "LoKrConfig", "VeraConfig", "AdaLoraConfig", "IA3Config"])
def test_adapters_of_other_kinds_hold_no_weights_of_the_base(name: str, tmp_path: Path) -> None:
    import peft

    extra: dict[str, dict[str, Any]] = {
        "AdaLoraConfig": {"total_step": 10},
        "IA3Config": {"feedforward_modules": []},
        "VeraConfig": {"r": 2},
    }
    config = getattr(peft, name)(target_modules=["q_proj"], **extra.get(name, {}))
    checkpoint = save(peft.get_peft_model(llama(), config), tmp_path / "adapter")
    assert checkpoint.adapter_config is not None
    assert intruder_findings(checkpoint.adapter_config, checkpoint.keys) == []
    outcome = CHECKS["config"](AuditContext(tmp_path / "adapter", Demands()))
    assert [found.cause for found in outcome.findings] == ["config-type"]


def test_a_resized_vocabulary_is_saved_with_both_embeddings(tmp_path: Path) -> None:
    base = llama()
    base.resize_token_embeddings(20)
    checkpoint = save(wear(base), tmp_path / "adapter", save_embedding_layers=True)
    assert checkpoint.adapter_config is not None
    assert any(key.endswith("lm_head.weight") for key in checkpoint.keys)
    assert intruder_findings(checkpoint.adapter_config, checkpoint.keys) == []


def test_a_head_that_the_config_does_not_name_is_told_of(tmp_path: Path) -> None:
    import json

    save(wear(llama(), modules_to_save=["lm_head"]), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modules_to_save": None}))
    outcome = CHECKS["config"](AuditContext(tmp_path / "adapter", Demands()))
    assert outcome.passed
    assert [found.cause for found in outcome.findings] == ["base-embedding-in-adapter"]


@pytest.mark.parametrize("kind", ["all", "lora_only"])
def test_lost_biases_are_seen_with_a_model_that_has_them(kind: str, tmp_path: Path) -> None:
    model = wear(qwen2(), bias=kind)
    checkpoint = save(model, tmp_path / "adapter")
    lacking = {key: info for key, info in checkpoint.keys.items() if not key.endswith(".bias")}
    report = compare(lacking, model, adapter_config=checkpoint.adapter_config)
    causes = {found.cause for found in report.findings if found.severity == "error"}
    assert causes == {"config-bias"}
    assert compare(lacking, model, adapter_config={**(checkpoint.adapter_config or {}), "bias": "none"}).verdict in {
        "loads",
        "loads-after-remap",
    }


def test_one_missing_factor_is_no_missing_layer(tmp_path: Path) -> None:
    model = wear(llama())
    checkpoint = save(model, tmp_path / "adapter")
    for lost, told in (("layers.1.self_attn.q_proj.lora_B", False), ("layers.1.", True)):
        lacking = {key: info for key, info in checkpoint.keys.items() if lost not in key}
        report = compare(lacking, model, adapter_config=checkpoint.adapter_config)
        causes = {found.cause for found in report.findings}
        assert "lora-slot-empty" in causes
        assert ("missing-layers" in causes) == told


def test_a_prefix_around_everything_is_no_other_class(tmp_path: Path) -> None:
    model = wear(llama())
    checkpoint = save(model, tmp_path / "adapter")
    renamed = {f"model.{key}": info for key, info in checkpoint.keys.items()}
    report = compare(renamed, model, adapter_config=checkpoint.adapter_config)
    assert report.verdict == "loads-after-remap"
    assert [found.cause for found in report.findings] == ["wrapper-prefix"]


def test_a_lightning_checkpoint_of_the_base_alone_that_zero3_left_empty(tmp_path: Path) -> None:
    state = {"model.fc.weight": torch.zeros(0), "model.fc.bias": torch.zeros(0), "model.seen": torch.zeros(0)}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    outcome = CHECKS["readable"](AuditContext(tmp_path / "last.ckpt", Demands()))
    assert not outcome.passed
    assert [(found.cause, found.keys) for found in outcome.findings] == [
        ("zero3-empty", ("model.fc.bias", "model.fc.weight"))
    ]
    torch.save({"state_dict": {**state, "model.fc.weight": torch.zeros(0, 4)}}, tmp_path / "last.ckpt")
    assert CHECKS["readable"](AuditContext(tmp_path / "last.ckpt", Demands())).passed
