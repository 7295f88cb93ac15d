"""The guide's loader: a model without LoRA, `strict=False`, then the adapter if its directory is there."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel

from pytest_lora_ckpt.replicas import PanoramaConfig, PanoramaVLM


def load_like_the_guide(path: Path) -> PanoramaVLM:
    """Load; whatever is missing, the model that comes back can generate."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    # The config's seed stands in for the download of the pretrained language model.
    model = PanoramaVLM(PanoramaConfig.from_dict(checkpoint["hyper_parameters"]["model"]))
    state = {key.removeprefix("model."): tensor for key, tensor in checkpoint["state_dict"].items()}
    model.load_state_dict(state, strict=False)
    adapter = Path(path).parent / "lora_weights"
    if adapter.is_dir():
        model.language_model = PeftModel.from_pretrained(model.language_model, adapter)
    return model.eval()
