"""The same for causes that only a loaded model shows: ways to load that go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from pytest_lora_ckpt import audit
from tests.helpers.cause_samples import (
    ADAPTER,
    BASE,
    CHECKPOINT,
    MANIFEST,
    SAMPLES,
    WEIGHTS,
    beside,
    doubled,
    of_adapter,
    sample,
    state,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lora_ckpt import AuditResult

    Edit = Callable[[Any], object]

VALUES = ("keys", "loaded", "base-untouched", "manifest")
EFFECT = ("adapter-active", "generate")

SAMPLES |= {
    cause: of_adapter(fault, loader="peft")
    for cause, fault in {"exchanged-tensors": "layers-exchanged", "zero-update-in-use": "one-lora-b-zero"}.items()
}


# Loaders that go wrong.


def _loaded(edit: Edit, checks: tuple[str, ...] = VALUES, **how: Any) -> AuditResult:
    """Load as the project does, and then do this to the model."""
    from my_project.loading import load

    def wrong(given: Any) -> Any:
        model = load(given)
        with torch.no_grad():
            return edit(model) or model

    return audit(CHECKPOINT, loader=wrong, checks=checks, **how)


def _each(model: Any, name: str) -> list[torch.nn.Parameter]:
    return [each for key, each in model.named_parameters() if name in key]


def _change(name: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    return lambda model: [each.copy_(edit(each)) for each in _each(model, name)] and None


def _noise(weight: torch.Tensor) -> torch.Tensor:
    return torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * weight.std()


def _generate(returned: Callable[[Any, torch.Tensor], Any]) -> Edit:
    def edit(model: Any) -> None:
        model.generate = lambda input_ids, **_: returned(model, input_ids)

    return edit


def _swallow(model: Any, ids: torch.Tensor) -> torch.Tensor:
    try:
        model(input_ids=None)
    except ValueError:
        return torch.cat([ids, ids], 1)
    return ids


SAMPLES |= {
    "loader-renames": lambda: _loaded(lambda _: None),
    "values-differ": lambda: _loaded(_change("lora_A", _noise)),
    "still-initial": lambda: _loaded(_change("lora_B", torch.zeros_like)),
    "earlier-value": lambda: _loaded(_change("lora_B", lambda each: each + 0.2 * _noise(each))),
    "scaled-values": lambda: _loaded(_change("lora_B", lambda each: each * 2)),
    "not-materialised": lambda: _loaded(lambda model: model.to("meta")),
    "base-overwritten": lambda: _loaded(_change("q_proj.base_layer", _noise), base_model=BASE),
    "base-changed": lambda: _loaded(_change("q_proj.base_layer", _noise), manifest=MANIFEST),
    "nan-in-model": lambda: _loaded(_change("lora_A", lambda each: each * torch.nan), EFFECT),
    "adapter-inactive": lambda: _loaded(lambda model: model.disable_adapter_layers(), EFFECT),
    "adapter-merged": lambda: _loaded(lambda model: model.merge_and_unload(), base_model=BASE),
    "scaling-differs": lambda: _loaded(
        lambda model: (
            [module.set_scale("default", 3) for module in model.modules() if hasattr(module, "set_scale")] and None
        ),
        ("adapter-active", "manifest"),
        manifest=MANIFEST,
    ),
    "generate-fallback": lambda: _loaded(_generate(_swallow), EFFECT),
    "generate-too-short": lambda: _loaded(_generate(lambda model, ids: (model(input_ids=ids), ids)[1]), EFFECT),
    "loader-failed": lambda: _loaded(lambda _: 1 / 0),
    "inputs-failed": lambda: _loaded(lambda _: None, EFFECT, inputs={"pixel_values": torch.ones(1, 3, 8, 8)}),
    "model-failed": lambda: audit(CHECKPOINT, model=lambda: "a model"),
}


@sample("generate-not-finite")
def _not_finite() -> AuditResult:
    def break_head(model: Any) -> None:
        model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: out * torch.nan)

    return _loaded(break_head, ("generate",))


@sample("cast-overflow")
def _overflow() -> AuditResult:
    saved = torch.load(CHECKPOINT, weights_only=True)
    for key, value in saved["state_dict"].items():
        if "lora_A" in key:
            value[0, 0] = 1e6
    torch.save(saved, CHECKPOINT)
    return _loaded(lambda model: model.half())


@sample("stale-adapter-directory")
def _stale() -> AuditResult:
    beside(doubled)
    weights = load_file(Path("runs/lora_weights", WEIGHTS))
    return _loaded(
        lambda model: (
            model.load_state_dict(
                {key.replace(".weight", ".default.weight"): value for key, value in weights.items()}, strict=False
            )
            and None
        )
    )


@sample("base-not-moved")
def _not_moved() -> AuditResult:
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
    from transformers import LlamaForCausalLM

    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM.from_pretrained(BASE), config)
    with torch.no_grad():
        for each in _each(model, "lora_B"):
            each.add_(0.05)
    model.save_pretrained("moved")

    def load(path: Any) -> Any:
        plain = PeftConfig.from_pretrained(path)
        plain.init_lora_weights = True
        return PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(BASE), path, config=plain).eval()

    return audit("moved", loader=load, base_model=BASE)


@sample("merged-twice")
def _twice() -> AuditResult:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    def load(path: Any) -> Any:
        once = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(BASE), path).merge_and_unload()
        return PeftModel.from_pretrained(once, path).merge_and_unload().eval()

    return audit(ADAPTER, loader=load, base_model=BASE, checks=VALUES)


@sample("from-nowhere")
def _nowhere() -> AuditResult:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    def load(path: Any) -> Any:
        base = LlamaForCausalLM.from_pretrained(BASE)
        base.model.mm_projector = torch.nn.Linear(32, 32)
        return PeftModel.from_pretrained(base, path).eval()

    return audit(ADAPTER, loader=load, base_model=BASE)


@sample("probe-differs")
def _probe() -> AuditResult:
    from my_project.loading import load

    from pytest_lora_ckpt import write_manifest

    write_manifest(load(CHECKPOINT), "golden", probe={"input_ids": torch.tensor([[1, 17, 9]])})

    def break_norm(model: Any) -> None:
        model.base_model.model.model.norm.register_forward_hook(lambda _m, _i, out: out * 1.1)

    return _loaded(break_norm, manifest=MANIFEST)


@sample("tied-tensors-disagree")
def _tied() -> AuditResult:
    def load(path: Any) -> torch.nn.Module:
        model = _Tied()
        model.load_state_dict(load_file(path))
        return model

    shapes = {"embed.weight": (4, 3), "head.weight": (4, 3), "q.lora_A.weight": (2, 3), "q.lora_B.weight": (3, 2)}
    return audit(write(state(**shapes)), loader=load, inputs={"x": torch.ones(1, 3)})


class _Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight
        self.q = torch.nn.ModuleDict(
            {"lora_A": torch.nn.Linear(3, 2, bias=False), "lora_B": torch.nn.Linear(2, 3, bias=False)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.q["lora_B"](self.q["lora_A"](x)))
