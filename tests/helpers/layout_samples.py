"""One tiny adapted model, written by the real libraries in every layout: a function a layout.

To add a layout, write a function `(model, folder) -> what to give to --lora-ckpt` under `@sample(…)`, here or in a
module that `tests/integration/test_every_layout.py` names. A process of its own calls `adapted_model()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tests.helpers.adapter_samples import llama, wear

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[Any, Path], Path]

RANK, ALPHA = 2, 6


@dataclass(frozen=True)
class Sample:
    """A layout, and what must be known of the adapter in it.

    Attributes:
        name: What the test is called.
        write: Writes the model into a directory, and returns the path that people give.
        layout: `Checkpoint.layout`.
        verdict: What the audit against the live model says: whether names have to change.
        alpha: Whether the layout keeps `lora_alpha`.
        warnings: Causes that the audit against the live model must warn of.
        needs: The library that writes it, where the tests do not require it.
    """

    name: str
    write: Write
    layout: str
    verdict: str = "loads"
    alpha: bool = False
    warnings: tuple[str, ...] = ()
    needs: str = ""


SAMPLES: list[Sample] = []


def sample(layout: str, **facts: Any) -> Callable[[Write], Write]:
    """Put a writer on the list; `facts` are fields of its `Sample`."""

    def add(write: Write) -> Write:
        SAMPLES.append(Sample(write.__name__.replace("_", "-"), write, layout, **facts))
        return write

    return add


def adapted_model() -> Any:
    """A Llama of three layers under PEFT, `q_proj` and `v_proj` adapted, no factor zero; each time the same."""
    torch.manual_seed(7)
    return wear(llama(tie_word_embeddings=False), r=RANK, lora_alpha=ALPHA)


def trained_only(model: Any) -> dict[str, torch.Tensor]:
    """Return what was trained, as projects pick it out of the state dict."""
    return {key: tensor for key, tensor in model.state_dict().items() if "lora_" in key}


@sample("torch")
def torch_state_dict(model: Any, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / "last.pt")
    return folder / "last.pt"


@sample("torch")
def torch_trained_only(model: Any, folder: Path) -> Path:
    torch.save({"model": trained_only(model), "step": 3}, folder / "last.pth")
    return folder / "last.pth"


@sample("torch")
def torch_legacy(model: Any, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / "last.bin", _use_new_zipfile_serialization=False)
    return folder / "last.bin"


@sample("safetensors")
def safetensors_file(model: Any, folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "last.safetensors")
    return folder / "last.safetensors"


@sample("lightning", verdict="loads-after-remap")
def lightning_trainer(model: Any, folder: Path) -> Path:
    from lightning.pytorch import LightningModule, Trainer

    class Tuner(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(Tuner())
    trainer.save_checkpoint(folder / "last.ckpt", weights_only=True)
    return folder / "last.ckpt"


@sample("peft_adapter", verdict="loads-after-remap", alpha=True)
def peft_adapter(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@sample("peft_adapter", verdict="loads-after-remap", alpha=True)
def peft_adapter_bin(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder, safe_serialization=False)
    return folder


@sample("peft_adapter", verdict="loads-after-remap", alpha=True)
def peft_weights_file(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder / "adapter_model.safetensors"


@sample("transformers")
def accelerate_save_model(model: Any, folder: Path) -> Path:
    from accelerate import Accelerator

    Accelerator(cpu=True).save_model(model, folder)
    return folder


@sample("transformers")
def accelerate_save_model_in_shards(model: Any, folder: Path) -> Path:
    from accelerate import Accelerator

    Accelerator(cpu=True).save_model(model, folder, max_shard_size="2KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    return folder


@sample("transformers")
def shards_of_pickles(model: Any, folder: Path) -> Path:
    from accelerate import Accelerator

    Accelerator(cpu=True).save_model(model, folder, max_shard_size="2KB", safe_serialization=False)
    return folder / "pytorch_model.bin.index.json"
