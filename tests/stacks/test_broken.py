"""What is wrong with an adapter or its base model fails, with its root cause alone, by names and with real PEFT."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.auditing.roots import with_roots
from tests.helpers.families import LLAMA, configured, renamed, saved_base

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_lora_ckpt import AuditResult


def of_another_base(folder: Path, **sizes: int) -> None:
    shutil.rmtree(folder / "base")
    saved_base(folder, "LlamaForCausalLM", **LLAMA | sizes)


@dataclass(frozen=True)
class Broken:
    """What happens to a healthy family, and the root causes by names alone, and with PEFT."""

    damage: Callable[[Path], None]
    by_names: tuple[str, ...]
    with_peft: tuple[str, ...]
    family: str = "plain"


CASES = {
    "wider-base": Broken(lambda f: of_another_base(f, hidden_size=32), ("shape-mismatch",), ("shape-mismatch",)),
    "fewer-layers": Broken(lambda f: of_another_base(f, num_hidden_layers=1), ("extra-layers",), ("extra-layers",)),
    "more-layers": Broken(
        lambda f: of_another_base(f, num_hidden_layers=4), ("lora-slot-empty",), ("lora-slot-empty",)
    ),
    "wrong-rank": Broken(lambda f: configured(f, r=4), ("config-rank",), ("config-rank",)),
    "wrong-targets": Broken(
        lambda f: configured(f, target_modules=["k_proj"]), ("config-targets",), ("config-targets",)
    ),
    # Names alone say what a loader must do; PEFT does not do it, and drops every key without a word.
    "renamed": Broken(
        lambda f: renamed(f, lambda key: key.replace("base_model.model.", "module.")), (), ("ddp-prefix",)
    ),
    "unwrapped": Broken(
        lambda f: renamed(f, lambda key: key.replace("base_model.model.", "")), (), ("wrapper-prefix",)
    ),
    "lost-layer": Broken(
        lambda f: renamed(f, lambda key: None if "layers.1." in key else key),
        ("lora-slot-empty",),
        ("lora-slot-empty",),
    ),
    "lost-head": Broken(
        lambda f: renamed(f, lambda key: None if "score" in key else key),
        ("config-modules-to-save",),
        ("config-modules-to-save",),
        "sequence",
    ),
    "no-weights": Broken(
        lambda f: [each.unlink() for each in (f / "base").glob("*.safetensors")], (), ("loader-failed",)
    ),
}


def roots(result: AuditResult) -> tuple[str, ...]:
    merged = with_roots(result.findings)
    return tuple(dict.fromkeys(each.cause for each in merged if each.severity == "error"))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_the_root_cause_is_named(families: Path, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    shutil.copytree(families / case.family, tmp_path / "run")
    configured(tmp_path / "run", base_model_name_or_path=str(tmp_path / "run" / "base"))
    case.damage(tmp_path / "run")
    alone = audit(tmp_path / "run" / "adapter")
    assert (roots(alone), alone.passed) == (case.by_names, not case.by_names)
    loaded = audit(tmp_path / "run" / "adapter", loader="peft")
    assert (roots(loaded), loaded.passed) == (case.with_peft, False)


def test_a_file_that_is_cut_off_is_not_given_to_peft(families: Path, tmp_path: Path) -> None:
    shutil.copytree(families / "plain", tmp_path / "run")
    weights = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    assert audit(tmp_path / "run" / "adapter", loader="peft").named("failed") == ("readable",)


def test_an_adapter_of_another_architecture_is_not_compared_and_peft_says_why(families: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(families / "plain" / "adapter", tmp_path / "adapter")
    base = families / "gpt2" / "base"
    alone = audit(adapter, base=base)
    assert (alone.verdict, alone.passed) == ("not-compared", True)
    (why,) = (each.summary for each in alone.checks if each.name == "keys")
    assert "not found in the base model" in why
    result = audit(adapter, base=base, loader="peft")
    assert not result.passed
    assert "not found in the base model" in str(result.findings)


def test_trained_weights_of_a_class_of_the_project_are_no_failure(families: Path, tmp_path: Path) -> None:
    """As LLaVA's own code saves them: the base model of the config is not all of the model."""
    import torch

    adapter = shutil.copytree(families / "plain" / "adapter", tmp_path / "adapter")
    extra = {"base_model.model.model.mm_projector.0.weight": torch.ones(16, 8)}
    torch.save(extra, adapter / "non_lora_trainables.bin")
    result = audit(adapter, base=families / "plain" / "base")
    assert (result.verdict, result.named("failed")) == ("not-compared", ())
    (why,) = (each.summary for each in result.checks if each.name == "keys")
    assert "mm_projector" in why
    assert "--lora-model" in why


def test_a_class_of_the_project_is_not_guessed(families: Path, tmp_path: Path) -> None:
    shutil.copytree(families / "plain", tmp_path / "run")
    configured(tmp_path / "run", task_type=None, auto_mapping={"base_model_class": "MyModel", "parent_library": "os"})
    result = audit(tmp_path / "run" / "adapter", base=tmp_path / "run" / "base")
    assert (result.verdict, result.passed) == ("not-compared", True)
    assert "MyModel is not one of transformers" in str(result.checks)


def test_what_is_not_there_is_said_with_what_to_give(families: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(families / "plain" / "adapter", tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = None
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    (why,) = (each.summary for each in audit(adapter).checks if each.name == "keys")
    assert why.startswith(
        "there is no model to compare with: adapter_config.json names no base model. Give --lora-base="
    )
    result = audit(adapter, loader="peft")
    assert result.named("failed") == ("keys",)
    assert "names no base model" in str(result.findings)


def test_factors_on_modules_of_a_class_of_the_project_are_no_failure(families: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    adapter = shutil.copytree(families / "plain" / "adapter", tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    for number, width in ((0, 8), (2, 16)):
        path = f"base_model.model.model.mm_projector.{number}"
        extra = {f"{path}.lora_A.weight": torch.ones(2, width), f"{path}.lora_B.weight": torch.ones(16, 2)}
        save_file(load_file(file) | extra, file)
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    targets = [*config["target_modules"], "mm_projector.0", "mm_projector.2"]
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": targets}), "utf-8")
    result = audit(adapter, base=families / "plain" / "base")
    assert (result.verdict, result.named("failed")) == ("not-compared", ())
    (why,) = (each.summary for each in result.checks if each.name == "keys")
    assert "mm_projector" in why
    assert "another class" in why


def test_a_defect_of_the_comparison_is_not_taken_for_one_of_the_base_model(
    families: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("pytest_lora_ckpt.comparison.companion.compare_with_companion", broken)
    result = audit(families / "plain" / "adapter", base=families / "plain" / "base")
    assert "internal-error" in {each.cause for each in result.findings}


@pytest.mark.parametrize(
    ("base", "why"), [("no/such/base/at/all", "neither a directory nor an id"), ("", "cannot be read")]
)
def test_a_given_base_that_cannot_be_compared_with_is_named(
    families: Path, tmp_path: Path, base: str, why: str
) -> None:
    import peft
    import transformers

    def load(path: Path) -> object:
        model = transformers.AutoModelForCausalLM.from_pretrained(families / "plain" / "base")
        return peft.PeftModel.from_pretrained(model, path)

    result = audit(families / "plain" / "adapter", loader=load, base=base or tmp_path)  # type: ignore[arg-type]
    (said,) = (each.summary for each in result.checks if each.name == "base-untouched")
    assert why in said
    assert not result.named("failed")
