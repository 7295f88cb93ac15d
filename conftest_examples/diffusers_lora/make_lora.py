"""Train a LoRA of a tiny pipeline's UNet, and save it in two ways: `lora/` as diffusers does, and `lora-by-hand/`."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from tiny_pipeline import make_pipeline


def train(unet: UNet2DConditionModel) -> None:
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    for _ in range(2):
        noise, text = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 16)
        predicted = unet(noise, timestep=torch.tensor(1), encoder_hidden_states=text).sample
        (predicted - noise).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    pipeline = make_pipeline()
    pipeline.save_pretrained("base")
    pipeline.unet.requires_grad_(False)  # noqa: FBT003
    pipeline.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    train(pipeline.unet)
    weights = get_peft_model_state_dict(pipeline.unet)
    # As the training scripts of diffusers do it: in its own names, with `unet.` in front.
    StableDiffusionPipeline.save_lora_weights("lora", unet_lora_layers=convert_state_dict_to_diffusers(weights))
    # The same tensors in PEFT's names: diffusers looks for `unet.`, finds nothing, and loads nothing.
    Path("lora-by-hand").mkdir(exist_ok=True)
    save_file(weights, "lora-by-hand/pytorch_lora_weights.safetensors")
    print("wrote lora/ and lora-by-hand/")  # noqa: T201
