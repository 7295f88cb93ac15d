"""A tiny model with LoRA on its layers and a projector that is trained as a whole, as projects save and load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

REST = "non_lora_trainables.bin"
PREFIX = "base_model.model."
X = {"x": torch.linspace(-1, 1, 12).reshape(2, 6)}


class Model(torch.nn.Module):
    """Two layers, and a projector in front of them."""

    def __init__(self) -> None:
        super().__init__()
        self.projector = torch.nn.Linear(6, 8)
        self.layers = torch.nn.ModuleList(torch.nn.ModuleDict({"q_proj": torch.nn.Linear(8, 8)}) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.projector(x)
        for layer in self.layers:
            x = layer["q_proj"](x)  # type: ignore[index]
        return x


def base() -> Model:
    torch.manual_seed(0)
    return Model().eval()


@torch.no_grad()
def trained(*, second: bool = False) -> Any:
    import peft

    torch.manual_seed(1)
    model = peft.get_peft_model(base(), peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
    if second:
        model.add_adapter("second", peft.LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj"]))
        model.base_model.set_adapter(["default", "second"])
    model.base_model.model.projector.requires_grad_(requires_grad=True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    torch.save({key: value.data for key, value in model.named_parameters() if "projector" in key}, folder / REST)
    return folder


def load(path: Path, name: str = REST) -> Any:
    """Load both, as LLaVA does: what does not fit is dropped."""
    import peft

    model = base()
    rest = torch.load(path / name)
    model.load_state_dict({key.removeprefix(PREFIX): value for key, value in rest.items()}, strict=False)
    return peft.PeftModel.from_pretrained(model, str(path)).eval()


def load_with_projector_above(path: Path) -> Any:
    return load(path, f"../{REST}" if (path.parent / REST).exists() else "../projector.bin")


def load_merged(path: Path) -> Any:
    return load(path).merge_and_unload()


def forget(path: Path) -> Any:
    """Load the adapter alone."""
    import peft

    return peft.PeftModel.from_pretrained(base(), str(path)).eval()


def change(path: Path, rename: Any = None, edit: Any = None) -> None:
    """Write a file of weights again, with other names or values."""
    weights = torch.load(path)
    torch.save({rename(k) if rename else k: edit(v) if edit else v for k, v in weights.items()}, path)
