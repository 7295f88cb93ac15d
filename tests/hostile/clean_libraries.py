"""Healthy files that PEFT, transformers and accelerate write."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from tests.hostile.clean_torch import Clean, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.hostile.sample import Family


def peft() -> Iterator[Family]:
    """Adapters of every method, in both formats."""
    family = Clean("clean-peft")
    for name, make in _ADAPTERS.items():
        family.add(name, partial(_adapter, make=make))
    for name in ("lora", "lora-saved", "dora", "loha"):
        family.add(f"{name}-bin", partial(_adapter, make=_ADAPTERS[name], safe=False))
    family.add("two-adapters", _two_adapters)
    yield family


def _lora(**settings: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 2, "target_modules": ["0", "2"], **settings})


def _other(kind: str, **settings: Any) -> Any:
    import peft as library

    return getattr(library, kind)(**{"target_modules": ["0", "2"], **settings})


_ADAPTERS: dict[str, Any] = {
    "lora": _lora,
    "lora-saved": partial(_lora, modules_to_save=["4"]),
    "lora-bias": partial(_lora, bias="all"),
    "rslora": partial(_lora, use_rslora=True),
    "dora": partial(_lora, use_dora=True),
    "patterns": partial(_lora, rank_pattern={"0": 4}, alpha_pattern={"2": 16}),
    "pissa": partial(_lora, init_lora_weights="pissa"),
    "regex": partial(_lora, target_modules=r"(0|2)"),
    "some-by-pattern": partial(_lora, target_modules=r"[24]"),
    "loha": partial(_other, "LoHaConfig", r=2),
    "lokr": partial(_other, "LoKrConfig", r=2),
    "ia3": partial(_other, "IA3Config", feedforward_modules=["0"]),
    "oft": partial(_other, "OFTConfig", oft_block_size=2),
    "boft": partial(_other, "BOFTConfig", boft_block_size=2),
    "hra": partial(_other, "HRAConfig", r=2),
    "fourierft": partial(_other, "FourierFTConfig", n_frequency=4),
    "vera": partial(_other, "VeraConfig", r=2, target_modules=["0"]),
}


def _mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)
    )


def _worn(make: Any) -> Any:
    from peft import get_peft_model

    model = get_peft_model(_mlp(), make())
    with torch.no_grad():
        for name, each in model.named_parameters():
            if each.requires_grad and "base_layer" not in name:
                each.add_(torch.rand_like(each) * 0.1)
    return model


def _adapter(folder: Path, make: Any, *, safe: bool = True) -> Path:
    with quiet():
        model = _worn(make)
        if safe:
            model.save_pretrained(folder)
        else:
            model.save_pretrained(folder, safe_serialization=False)
    return folder


def _two_adapters(folder: Path) -> Path:
    with quiet():
        model = _worn(_lora)
        model.add_adapter("second", _lora())
        model.save_pretrained(folder)
    return folder


def transformers() -> Iterator[Family]:
    """The Trainer's checkpoints with their neighbours, and models as `save_pretrained` writes them."""
    family = Clean("clean-transformers")
    for name, arguments in {
        "trainer": {},
        "trainer-adafactor": {"optim": "adafactor"},
        "trainer-sgd": {"optim": "sgd", "lr_scheduler_type": "cosine"},
        "trainer-constant": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 1},
        "trainer-bf16": {"bf16": True},
        "trainer-logging": {"logging_steps": 1, "run_name": "a run", "label_names": ["labels"]},
    }.items():
        family.add(name, partial(_trainer, arguments=arguments))
    family.add("model", _model)
    family.add("model-sharded", partial(_model, max_shard_size="8KB"))
    family.add("model-bin", _model_bin)
    family.add("model-bin-sharded", partial(_model_bin, sharded=True))
    yield family


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=2, max_position_embeddings=16, **sizes))


def _trainer(folder: Path, arguments: dict[str, Any]) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    with quiet():
        model = get_peft_model(_llama(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        row = {"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor([1, 2, 3])}
        settings = {
            "per_device_train_batch_size": 1,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            **arguments,
        }
        told = TrainingArguments(str(folder / "run"), max_steps=1, save_steps=1, **settings)
        Trainer(model, told, train_dataset=[row, row]).train()
    return folder / "run" / "checkpoint-1"


def _model(folder: Path, **options: Any) -> Path:
    with quiet():
        _llama().save_pretrained(folder, **options)
    return folder


def _model_bin(folder: Path, *, sharded: bool = False) -> Path:
    """Write what transformers wrote before safetensors: torch files, with an index where there are several."""
    with quiet():
        model = _llama()
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if not sharded:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    names = list(state)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, keys in halves.items():
        torch.save({key: state[key].clone() for key in keys}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": {key: file for file, keys in halves.items() for key in keys}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), "utf-8")
    return folder


def accelerate() -> Iterator[Family]:
    """What accelerate's `save_state` puts next to an adapter, and its model files."""
    family = Clean("clean-accelerate")
    family.add("state-beside-an-adapter", _state)
    family.add("state-unsafe-beside-an-adapter", partial(_state, safe=False))
    family.add("save-model", _saved_model)
    family.add("save-model-bin", partial(_saved_model, safe=False))
    yield family


class _Counter:
    """Something that a project registers for checkpointing."""

    def __init__(self) -> None:
        self.state = {"seen": 3, "best": torch.tensor(0.5)}

    def state_dict(self) -> dict[str, Any]:
        """Give its state."""
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it."""
        self.state = state


def _accelerator(folder: Path) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    return Accelerator(cpu=True, project_dir=str(folder))


def _state(folder: Path, *, safe: bool = True) -> Path:
    with quiet():
        accelerator = _accelerator(folder)
        model = _worn(_lora)
        optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad])
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        loader = torch.utils.data.DataLoader([torch.ones(4)] * 2, shuffle=True)
        prepared = accelerator.prepare(model, optimizer, loader, scheduler)
        accelerator.register_for_checkpointing(_Counter())
        for batch in prepared[2]:
            accelerator.backward(prepared[0](batch).sum())
            prepared[1].step()
            prepared[3].step()
        accelerator.save_state(str(folder / "state"), safe_serialization=safe)
        accelerator.unwrap_model(prepared[0]).save_pretrained(folder / "state")
    return folder / "state"


def _saved_model(folder: Path, *, safe: bool = True) -> Path:
    with quiet():
        _accelerator(folder).save_model(_mlp(), str(folder), safe_serialization=safe)
    return next(path for path in folder.iterdir() if path.suffix in {".safetensors", ".bin"})


def families() -> Iterator[Family]:
    """Give the families of this module."""
    for each in (peft, transformers, accelerate):
        yield from each()
