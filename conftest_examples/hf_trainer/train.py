"""Make a tiny base model (`base/`) and train a LoRA on it with the Trainer, which saves it twice (`runs/`)."""

from __future__ import annotations

import logging
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from pytest_lora_ckpt import LoraManifestCallback

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


def main() -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).save_pretrained(BASE)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    tokens = torch.randint(2, CONFIG.vocab_size, (8, 12))
    trainer = Trainer(
        get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), lora),
        TrainingArguments(
            "runs",
            max_steps=4,
            save_steps=2,
            per_device_train_batch_size=2,
            learning_rate=0.02,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        # Beside each checkpoint: alpha, digests, the base model's identity, which no adapter file shows.
        callbacks=[LoraManifestCallback()],
    )
    trainer.train()
    print("wrote runs/checkpoint-2 and runs/checkpoint-4")  # noqa: T201


if __name__ == "__main__":
    # What the libraries say of deprecated names of each other.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main()
