"""The live side of a `CheckpointRecipe`: the model before and after training, its file, a loader. torch and PEFT."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pytest_lora_ckpt.strategies.files import envelope
from pytest_lora_ckpt.strategies.tinymodels import PIXELS, WORDS, TinyLM, TinyVLM, Wrapper

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_lora_ckpt.strategies.checkpoint_specs import CheckpointRecipe

_ADAPTER_DIRECTORY = "lora_weights"
_FILES = {"torch": "model.pt", "lightning": "last.ckpt", "safetensors": "model.safetensors"}


def make_base(recipe: CheckpointRecipe, *, seed: int | None = None) -> nn.Module:
    """Make the model before any adapter."""
    seed = recipe.seed if seed is None else seed
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = TinyVLM(recipe) if recipe.vision else TinyLM(recipe)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
            if "norm.weight" in key or "layernorm.weight" in key:
                parameter.add_(1.0)
    return model.to(getattr(torch, recipe.dtype)).eval()


def make_inputs(recipe: CheckpointRecipe) -> dict[str, torch.Tensor]:
    """Make keyword arguments for a forward pass."""
    inputs = {"ids": torch.arange(6)[None] % WORDS}
    if recipe.vision:
        pixels = torch.linspace(-1, 1, 2 * PIXELS).reshape(1, 2, PIXELS)
        inputs["pixels"] = pixels.to(getattr(torch, recipe.dtype))
    return inputs


def make_fresh(recipe: CheckpointRecipe, base: nn.Module | None = None) -> nn.Module:
    """Make the model that receives the weights: the base with an adapter that was not trained."""
    if base is None:
        # A file with all weights is loaded into a model of any weights.
        base = make_base(recipe, seed=None if recipe.keeps_no_base else recipe.seed + 1)
    adapted = _adapt(recipe, base)
    return adapted if recipe.unwrapped else _wrap(recipe, adapted)


def make_trained(recipe: CheckpointRecipe) -> nn.Module:
    """Make the model as it is after training, with its wrappers: what was saved."""
    adapted = _adapt(recipe, make_base(recipe))
    generator = torch.Generator().manual_seed(recipe.seed + 2)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                step = torch.randn(parameter.shape, generator=generator) * 0.2
                # Training moves a magnitude by little, and leaves it positive.
                parameter.mul_(1 + 0.2 * step.clamp(-1, 1)) if "magnitude" in key else parameter.add_(step)
    return _wrap(recipe, adapted)


def save(recipe: CheckpointRecipe, folder: Path) -> Path:
    """Save the trained model as its layout is saved, and return what a loader is given."""
    trained = make_trained(recipe)
    if recipe.layout == "peft_adapter":
        return _save_adapter(recipe, trained, folder / "adapter")
    kept = {key for key, parameter in trained.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    state = {
        key: value
        for key, value in trained.state_dict().items()
        if (not recipe.trained_only or key in kept) and (recipe.beside != "only" or not _is_adapters(key))
    }
    if recipe.beside:
        _save_adapter(recipe, trained, folder / _ADAPTER_DIRECTORY)
    path = folder / _FILES[recipe.layout]
    if recipe.layout == "safetensors":
        from safetensors.torch import save_file

        # The format has no aliases: safetensors' own save_model drops the second name too.
        ours: dict[int, str] = {}
        once = {
            key: value.contiguous() for key, value in state.items() if ours.setdefault(value.data_ptr(), key) == key
        }
        save_file(once, path, metadata={"format": "pt"})
    else:
        contents = envelope(state, _hyper_parameters(recipe)) if recipe.layout == "lightning" else state
        torch.save(contents, path, _use_new_zipfile_serialization=not recipe.older)
    return path


def load(recipe: CheckpointRecipe, path: Path) -> nn.Module:
    """Load the file as a project does that knows how it was saved; `strict=False`, as is usual with adapters."""
    from peft import PeftModel

    base = make_base(recipe, seed=None if recipe.keeps_no_base else recipe.seed + 1)
    folder = {"only": path.parent / _ADAPTER_DIRECTORY}.get(recipe.beside or "", path)
    if recipe.layout == "peft_adapter" or recipe.beside == "only":
        folder = folder if folder.is_dir() or recipe.layout != "peft_adapter" else folder.parent
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = PeftModel.from_pretrained(base, str(folder), adapter_name=recipe.adapter_name)
    else:
        model = make_fresh(recipe, base)
    if recipe.layout != "peft_adapter":
        state = _read(recipe, path)
        if recipe.unwrapped:
            prefix = "".join(f"{name}." for name in recipe.wrappers)
            state = {key.removeprefix(prefix): value for key, value in state.items()}
        model.load_state_dict(state, strict=False)
    return model.eval()


def _read(recipe: CheckpointRecipe, path: Path) -> Mapping[str, torch.Tensor]:
    if recipe.layout == "safetensors":
        from safetensors.torch import load_file

        tensors: dict[str, torch.Tensor] = load_file(path)
        return tensors
    contents: dict[str, Any] = torch.load(path, weights_only=True)
    state: dict[str, torch.Tensor] = contents["state_dict"] if recipe.layout == "lightning" else contents
    return state


def _wrap(recipe: CheckpointRecipe, model: nn.Module) -> nn.Module:
    for name in reversed(recipe.wrappers):
        model = Wrapper(name, model)
    return model.eval()


def _config(recipe: CheckpointRecipe) -> Any:
    from peft import LoraConfig

    where = r".*language_model\." if recipe.vision else ".*"
    pattern = rf"{where}.*\.({'|'.join(recipe.targets)})"
    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        use_rslora=recipe.rslora,
        use_dora=recipe.dora,
        bias=recipe.bias,
        target_modules=pattern if recipe.by_pattern else list(recipe.targets),
        rank_pattern=dict(recipe.ranks),
        alpha_pattern=dict(recipe.alphas),
        layers_to_transform=None if recipe.only_layers is None else list(recipe.only_layers),
        modules_to_save=list(recipe.modules_to_save) or None,
        base_model_name_or_path=recipe.base_name,
    )


def _adapt(recipe: CheckpointRecipe, base: nn.Module) -> nn.Module:
    from peft import get_peft_model, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(recipe.seed + 3)
        if recipe.injected:
            adapted: nn.Module = inject_adapter_in_model(_config(recipe), base, adapter_name=recipe.adapter_name)
        else:
            adapted = get_peft_model(base, _config(recipe), adapter_name=recipe.adapter_name)
            configs: Any = adapted.peft_config
            for config in configs.values():  # It takes the name from the model's config, where it has one.
                config.base_model_name_or_path = recipe.base_name
    if recipe.vision and recipe.layout != "peft_adapter":
        for key, parameter in adapted.named_parameters():
            if "multi_modal_projector." in key:
                parameter.requires_grad = True
    return adapted.eval()


def _is_adapters(key: str) -> bool:
    return ".lora_" in key or ".modules_to_save." in key


def _save_adapter(recipe: CheckpointRecipe, trained: Any, folder: Path) -> Path:
    """Save by `save_pretrained`; it gives an adapter that is not called default a directory of its own, which moves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained.save_pretrained(folder, safe_serialization=not recipe.older, save_embedding_layers=False)
    own = folder / recipe.adapter_name
    if own.is_dir():
        for path in own.iterdir():
            path.rename(folder / path.name)
        own.rmdir()
    return folder


def _hyper_parameters(recipe: CheckpointRecipe) -> dict[str, Any]:
    """What a command line gave; patterns and flags are in the code, and nobody gives a rank that no module has."""
    apart = {name for name, _ in (*recipe.ranks, *recipe.alphas)}
    lora = {} if apart.issuperset(recipe.targets) else {"lora_r": recipe.rank, "lora_alpha": recipe.alpha}
    return {"lr": 1e-4, **lora}
