"""The one thing to give so that the most of what was not checked can be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.auditing.result import NextStep
from tests.helpers import loading_world

if TYPE_CHECKING:
    from pathlib import Path

WITH_PEFT = ("keys", "ratio", "loaded", "base-untouched", "adapter-active", "generate")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("next_step")
    return loading_world.save(loading_world.adapt(loading_world.llama()), folder / "adapter")


def named(adapter: Path, base: str) -> Path:
    """Let the adapter's config name this base model."""
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "base_model_name_or_path": base}), "utf-8")
    return adapter


@pytest.mark.parametrize(
    "base", ["", "not-here/at-all/nor-there", "a" * 300, "a\0b"], ids=["none", "gone", "long", "null"]
)
def test_an_adapter_whose_base_model_is_not_known(adapter: Path, base: str) -> None:
    result = audit(named(adapter, base))
    assert result.passed, result.named("failed")
    assert result.next_step == NextStep("--lora-loader=peft --lora-base=PATH_OR_ID", WITH_PEFT)


def test_an_adapter_with_its_base_model(adapter: Path, tmp_path: Path) -> None:
    loading_world.llama().config.save_pretrained(tmp_path / "base")
    result = audit(named(adapter, ""), base=str(tmp_path / "base"))
    assert "keys" in result.named("passed")
    assert result.next_step == NextStep("--lora-loader=peft", WITH_PEFT[2:])


def test_a_file_of_any_other_kind(tmp_path: Path) -> None:
    torch.save({"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(4, 2)}, tmp_path / "a.pt")
    alone = audit(tmp_path / "a.pt")
    # Without a base model no loader shows that it is untouched.
    assert alone.next_step == NextStep(
        "--lora-loader=module:function", ("keys", "ratio", "loaded", "adapter-active", "generate")
    )


def test_a_loader_without_inputs_or_a_base_model(adapter: Path) -> None:
    result = audit(adapter, loader=lambda _: loading_world.adapt(loading_world.llama()))
    assert result.next_step is not None
    assert result.next_step.give in {"--lora-base=PATH", "--lora-manifest=FILE, written when training"}
