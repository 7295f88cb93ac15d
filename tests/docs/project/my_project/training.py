"""Make the base model, train a LoRA on it, and save it as the pages say: checkpoints, an adapter, a manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from my_project.model import BASE, LitModel
from pytest_lora_ckpt import write_manifest

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.15,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,
)


def train() -> None:
    """Train for one step, and save everything below the working directory."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(CONFIG).save_pretrained(BASE)
        module = LitModel()
        trainer = Trainer(
            max_steps=1,
            accelerator="cpu",
            devices=1,
            plugins=[LightningEnvironment()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader([torch.randint(2, CONFIG.vocab_size, (2, 8))], batch_size=None))
    for name in ("best.ckpt", "last.ckpt", "new.ckpt", "7/best.ckpt"):
        trainer.save_checkpoint(Path("runs", name))
    module.model.save_pretrained("adapter")
    for folder in ("golden", "adapter"):
        Path(folder).mkdir(exist_ok=True)
        write_manifest(module.model, folder)
    shutil.copytree("adapter", "runs/7/adapter")
