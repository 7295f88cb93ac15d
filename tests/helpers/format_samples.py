"""The adapter of `layout_samples` in the formats of other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests.helpers.gguf_samples import write_adapter
from tests.helpers.layout_samples import ALPHA, sample

if TYPE_CHECKING:
    from pathlib import Path


RENAMED = ("key-convention", "renamed-module")


def factors(model: Any) -> dict[str, torch.Tensor]:
    """Return the adapter as PEFT saves it."""
    import peft

    return {key: tensor.detach().clone() for key, tensor in peft.get_peft_model_state_dict(model).items()}


@sample("gguf", verdict="loads-after-remap", alpha=True, warnings=RENAMED, needs="gguf")
def gguf_adapter(model: Any, folder: Path) -> Path:
    return write_adapter(folder / "adapter.gguf", factors(model), ALPHA)


@sample("safetensors", verdict="loads-after-remap", alpha=True, warnings=("key-convention",))
def kohya(model: Any, folder: Path) -> Path:
    """As sd-scripts does for a text encoder (networks/lora.py, `LoRANetwork.save_weights`)."""
    from safetensors.torch import save_file

    state: dict[str, torch.Tensor] = {}
    for key, factor in factors(model).items():
        path, _, end = key.removeprefix("base_model.model.").rpartition(".lora_")
        flat = f"lora_te_{path.replace('.', '_')}"
        state[f"{flat}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = factor
        state[f"{flat}.alpha"] = torch.tensor(float(ALPHA))
    save_file(state, folder / "kohya.safetensors", {"ss_network_module": "networks.lora"})
    return folder / "kohya.safetensors"
