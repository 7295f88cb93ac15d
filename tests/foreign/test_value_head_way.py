"""LLaMA-Factory's and older TRL's way with a value head: an adapter, and `value_head.safetensors` beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign.running import Case, check, llama, rows, token_ids, train

if TYPE_CHECKING:
    from pathlib import Path

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.foreign

WRONG_TODAY: dict[str, str] = {}
HEAD = "value_head.safetensors"


class ValueHead(torch.nn.Module):
    """A value for each token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.summary = torch.nn.Linear(width, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.summary(hidden).squeeze(-1)


class WithValueHead(torch.nn.Module):
    """A language model with a value head, which answers with both."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.pretrained_model = model
        torch.manual_seed(5)
        self.v_head = ValueHead(model.config.hidden_size)

    def forward(self, **inputs: Any) -> Any:
        made = self.pretrained_model(output_hidden_states=True, **inputs)
        return made.logits, None, self.v_head(made.hidden_states[-1])

    def generate(self, **inputs: Any) -> Any:
        return self.pretrained_model.generate(**inputs)


def trained() -> Any:
    torch.manual_seed(4)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    return train(WithValueHead(peft.get_peft_model(llama(), config)))


def save(model: Any, folder: Path) -> Path:
    model.pretrained_model.save_pretrained(folder)
    save_file({f"v_head.{key}": value for key, value in model.v_head.state_dict().items()}, folder / HEAD)
    return folder


def load(path: Path) -> Any:
    model = WithValueHead(peft.PeftModel.from_pretrained(llama(), str(path)))
    model.load_state_dict(load_file(path / HEAD), strict=False)
    return model.eval()


def load_merged(path: Path) -> Any:
    model = load(path)
    model.pretrained_model = model.pretrained_model.merge_and_unload()
    return model


def head_forgotten(path: Path) -> Any:
    return WithValueHead(peft.PeftModel.from_pretrained(llama(), str(path))).eval()


def head_forgotten_merged(path: Path) -> Any:
    return WithValueHead(peft.PeftModel.from_pretrained(llama(), str(path)).merge_and_unload()).eval()


def other_names(path: Path) -> None:
    """The head's names are those of a scalar head: strict=False drops them."""
    weights = {key.replace("v_head.summary", "score"): value for key, value in load_file(path / HEAD).items()}
    save_file(weights, path / HEAD)


LOST = ("trained-weights-missing", "lost-weights", "values-differ", "still-initial", "component-partly-held")
LOST += ("companion-not-loaded", "renamed-module")
HEALTHY = Case(name="attached", trained=trained, save=save, load=load, inputs=token_ids, base=llama)
CASES = [
    HEALTHY,
    replace(HEALTHY, name="attached-without-base", base=None),
    replace(HEALTHY, name="attached-with-manifest", manifest=True),
    replace(HEALTHY, name="merged", load=load_merged),
    replace(HEALTHY, name="head-forgotten", load=head_forgotten, causes=LOST),
    replace(HEALTHY, name="head-forgotten-without-base", load=head_forgotten, base=None, causes=LOST),
    replace(HEALTHY, name="head-forgotten-merged", load=head_forgotten_merged, causes=LOST),
    replace(HEALTHY, name="head-under-other-names", damage=other_names, causes=LOST),
]


@pytest.mark.parametrize("case", rows(CASES, WRONG_TODAY))
def test_value_head_way(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
