"""Healthy files that Lightning's Trainer writes."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tests.hostile.clean_contents import Mode, Settings
from tests.hostile.clean_torch import Clean, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hostile.sample import Family


def families() -> Iterator[Family]:
    """The Trainer's checkpoints: with every callback that keeps a state, and what people have as hyperparameters."""
    family = Clean("clean-lightning")
    for name, make in _CALLBACKS.items():
        family.add(f"callback-{name}", partial(_fit, callback=make))
    for name, hyper in _HYPER.items():
        family.add(f"hparams-{name}", partial(_fit, hyper=hyper))
    for name, options in {
        "weights-only": {"weights_only": True},
        "double": {"precision": "64-true"},
        "bf16": {"precision": "bf16-mixed"},
        "two-optimizers": {"optimizers": 2},
        "plateau": {"plateau": True},
        "datamodule": {"data": True},
        "accumulated": {"accumulate_grad_batches": 2},
        "clipped": {"gradient_clip_val": 1.0},
    }.items():
        family.add(name, partial(_fit, **options))
    yield family


def _callbacks() -> Any:
    from lightning.pytorch import callbacks

    return callbacks


_CALLBACKS: dict[str, Any] = {
    "model-checkpoint": lambda folder: _callbacks().ModelCheckpoint(
        folder / "best", monitor="loss", save_top_k=2, every_n_train_steps=1
    ),
    "model-checkpoint-last": lambda folder: _callbacks().ModelCheckpoint(folder / "best", save_last=True),
    "early-stopping": lambda _: _callbacks().EarlyStopping("loss"),
    "timer": lambda _: _callbacks().Timer(duration="00:00:10:00"),
    "swa": lambda _: _callbacks().StochasticWeightAveraging(0.1, swa_epoch_start=1),
    "ema": lambda _: (
        _callbacks().EMAWeightAveraging() if hasattr(_callbacks(), "EMAWeightAveraging") else _callbacks().Timer()
    ),
    "accumulation": lambda _: _callbacks().GradientAccumulationScheduler({0: 2}),
    "summary": lambda _: _callbacks().ModelSummary(),
    "batch-size": lambda _: _callbacks().LambdaCallback(),
    "finetuning": lambda _: _callbacks().BackboneFinetuning(unfreeze_backbone_at_epoch=1),
    "on-exception": lambda folder: _callbacks().OnExceptionCheckpoint(folder),
}


def _omegaconf() -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.create({"model": {"rank": 8, "targets": ["q", "v"]}, "lr": "${oc.env:NOT_THERE,0.1}"})


def _lora_config() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")


def _llama_config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)


_HYPER: dict[str, Any] = {
    "dict": lambda: {"lr": 0.1, "layers": [1, 2]},
    "namespace": lambda: {"args": argparse.Namespace(lr=0.1, name="x")},
    "omegaconf": lambda: {"cfg": _omegaconf()},
    "dataclass": lambda: {"settings": Settings()},
    "enum": lambda: {"mode": Mode.TRAIN},
    "path": lambda: {"path": Path("a/b")},
    "dtype": lambda: {"dtype": torch.bfloat16, "device": torch.device("cpu")},
    "class": lambda: {"optimizer": torch.optim.AdamW, "activation": torch.nn.functional.gelu},
    "lora-config": lambda: {"lora": _lora_config()},
    "llama-config": lambda: {"model": _llama_config()},
    "tensor": lambda: {"weights": torch.ones(3)},
    "nested": lambda: {"a": {"b": [{"c": (1, 2)}]}, "s": {1, 2}},
    "none": lambda: {"a": None, "b": True, "c": float("inf")},
}


def _module(optimizers: int, *, plateau: bool) -> Any:
    """Give a class of modules."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self, **hparams: Any) -> None:
            super().__init__()
            self.save_hyperparameters(hparams)
            self.backbone = torch.nn.Linear(2, 2)
            self.head = torch.nn.Linear(2, 1)
            self.automatic_optimization = optimizers == 1

        def training_step(self, batch: Any, index: int) -> Any:
            loss = self.head(self.backbone(batch[0].to(self.head.weight.dtype))).square().mean()
            self.log("loss", loss.float())
            if not self.automatic_optimization:
                self.manual_backward(loss)
                for each in self.optimizers():
                    each.step()
                    each.zero_grad()
            return loss

        def configure_optimizers(self) -> Any:
            if optimizers == 2:
                return [torch.optim.AdamW(part.parameters(), lr=0.1) for part in (self.backbone, self.head)]
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
            if plateau:
                scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
                return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss"}}
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)]

    return Module


def _data(loader: Any) -> Any:
    """Give a data module."""
    import lightning.pytorch as pl

    class Data(pl.LightningDataModule):
        def __init__(self, batch_size: int = 2, root: Path = Path("data")) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> Any:
            return loader

        def state_dict(self) -> dict[str, Any]:
            return {"seen": 2, "order": torch.arange(3)}

    return Data()


def _fit(  # noqa: PLR0913 - Each is one way in which checkpoints differ.
    folder: Path,
    callback: Any = None,
    hyper: Any = None,
    optimizers: int = 1,
    *,
    weights_only: bool = False,
    plateau: bool = False,
    data: bool = False,
    **options: Any,
) -> Path:
    """Train a tiny module for two epochs and save it."""
    import lightning.pytorch as pl
    from lightning.fabric.plugins.environments import LightningEnvironment

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)), batch_size=2)
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    with quiet():
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            plugins=[LightningEnvironment()],
            default_root_dir=folder,
            enable_checkpointing=callback is not None,
            callbacks=[callback(folder)] if callback else None,
            num_sanity_val_steps=0,
            **silent,
            **options,
        )
        module = _module(optimizers, plateau=plateau)(**(hyper() if hyper else {}))
        trainer.fit(module, **({"datamodule": _data(loader)} if data else {"train_dataloaders": loader}))
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=weights_only)
    return folder / "last.ckpt"
