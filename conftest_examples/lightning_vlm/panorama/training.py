"""Training with Lightning."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from panorama.model import PanoramaChat, VLMConfig


class PanoramaTraining(pl.LightningModule):
    """Trains the perceiver, the bridge and the LoRA. The model is `self.model`: hence `model.` before every key."""

    def __init__(self, config: VLMConfig, *, keep_only_trained: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters({"config": config.to_dict(), "keep_only_trained": keep_only_trained})
        self.model = PanoramaChat(config, with_lora=True)
        self.model.vision_tower.requires_grad_(False)  # noqa: FBT003

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        logits = self.model(**batch)
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=0.02)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A small file: leave out what stayed as it was downloaded."""
        if self.hparams["keep_only_trained"]:
            trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
            state_dict = checkpoint["state_dict"]
            checkpoint["state_dict"] = {key: state_dict[key] for key in state_dict if key in trained}
