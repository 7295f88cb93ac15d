"""Train for one step on the CPU and write `runs/best.ckpt`, and `runs/trained-only.ckpt` without the frozen weights."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from panorama.model import VLMConfig
from panorama.training import PanoramaTraining
from torch.utils.data import DataLoader

from pytest_lora_ckpt import LoraManifestCallback

RUNS = Path(__file__).parent / "runs"


def train(path: Path, *, keep_only_trained: bool) -> None:
    torch.manual_seed(0)
    config = VLMConfig()
    batch = {
        "pixel_values": torch.randn(2, 3, config.image_size, config.image_size),
        "input_ids": torch.randint(1, config.vocab_size, (2, 8)),
    }
    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        # Writes down what no checkpoint can show: alpha, which tensors are trained, digests of them all.
        callbacks=[LoraManifestCallback()],
    )
    trainer.fit(PanoramaTraining(config, keep_only_trained=keep_only_trained), DataLoader([batch], batch_size=None))
    trainer.save_checkpoint(path)
    print(f"wrote {path.relative_to(RUNS.parent)}")  # noqa: T201


if __name__ == "__main__":
    # Lightning's advice on devices and data loaders, and the warnings of its dependencies: nothing for one step.
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    train(RUNS / "best.ckpt", keep_only_trained=False)
    train(RUNS / "trained-only.ckpt", keep_only_trained=True)
