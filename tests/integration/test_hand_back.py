"""What the terminal shows of a renaming can be pasted, and then nothing is left to rename."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.audit_runs import AuditRun

LAYERS = range(2)
BASE = {f"model.layers.{n}.{name}.weight": (4, 4) for n in LAYERS for name in ("q_proj", "v_proj", "norm")}
PEFT = {
    **{f"base_model.model.{k.replace('q_proj.', 'q_proj.base_layer.')}": shape for k, shape in BASE.items()},
    **{
        f"base_model.model.model.layers.{n}.q_proj.lora_{factor}.default.weight": shape
        for n in LAYERS
        for factor, shape in (("A", (2, 4)), ("B", (4, 2)))
    },
}
SERVED = {f"language_model.{key}": shape for key, shape in BASE.items()} | {"vision_tower.patch.weight": (4, 4)}
TRAINED = {f"model.language_model.{k.removeprefix('model.')}": s for k, s in BASE.items()} | {
    "model.vision_tower.patch.weight": (4, 4)
}
TORCHTUNE = {re.sub("lora_([AB]).default", lambda m: f"lora_{m[1].lower()}", key): PEFT[key] for key in PEFT}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ddp": ({f"module.{key}": shape for key, shape in PEFT.items()}, PEFT),
    "compile in the middle": ({key.replace("layers.", "layers._orig_mod."): s for key, s in PEFT.items()}, PEFT),
    "fsdp twice": ({f"_fsdp_wrapped_module._fsdp_wrapped_module.{key}": s for key, s in PEFT.items()}, PEFT),
    "one model. too many": ({f"model.{key}": shape for key, shape in BASE.items()}, BASE),
    "one model. too few": ({key.removeprefix("model."): shape for key, shape in BASE.items()}, BASE),
    "adapter name": ({key.replace(".default.", ".policy."): shape for key, shape in PEFT.items()}, PEFT),
    "old peft": ({key.replace(".base_layer", ""): shape for key, shape in PEFT.items()}, PEFT),
    "wrapped twice": ({f"base_model.model.{key}": shape for key, shape in PEFT.items()}, PEFT),
    "vlm refactor": (TRAINED, SERVED),
    "vlm refactor back": (SERVED, TRAINED),
    "torchtune": (TORCHTUNE, PEFT),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_that_is_shown(kind: str, pytester: pytest.Pytester, audit: Callable[..., AuditRun]) -> None:
    checkpoint, model = KINDS[kind]
    pytester.makeconftest(f"import pytest\n\n@pytest.fixture\ndef lora_model():\n    return {model!r}\n")
    state_dict = {key: torch.full(shape, float(number + 1)) for number, (key, shape) in enumerate(checkpoint.items())}
    save_file(state_dict, pytester.path / "a.safetensors")
    first = audit("--lora-ckpt=a.safetensors")
    assert first.run["verdict"] == "loads-after-remap"
    assert all(
        f"  {number}. {rule['rule']}" in "\n".join(first.lines) for number, rule in enumerate(first.run["rules"], 1)
    )

    begin = next(number for number, line in enumerate(first.lines) if line == "  before load_state_dict:")
    end = next(number for number, line in enumerate(first.lines) if line.startswith("after remapping:"))
    names = {"state_dict": load_file(pytester.path / "a.safetensors")}
    exec(textwrap.dedent("\n".join(first.lines[begin + 1 : end])), names)  # noqa: S102  # What people paste.
    renamed = names["state_dict"]
    assert {key: tuple(value.shape) for key, value in renamed.items()} == model
    save_file(renamed, pytester.path / "a.safetensors")
    assert audit("--lora-ckpt=a.safetensors").run["verdict"] == "loads"
