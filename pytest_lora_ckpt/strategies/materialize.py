"""The live side of a `CheckpointRecipe`: the model before and after training, its file, a loader. torch and PEFT.

The models are tiny and plain torch; every layer matters for the output.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pytest_lora_ckpt.replicas.isolation import seeded
from pytest_lora_ckpt.replicas.names import LORA_WEIGHTS
from pytest_lora_ckpt.replicas.saving import write_tensors
from pytest_lora_ckpt.strategies.files import envelope

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_lora_ckpt.strategies.checkpoint_specs import CheckpointRecipe

_FILES = {"torch": "model.pt", "lightning": "last.ckpt", "safetensors": "model.safetensors"}

WORDS, PIXELS = 11, 5


class _Layer(nn.Module):
    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        linear = partial(nn.Linear, bias=bias)
        square = ("q_proj", "k_proj", "v_proj", "o_proj")
        self.self_attn = nn.ModuleDict({name: linear(width, width) for name in square})
        self.mlp = nn.ModuleDict({name: linear(width, width + 4) for name in ("gate_proj", "up_proj")})
        self.mlp["down_proj"] = linear(width + 4, width)
        self.input_layernorm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attention, mlp = self.self_attn, self.mlp
        normed = self.input_layernorm(x)
        gate = torch.tanh(attention["q_proj"](normed)) * torch.tanh(attention["k_proj"](normed).mean(1, keepdim=True))
        x = x + attention["o_proj"](gate + attention["v_proj"](normed))
        return torch.tanh(x + mlp["down_proj"](torch.sigmoid(mlp["gate_proj"](x)) * mlp["up_proj"](x)))


class TinyLM(nn.Module):
    """Ids in, logits out."""

    def __init__(self, recipe: CheckpointRecipe) -> None:
        super().__init__()
        embedding = nn.Embedding(WORDS, recipe.width)
        self.model = nn.ModuleDict({"embed_tokens": embedding})
        self.model["layers"] = nn.ModuleList(_Layer(recipe.width, bias=recipe.biases) for _ in range(recipe.layers))
        self.model["norm"] = nn.LayerNorm(recipe.width)
        self.lm_head = nn.Linear(recipe.width, WORDS, bias=False)
        if recipe.tied:
            self.lm_head.weight = embedding.weight

    def forward(self, ids: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits; `before` are embeddings that precede those of the ids."""
        parts: Any = self.model
        x: torch.Tensor = parts["embed_tokens"](ids)
        x = x if before is None else torch.cat([before, x], dim=1)
        for layer in parts["layers"]:
            x = layer(x)
        logits: torch.Tensor = self.lm_head(parts["norm"](x))
        return logits


class TinyVLM(nn.Module):
    """Ids and pixels in, logits out."""

    def __init__(self, recipe: CheckpointRecipe) -> None:
        super().__init__()
        wide = recipe.width + 2
        self.vision_encoder = nn.ModuleDict({"patch_embed": nn.Linear(PIXELS, wide)})
        self.vision_encoder["blocks"] = nn.Sequential(nn.Linear(wide, wide))
        self.multi_modal_projector = nn.Linear(wide, recipe.width)
        self.language_model = TinyLM(recipe)

    def forward(self, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        seen = torch.tanh(self.vision_encoder["blocks"](self.vision_encoder["patch_embed"](pixels)))
        logits: torch.Tensor = self.language_model(ids, self.multi_modal_projector(seen))
        return logits


class Wrapper(nn.Module):
    """Stands around a model, as DDP (`module`), torch.compile (`_orig_mod`) and a LightningModule do."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)

    def forward(self, **inputs: Any) -> Any:
        """Call the model inside."""
        return next(self.children())(**inputs)


def make_base(recipe: CheckpointRecipe, *, to_fill: bool = False) -> nn.Module:
    """Make the model before any adapter; `to_fill` from a file with all weights, it has other weights."""
    with seeded(recipe.seed + (to_fill and not recipe.keeps_no_base)), torch.no_grad():
        model: nn.Module = TinyVLM(recipe) if recipe.vision else TinyLM(recipe)
        for key, parameter in model.named_parameters():
            parameter.normal_(float(key.endswith("norm.weight")), 0.4)
    return model.to(getattr(torch, recipe.dtype)).eval()


def make_inputs(recipe: CheckpointRecipe) -> dict[str, torch.Tensor]:
    """Make keyword arguments for a forward pass."""
    inputs = {"ids": torch.arange(6)[None] % WORDS}
    if recipe.vision:
        pixels = torch.linspace(-1, 1, 2 * PIXELS).reshape(1, 2, PIXELS)
        inputs["pixels"] = pixels.to(getattr(torch, recipe.dtype))
    return inputs


def make_fresh(recipe: CheckpointRecipe) -> nn.Module:
    """Make the model that receives the weights: the base with an adapter that was not trained."""
    adapted = _adapt(recipe, make_base(recipe, to_fill=True))
    return adapted if recipe.unwrapped else _wrap(recipe, adapted)


def make_trained(recipe: CheckpointRecipe) -> nn.Module:
    """Make the model as it is after training, with its wrappers: what was saved."""
    adapted = _adapt(recipe, make_base(recipe))
    with seeded(recipe.seed + 2), torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                step = torch.randn(parameter.shape) * 0.2
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
        _save_adapter(recipe, trained, folder / LORA_WEIGHTS)
    path = folder / _FILES[recipe.layout]
    contents = envelope(state, _hyper_parameters(recipe)) if recipe.layout == "lightning" else state
    return write_tensors(contents, path, older=recipe.older)


def load(recipe: CheckpointRecipe, path: Path) -> nn.Module:
    """Load the file as a project does that knows how it was saved; `strict=False`, as is usual with adapters."""
    from peft import PeftModel

    is_adapter = recipe.layout == "peft_adapter"
    if is_adapter or recipe.beside == "only":
        folder = path.parent / LORA_WEIGHTS if not is_adapter else path if path.is_dir() else path.parent
        base = make_base(recipe, to_fill=True)
        with _quiet():
            model: nn.Module = PeftModel.from_pretrained(base, str(folder), adapter_name=recipe.adapter_name)
    else:
        model = make_fresh(recipe)
    if not is_adapter:
        prefix = "".join(f"{name}." for name in recipe.wrappers if recipe.unwrapped)
        state = {key.removeprefix(prefix): value for key, value in _read(recipe, path).items()}
        model.load_state_dict(state, strict=False)
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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

    with seeded(recipe.seed + 3), _quiet():
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
    with _quiet():
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
