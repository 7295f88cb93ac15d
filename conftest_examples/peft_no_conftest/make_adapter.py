"""Make a tiny base model (`base/`), train a LoRA on it for two steps (`adapter/`), and save an untrained one."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

# In your project this is the name of a model on the Hub. The adapter's config names it.
BASE = "base"
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


def train(name: str, *, steps: int) -> None:
    torch.manual_seed(1)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), config)
    tokens = torch.randint(2, CONFIG.vocab_size, (2, 12))
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=0.02)
    for _ in range(steps):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(name)
    print(f"wrote {name}/ after {steps} steps")  # noqa: T201


if __name__ == "__main__":
    # `is_gradient_checkpointing` is deprecated: PEFT 0.21 reads the old name of it.
    warnings.simplefilter("ignore", FutureWarning)
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).save_pretrained(Path(BASE))
    train("adapter", steps=2)
    train("adapter-untrained", steps=0)
