"""Train a LoRA on a tiny model, and write down what was released (`adapter/`); train another with the same settings."""

from __future__ import annotations

import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_lora_ckpt import write_manifest

CONFIG = LlamaConfig(
    vocab_size=128,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.15,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,
)


def train(directory: str, *, seed: int, manifest: str | None = None) -> None:
    torch.manual_seed(0)
    base = LlamaForCausalLM(CONFIG)
    torch.manual_seed(seed)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    tokens = torch.randint(2, CONFIG.vocab_size, (2, 12))
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=0.02)
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    if manifest:
        write_manifest(model, manifest)  # A few KB without the weights: this file goes into git.


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)  # PEFT reads a property that transformers 5 has renamed.
    train("adapter", seed=1, manifest="released.lora.json")
    train("adapter-retrained", seed=2)
    print("wrote adapter/, released.lora.json and adapter-retrained/")  # noqa: T201
