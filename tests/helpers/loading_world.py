"""A tiny Llama and a tiny vision-language model with trained adapters, and one way to audit what a loader returns."""

from __future__ import annotations

import contextlib
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.auditing.audit import run_checks
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.comparison.stages import Demands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_lora_ckpt.auditing.result import CheckReport

LAYERS, TARGETS = 3, ("q_proj", "v_proj", "up_proj")
NAME = "tiny-llama"


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """The libraries' own warnings and logs are what the checks are there for: here they are not listened to."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def llama(*, seed: int = 0, layers: int = LAYERS, kind: str = "LlamaForCausalLM", **config: Any) -> Any:
    """A base model; equal arguments give equal weights."""
    import transformers

    settings = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers}
    # At 0.02, transformers' own, no layer of a tiny random model would be seen to matter.
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 4, "initializer_range": 0.2, "pad_token_id": 0}
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(seed)
        model = getattr(transformers, kind)(transformers.LlamaConfig(**settings | config))
    model.config.name_or_path = NAME
    return model.eval()


def adapt(model: Any, name: str = "default", *, seed: int = 1, **config: Any) -> Any:
    """Put a trained adapter on a model: no factor is zero, and what is trained whole is not the base's."""
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM"}
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(**settings | config), adapter_name=name)
        train(adapted)
    return adapted.eval()


def train(model: torch.nn.Module) -> None:
    """Move all that is trained, as training would."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                factor = "lora_" in key and "magnitude" not in key
                parameter.add_(torch.randn_like(parameter) * (0.2 if factor else 0.02))


def save(model: Any, folder: Path, **options: Any) -> Path:
    """Save the adapters by PEFT's `save_pretrained`."""
    with quietly():
        model.save_pretrained(folder, **options)
    return folder


class Pictures(torch.nn.Module):
    """Ids become a picture, and convolutions of every kind go over it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = torch.nn.Embedding(11, 6)
            self.q_proj = torch.nn.Linear(6, 6)
            self.conv2d = torch.nn.Conv2d(1, 4, 3, padding=1)
            self.pointwise = torch.nn.Conv2d(4, 4, 1)
            self.grouped = torch.nn.Conv2d(4, 8, 3, groups=2, padding=1)
            self.conv1d = torch.nn.Conv1d(6, 5, 3)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.embed(ids)
        x = x + torch.tanh(self.q_proj(x))
        return self.grouped(self.pointwise(self.conv2d(x.unsqueeze(1)))), self.conv1d(x.mT)


PICTURES = {"target_modules": ["embed", "q_proj", "conv2d", "pointwise", "grouped", "conv1d"], "task_type": None}


@dataclass(frozen=True)
class Audit:
    """What all the checks said of one checkpoint and its loader."""

    run: AuditContext
    results: dict[str, CheckReport]

    def named(self, outcome: str) -> set[str]:
        return {name for name, result in self.results.items() if result.outcome == outcome}

    @property
    def failed(self) -> set[str]:
        return self.named("failed")

    def causes(self, *checks: str) -> set[str]:
        """The causes that the failed checks give; of all of them, or of those named."""
        failed = (self.results[name] for name in self.failed if not checks or name in checks)
        return {found.cause for result in failed for found in result.findings if found.severity == "error"}

    def why(self, name: str) -> str:
        return self.results[name].summary

    def __str__(self) -> str:
        return "\n" + "\n".join(
            f"{name:15} {result.outcome:8} {result.summary} {[found.cause for found in result.findings]}"
            for name, result in self.results.items()
        )


def audit(path: Path, loader: Callable[[Any], Any], **sources: Any) -> Audit:
    """Make every check on what `loader(path)` returns.

    Args:
        path: The checkpoint.
        loader: As a project would write it.
        sources: `model`, `base` and `inputs`, each as it is or as a function that makes it; the path of a `manifest`.
    """
    run = AuditContext(path, Demands(manifest=sources.pop("manifest", None)))
    made = {
        {"base": "base_model"}.get(name, name): source
        if callable(source) and not isinstance(source, torch.nn.Module)
        else lambda source=source: source
        for name, source in sources.items()
    }

    def load(where: Any) -> Any:
        with quietly():
            return loader(where)

    run.project.connect(loader=lambda: load, **made)
    return Audit(run, {report.name: report for report in run_checks(run)})
