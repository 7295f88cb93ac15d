"""Make a tiny base model (`base/`) and a sweep of adapters on it (`runs/`), one of them never trained."""

from __future__ import annotations

import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

BASE = "base"  # In your project, the name of a model on the Hub.
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


def train(name: str, *, rank: int, steps: int) -> None:
    torch.manual_seed(1)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), lora)
    tokens = torch.randint(2, CONFIG.vocab_size, (2, 12))
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=0.02)
    for _ in range(steps):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(f"runs/{name}")


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)  # PEFT reads a property that transformers 5 has renamed.
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).save_pretrained(BASE)
    train("rank-2", rank=2, steps=2)
    train("rank-4", rank=4, steps=2)
    train("rank-8", rank=8, steps=0)
    print("wrote runs/rank-2, runs/rank-4 and runs/rank-8")  # noqa: T201
