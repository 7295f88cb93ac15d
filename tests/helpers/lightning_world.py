"""The vision-language replica as a LightningModule, and its checkpoints by the real Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader

from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs
from tests.helpers.loading_world import quietly

if TYPE_CHECKING:
    from pathlib import Path

TRAINED = ("lora_", "projector.", "vision_to_language_projection.", "modules_to_save.")


class Vlm(pl.LightningModule):
    """Image and text; what is trained is the adapter and the projector.

    Args:
        keep: `"all"`, or `"trained"`: what a checkpoint holds.
        strict: Lightning's `strict_loading`.
        make: For `make_panorama_vlm`.
    """

    def __init__(self, keep: str = "all", *, strict: bool = True, **make: Any) -> None:
        super().__init__()
        self.keep, self.strict_loading = keep, strict
        self.save_hyperparameters({"keep": keep, "strict": strict, **make})
        self.model = make_panorama_vlm(**make)

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> Any:
        return self.model(pixel_values, input_ids)

    def generate(self, **inputs: Any) -> torch.Tensor:
        return self.model.generate(**inputs)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return self(**batch).logits.square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([each for each in self.parameters() if each.requires_grad], lr=0.5)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.keep == "trained":
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {key: state[key] for key in state if any(part in key for part in TRAINED)}


def trainer(folder: Path, steps: int = 1) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def batches() -> Any:
    return DataLoader([replica_inputs()], batch_size=None)


def save_lightning(folder: Path, name: str = "last.ckpt", **settings: Any) -> Path:
    """Train for one step and let the Trainer save."""
    with quietly():
        module = Vlm(**settings)
        fitted = trainer(folder)
        fitted.fit(module, batches())
        fitted.save_checkpoint(folder / name)
    return folder / name


def resume(path: Path, folder: Path, **settings: Any) -> Any:
    """Go on with a checkpoint at its last step: the Trainer loads it, and trains no more."""
    module = Vlm(**settings)
    trainer(folder).fit(module, batches(), ckpt_path=path)
    return module
