"""Train a tiny PanoramaVLM for one step, and lay the checkpoint down as the guide does: the adapter in `lora_weights/`.

A manifest is written at training time; without it, what nothing else shows is told as `n/a without manifest`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pytest_lora_ckpt.manifest import LoraManifestCallback
from pytest_lora_ckpt.replicas import PanoramaVLM, save_adapter, save_stage_checkpoint

RUNS = Path(__file__).parent / "runs"

if __name__ == "__main__":
    path = save_stage_checkpoint(RUNS, callbacks=[LoraManifestCallback()])
    save_adapter(PanoramaVLM.from_checkpoint(path), RUNS / "lora_weights")
    checkpoint = torch.load(path, weights_only=True)
    for key in [key for key in checkpoint["state_dict"] if "lora_" in key]:
        del checkpoint["state_dict"][key]
    torch.save(checkpoint, path)
    print(f"wrote runs/{path.name} and runs/lora_weights/")  # noqa: T201
