"""Adapters that PEFT saved of one model: attached together, by the config of the base and by PEFT itself."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from pytest_lora_ckpt import audit, open_checkpoint
from pytest_lora_ckpt.stacks.adapters import saved_together
from tests.helpers.adapter_samples import llama

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a model with adapters of these names, of different ranks and modules, once."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    llama(tie_word_embeddings=False).save_pretrained(folder / "base")

    def config(rank: int) -> LoraConfig:
        targets = ["q_proj", "v_proj" if rank > 2 else "o_proj"]
        return LoraConfig(r=rank, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")

    def save(*names: str) -> Path:
        where = folder / "-".join(names)
        if not where.exists():
            model: Any = AutoModelForCausalLM.from_pretrained(folder / "base")
            model = get_peft_model(model, config(2), adapter_name=names[0])
            for rank, name in enumerate(names[1:], start=3):
                model.add_adapter(name, config(rank))
            model.save_pretrained(where)
        return where

    return save


NAMES = [("default", "style"), ("words", "style"), ("only",)]


@pytest.mark.parametrize("loader", ["peft", "transformers"])
@pytest.mark.parametrize("names", NAMES)
def test_all_are_proved(saved: Callable[..., Path], names: tuple[str, ...], loader: str) -> None:
    result = audit(saved(*names), loader=loader)
    assert result.passed, result.findings
    assert result.proof is not None
    assert (result.proof.counts["equal"], sum(result.proof.counts.values())) == (12 * len(names), 12 * len(names))


@pytest.mark.parametrize("names", NAMES)
def test_all_have_a_place_by_the_config_of_the_base(saved: Callable[..., Path], names: tuple[str, ...]) -> None:
    result = audit(saved(*names))
    assert (result.verdict, result.passed) == ("loads-after-remap", True)
    messages = {each.cause: each.message for each in result.findings}
    assert "companion-not-judged" not in messages
    assert messages["benign-report"] == "Loaders will call 30 base weights missing."


@pytest.mark.parametrize("options", [{}, {"loader": "peft"}])
def test_a_second_adapter_without_a_place_fails(
    saved: Callable[..., Path], tmp_path: Path, options: dict[str, str]
) -> None:
    shutil.copytree(saved("words", "style"), tmp_path / "a")
    path = tmp_path / "a" / "style" / "adapter_model.safetensors"
    save_file({key.replace("layers.0", "layers.7"): value for key, value in load_file(path).items()}, path)
    result = audit(tmp_path / "a", base=str(saved("words", "style").parent / "base"), **options)  # type: ignore[arg-type]
    assert {each.cause for each in result.findings if each.severity == "error"} == {"extra-layers", "missing-layers"}


@pytest.mark.parametrize("change", ["card", "base", "kind", "name"])
def test_what_was_saved_by_itself_is_not_attached(saved: Callable[..., Path], tmp_path: Path, change: str) -> None:
    shutil.copytree(saved("default", "style"), tmp_path / "a")
    inside = tmp_path / "a" / "style"
    config = (inside / "adapter_config.json").read_text("utf-8")
    if change == "card":
        (inside / "README.md").touch()
    elif change == "name":
        inside.rename(inside.with_name("v1.0"))
    else:
        changed = config.replace("/base", "/another") if change == "base" else config.replace('"LORA"', '"LOHA"')
        assert changed != config
        (inside / "adapter_config.json").write_text(changed, "utf-8")
    assert list(saved_together(open_checkpoint(tmp_path / "a"))) == ["default"]
