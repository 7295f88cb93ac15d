"""One step of real training under Lightning. Importing this module imports Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pytest_lora_ckpt.replicas.factory import random_batch, set_trainable
from pytest_lora_ckpt.replicas.isolation import quiet_lightning, quiet_peft, seeded
from pytest_lora_ckpt.replicas.loading import is_held

try:
    import lightning.pytorch as pl
    from lightning.fabric.plugins.environments import LightningEnvironment
except ImportError as error:
    raise ImportError(
        "writing a Lightning checkpoint needs Lightning, which is not installed: "
        'pip install "pytest-lora-ckpt[lightning]"'
    ) from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_lora_ckpt.replicas.model import PanoramaVLM

_LEARNING_RATE = 1e-2
_PROMPT = 6


class PanoramaTraining(pl.LightningModule):  # type: ignore[misc]  # Lightning is untyped here, so its base is Any.
    """What the guide's project trains with: the model under `self.model`, hence `model.` before every key."""

    def __init__(self, model: PanoramaVLM, *, stage: str, keep: str) -> None:
        super().__init__()
        self.model = model
        self._keeps = is_held(stage, keep)
        self.save_hyperparameters(
            {
                "model": model.config.to_dict(),
                "lora": model.lora and model.lora.to_dict(),
                "stage": stage,
                "keep": keep,
                "learning_rate": _LEARNING_RATE,
            }
        )

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        """Return the loss of predicting the prompt's tokens, each from those before it."""
        tokens = batch["input_ids"]
        logits = self.model(**batch).logits[:, -tokens.shape[1] :]
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW over what is trained, and a schedule."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=_LEARNING_RATE)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what this stage's checkpoint does not hold."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in state if self._keeps(key.removeprefix("model."))}


def train_and_save(model: PanoramaVLM, path: Path, *, stage: str, keep: str, callbacks: Sequence[Any] = ()) -> None:
    """Train `model` for one step, in place, and let the Trainer write `path`; nothing else is written or printed."""
    config = model.config
    set_trainable(model, stage)
    model.train()
    with quiet_lightning(), quiet_peft(), seeded(config.seed):
        trainer = pl.Trainer(
            max_steps=1,
            accelerator="cpu",
            devices=1,
            # Under torchrun or SLURM Lightning would wait for the other ranks.
            plugins=[LightningEnvironment()],
            logger=False,
            callbacks=[*callbacks],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=path.parent,
        )
        module = PanoramaTraining(model, stage=stage, keep=keep)
        # A list does as a dataset; torch's types do not say so.
        batches: Any = [random_batch(config, seed=config.seed, batch=2, prompt=_PROMPT)]
        trainer.fit(module, DataLoader(batches, batch_size=None))
        trainer.save_checkpoint(path)
    model.eval()
