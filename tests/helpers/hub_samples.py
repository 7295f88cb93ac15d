"""The adapted model of `layout_samples`, as the libraries around the Hugging Face Hub leave it in directories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests.helpers.layout_samples import sample

if TYPE_CHECKING:
    from pathlib import Path


def _trained(model: Any, folder: Path) -> Path:
    """Train by the real Trainer, with a checkpoint for each step; nothing changes at a learning rate of 0."""
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": torch.arange(1, 7), "labels": torch.arange(1, 7)} for _ in range(4)]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        save_steps=1,
        eval_steps=1,
        eval_strategy="steps",
        metric_for_best_model="loss",
        learning_rate=0.0,
        per_device_train_batch_size=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=False,
    )
    Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows).train()
    return folder


@sample("peft_adapter", verdict="loads-after-remap", alpha=True)
def trainer_run(model: Any, folder: Path) -> Path:
    out = _trained(model, folder / "out")
    assert {each.name for each in out.iterdir()} >= {"checkpoint-1", "checkpoint-2"}
    assert (out / "checkpoint-2" / "optimizer.pt").is_file()
    return out


@sample("peft_adapter", verdict="loads-after-remap", alpha=True)
def trainer_optimizer(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    torch.save(torch.optim.AdamW(model.parameters()).state_dict(), folder / "optimizer.pt")
    return folder / "optimizer.pt"


@sample("peft_adapter", verdict="loads-after-remap", alpha=True)
def adapter_config_alone(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder / "adapter_config.json"


@sample("transformers")
def accelerate_save_state(model: Any, folder: Path) -> Path:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    accelerator.save_state(str(folder / "step_3"))
    assert (folder / "step_3" / "optimizer.bin").is_file()
    return folder


@sample("transformers", verdict="loads-after-remap", warnings=("wrapper-prefix",))
def peft_saved_whole(model: Any, folder: Path) -> Path:
    model.get_base_model().save_pretrained(folder)
    return folder


@sample("transformers", verdict="loads-after-remap", warnings=("wrapper-prefix",))
def peft_saved_whole_in_shards(model: Any, folder: Path) -> Path:
    model.get_base_model().save_pretrained(folder, max_shard_size="2KB")
    return next(folder.glob("model-00002-of-*.safetensors"))


@sample("transformers", verdict="loads-after-remap", warnings=("wrapper-prefix",))
def a_variant(model: Any, folder: Path) -> Path:
    model.get_base_model().save_pretrained(folder, variant="fp16")
    assert (folder / "model.fp16.safetensors").is_file()
    return folder / "config.json"


@sample("diffusers", verdict="loads-after-remap", warnings=("renamed-module",), needs="diffusers")
def diffusers_pipeline(model: Any, folder: Path) -> Path:
    import diffusers

    class Pipeline(diffusers.DiffusionPipeline):  # type: ignore[misc]
        def __init__(self, text_encoder: Any, scheduler: Any) -> None:
            super().__init__()
            self.register_modules(text_encoder=text_encoder, scheduler=scheduler)

    Pipeline(model.get_base_model(), diffusers.DDPMScheduler()).save_pretrained(folder)
    assert (folder / "model_index.json").is_file()
    return folder
