"""What each of two processes does to write DeepSpeed's checkpoints: `python -m tests.helpers.deepspeed_writer …`.

`deepspeed_runs.run_ranks` starts them. Beside each checkpoint `NAME/` lies `NAME.truth.pt`, the masters and the other
tensors as the live engine has them, and `NAME.oracle.pt`, what `zero_to_fp32` makes of the files.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from tests.helpers.layout_samples import adapted_model
from tests.helpers.zero_samples import CASES

_ZERO: dict[str, dict[str, Any]] = {
    "sub-groups": {"sub_group_size": 20},
    "threshold": {"stage3_param_persistence_threshold": 0},
    "round-robin": {"round_robin_gradients": True},
    "aligned": {"parameter_alignment": True},
    "elastic": {"elastic_checkpoint": True},
    "offload": {"offload_optimizer": {"device": "cpu"}},
}
"""Word in a case's name -> settings of `zero_optimization`."""


class Tiny(torch.nn.Module):
    """Weights of odd sizes, a tied head, buffers: of floats, of integers, and one that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, 5)
        layers = (torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.LayerNorm(5)) for _ in range(2))
        self.body = torch.nn.ModuleList(layers)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 5))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self.head = torch.nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.own = torch.nn.Linear(5, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(ids)
        for layer in self.body:
            hidden = layer(hidden)
        hidden = hidden * self.scale.to(hidden.dtype)
        return self.head(hidden).float().sum() + self.own(hidden).float().pow(2).sum()


def tiny(words: set[str]) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(Tiny(), LoraConfig(r=3, lora_alpha=6, target_modules=r"body\.\d\.0"))
    for parameter in model.base_model.model.own.parameters():
        parameter.requires_grad_()
    model.base_model.model.embed.weight.requires_grad_("tied" in words)
    return model


def settings(words: set[str]) -> dict[str, Any]:
    """Return DeepSpeed's config of a case."""
    stage = next(number for number in range(4) if f"zero{number}" in words)
    zero = {name: value for word in words for name, value in _ZERO.get(word, {}).items()}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, **zero},
    }
    config |= {"bf16": {"enabled": True}} if "bf16" in words else {}
    # From its usual scale on, the first steps overflow and are skipped.
    config |= {"fp16": {"enabled": True, "initial_scale_power": 4}} if "fp16" in words else {}
    return config | ({"data_types": {"grad_accum_dtype": "fp32"}} if "accumulated" in words else {})


def write(case: str, folder: Path) -> None:
    """Train for two steps, and save."""
    words = set(case.split("-")) | {word for word in _ZERO if word in case}
    model, config = tiny(words), settings(words)
    trained = [each for each in model.parameters() if each.requires_grad]
    groups = [{"params": [each for each in trained if each.ndim > 1], "weight_decay": 0.1}]
    groups.append({"params": [each for each in trained if each.ndim == 1], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(trained if "alone" in words else groups, lr=0.05)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    for _ in range(2):
        engine.backward(engine(torch.tensor([[1, 2, 3, 4, 5, 6]])))
        engine.step()
    client = {"epoch": 3, "hyper_parameters": {"lora_alpha": 6}}
    tag = "checkpoint" if "tag" in words else None
    engine.save_checkpoint(folder / case, tag=tag, client_state=client, exclude_frozen_parameters="only" in words)
    truth, stage = {}, config["zero_optimization"]["stage"]
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and stage:
            truth[name] = safe_get_full_fp32_param(parameter).detach().clone()
        else:
            with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
                truth[name] = parameter.detach().clone()
    unsaved = "base_model.model.unsaved"
    truth |= {name: each.clone() for name, each in model.named_buffers() if name != unsaved}
    if engine.global_rank == 0:
        torch.save(truth, folder / f"{case}.truth.pt")
        if stage and "accumulated" not in words:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                oracle = get_fp32_state_dict_from_zero_checkpoint(folder / case, tag)
            torch.save(dict(oracle), folder / f"{case}.oracle.pt")
    engine.destroy()


def write_adapted(stage: int, folder: Path) -> None:
    """Save the shared tests' model, untrained."""
    model = adapted_model()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad])
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings({f"zero{stage}"}))
    engine.save_checkpoint(folder)
    engine.destroy()


def train(stage: int, folder: Path, *, adapted: bool) -> None:
    """Let the Trainer save: its own files, DeepSpeed's among them, and PEFT's adapter where it trains one."""
    from transformers import Trainer, TrainingArguments

    ids = torch.arange(1, 9)
    rows = [{"input_ids": ids, "labels": ids}] * 8
    arguments = TrainingArguments(
        str(folder),
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=1,
        bf16=True,
        use_cpu=True,
        report_to=[],
        deepspeed=settings({f"zero{stage}", "bf16"}) | {"gradient_accumulation_steps": 1, "gradient_clipping": 1.0},
        lr_scheduler_type="constant",
        disable_tqdm=True,
    )
    model = adapted_model() if adapted else adapted_model().get_base_model()
    Trainer(model, arguments, train_dataset=rows).train()


def main(what: str, folder: Path) -> None:
    torch.set_num_threads(1)
    deepspeed.init_distributed(dist_backend="gloo")
    if what != "cases":
        write_adapted(int(what), folder)
        return
    for case in CASES:
        write(case, folder)
    train(2, folder / "trainer-peft-zero2", adapted=True)
    train(3, folder / "trainer-peft-zero3", adapted=True)
    train(3, folder / "trainer-zero3", adapted=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # All is written, and a thread that DeepSpeed leaves behind may abort the interpreter's own end.
