"""The live side of a `CheckpointRecipe`: the model before and after training, its file, a loader. torch and PEFT.

The models are tiny and plain torch; every layer matters for the output.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
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

_FUSED = ("q_proj", "k_proj", "v_proj")
_SECOND, _VALUE_HEAD = "second", "value_head.safetensors"


class _Experts(nn.Module):
    """Each expert's weights are a slice of one tensor, as transformers has them; all are at work."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.up_proj = nn.Parameter(torch.empty(count, width, width + 4))
        self.down_proj = nn.Parameter(torch.empty(count, width + 4, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.sigmoid(torch.einsum("bpi,eio->bpeo", x, self.up_proj))
        return torch.einsum("bpeo,eoi->bpi", inner, self.down_proj)


class _Layer(nn.Module):
    def __init__(self, width: int, *, bias: bool, experts: int) -> None:
        super().__init__()
        linear = partial(nn.Linear, bias=bias)
        self.self_attn = nn.ModuleDict({name: linear(width, width) for name in (*_FUSED, "o_proj")})
        self.mlp = nn.ModuleDict()
        if experts:
            self.mlp["experts"] = _Experts(experts, width)
        else:
            self.mlp.update({name: linear(width, width + 4) for name in ("gate_proj", "up_proj")})
            self.mlp["down_proj"] = linear(width + 4, width)
        self.input_layernorm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attention, mlp = self.self_attn, self.mlp
        normed = self.input_layernorm(x)
        fused = attention["qkv_proj"](normed).chunk(3, dim=-1) if "qkv_proj" in attention else None
        query, key, value = fused or (attention[name](normed) for name in _FUSED)
        x = x + attention["o_proj"](torch.tanh(query) * torch.tanh(key.mean(1, keepdim=True)) + value)
        if "experts" in mlp:
            return torch.tanh(x + mlp["experts"](x))
        return torch.tanh(x + mlp["down_proj"](torch.sigmoid(mlp["gate_proj"](x)) * mlp["up_proj"](x)))

    def fuse(self) -> None:
        """Make one linear layer of three."""
        parts: list[Any] = [self.self_attn.pop(name) for name in _FUSED]
        fused: Any = nn.Linear(1, 1, bias=parts[0].bias is not None)
        fused.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        if fused.bias is not None:
            fused.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        self.self_attn["qkv_proj"] = fused


class TinyLM(nn.Module):
    """Ids in, logits out."""

    def __init__(self, recipe: CheckpointRecipe) -> None:
        super().__init__()
        embedding = nn.Embedding(WORDS, recipe.width)
        self.model = nn.ModuleDict({"embed_tokens": embedding})
        layer = partial(_Layer, recipe.width, bias=recipe.biases, experts=recipe.experts)
        self.model["layers"] = nn.ModuleList(layer() for _ in range(recipe.layers))
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


class WithValueHead(nn.Module):
    """A language model with a head that gives each token a value, as TRL has it."""

    def __init__(self, model: nn.Module, words: int) -> None:
        super().__init__()
        self.pretrained_model = model
        self.v_head = nn.ModuleDict({"summary": nn.Linear(words, 1)})

    def forward(self, **inputs: Any) -> Any:
        """Return the logits and the values."""
        logits = self.pretrained_model(**inputs)
        return logits, self.v_head["summary"](logits.float())


def make_base(recipe: CheckpointRecipe, *, to_fill: bool = False) -> nn.Module:
    """Make the model before any adapter; `to_fill` from a file with all weights, it has other weights."""
    with seeded(recipe.seed + (to_fill and not recipe.keeps_no_base)), torch.no_grad():
        model: nn.Module = TinyVLM(recipe) if recipe.vision else TinyLM(recipe)
        for key, parameter in model.named_parameters():
            parameter.normal_(float(key.endswith("norm.weight")), 0.4)
    return model.to(getattr(torch, recipe.dtype)).eval()


def make_reference(recipe: CheckpointRecipe) -> nn.Module:
    """Make the model before any adapter, with its weights laid out as the loader has them."""
    return _fused(make_base(recipe)) if recipe.merged == "fused" else make_base(recipe)


def make_inputs(recipe: CheckpointRecipe) -> dict[str, torch.Tensor]:
    """Make keyword arguments for a forward pass."""
    inputs = {"ids": torch.arange(6)[None] % WORDS}
    if recipe.vision:
        pixels = torch.linspace(-1, 1, 2 * PIXELS).reshape(1, 2, PIXELS)
        inputs["pixels"] = pixels.to(getattr(torch, recipe.dtype))
    return inputs


def make_fresh(recipe: CheckpointRecipe) -> nn.Module:
    """Make the model that receives the weights: the base with an adapter that was not trained."""
    if recipe.converted:  # PEFT takes the start out by as many further rows.
        recipe = replace(recipe, rank=2 * recipe.rank, start=None)
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
        path = _save_adapter(recipe, getattr(trained, "pretrained_model", trained), folder / "adapter")
        if recipe.companion:
            part = "v_head." if recipe.companion == _VALUE_HEAD else "multi_modal_projector."
            named = {key: value for key, value in trained.state_dict().items() if part in key}
            # LLaVA's file of the first stage has plain names, and that of the second those of the PeftModel.
            short = {key[key.index(part) :]: value for key, value in named.items()}
            write_tensors(named if recipe.companion == "non_lora_trainables.bin" else short, path / recipe.companion)
        return path
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
        base = _enlarged(recipe, make_base(recipe, to_fill=True))
        companion = folder / recipe.companion if recipe.companion else None
        with _quiet():
            if companion and companion.name != _VALUE_HEAD:
                rest = _read(companion) if companion.exists() else {}
                base.load_state_dict({key.removeprefix("base_model.model."): rest[key] for key in rest}, strict=False)
            adapted = PeftModel.from_pretrained(base, str(folder), adapter_name=recipe.adapter_name)
            if recipe.second:
                adapted.load_adapter(str(folder / _SECOND), _SECOND)
                adapted.base_model.set_adapter([recipe.adapter_name, _SECOND])
        model = _with_head(recipe, adapted)
        if companion and companion.name == _VALUE_HEAD and companion.exists():
            model.load_state_dict(_read(companion), strict=False)
    else:
        model = make_fresh(recipe)
    if not is_adapter:
        prefix = "".join(f"{name}." for name in recipe.wrappers if recipe.unwrapped)
        state = {key.removeprefix(prefix): value for key, value in _read(path).items()}
        model.load_state_dict(state, strict=False)
    return _merged(model, recipe.merged).eval() if recipe.merged else model.eval()


def _merged(model: nn.Module, how: str) -> nn.Module:
    """Merge the adapter of a loaded model."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    with _quiet():
        if how in {"in_place", "in_part"}:
            layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
            for layer in layers[:: 2 if how == "in_part" else 1]:
                layer.merge()
            return model
        if isinstance(model, PeftModel):
            model = model.merge_and_unload()
        for name, child in model.named_children():
            if isinstance(child, PeftModel):
                setattr(model, name, child.merge_and_unload())
            elif isinstance(child, Wrapper):
                _merged(child, "whole")
        return _fused(model) if how == "fused" else model


def _fused(model: nn.Module) -> nn.Module:
    for module in [module for module in model.modules() if isinstance(module, _Layer)]:
        module.fuse()
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors: dict[str, torch.Tensor] = load_file(path)
        return tensors
    contents: dict[str, Any] = torch.load(path, weights_only=True)
    state: dict[str, torch.Tensor] = contents["state_dict"] if path.suffix == ".ckpt" else contents
    return state


def _wrap(recipe: CheckpointRecipe, model: nn.Module) -> nn.Module:
    for name in reversed(recipe.wrappers):
        model = Wrapper(name, model)
    return model.eval()


def _with_head(recipe: CheckpointRecipe, model: nn.Module) -> nn.Module:
    return WithValueHead(model, WORDS + recipe.new_words) if recipe.companion == _VALUE_HEAD else model


def _enlarged(recipe: CheckpointRecipe, base: nn.Module) -> nn.Module:
    """Give embedding and head more rows, of random values, as `resize_token_embeddings` does."""
    if recipe.new_words:
        text: Any = getattr(base, "language_model", base)
        for module in (text.model["embed_tokens"], text.lm_head):
            new = torch.randn(recipe.new_words, recipe.width).to(module.weight)
            module.weight = nn.Parameter(torch.cat([module.weight.detach(), new]))
        text.model["embed_tokens"].num_embeddings += recipe.new_words
        text.lm_head.out_features += recipe.new_words
    return base


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
        init_lora_weights=recipe.start or True,
        target_parameters=["experts.up_proj", "experts.down_proj"] if recipe.experts else None,
    )


def _adapt(recipe: CheckpointRecipe, base: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model, inject_adapter_in_model

    with seeded(recipe.seed + 3), _quiet():
        base = _enlarged(recipe, base)
        if recipe.injected:
            adapted: nn.Module = inject_adapter_in_model(_config(recipe), base, adapter_name=recipe.adapter_name)
        else:
            wrapped: Any = get_peft_model(base, _config(recipe), adapter_name=recipe.adapter_name)
            for config in wrapped.peft_config.values():  # It takes the name from the model's config, where it has one.
                config.base_model_name_or_path = recipe.base_name
            if recipe.second:
                wrapped.add_adapter(_SECOND, LoraConfig(r=1, lora_alpha=3, target_modules=list(recipe.targets)))
                wrapped.base_model.set_adapter([recipe.adapter_name, _SECOND])
            adapted = wrapped
        adapted = _with_head(recipe, adapted)
    if recipe.vision and (recipe.layout != "peft_adapter" or recipe.companion):
        for key, parameter in adapted.named_parameters():
            if "multi_modal_projector." in key:
                parameter.requires_grad = True
    return adapted.eval()


def _is_adapters(key: str) -> bool:
    return ".lora_" in key or ".modules_to_save." in key


def _save_adapter(recipe: CheckpointRecipe, trained: Any, folder: Path) -> Path:
    """Save by `save_pretrained`; it gives an adapter that is not called default a directory of its own, which moves."""
    options: dict[str, Any] = {"safe_serialization": not recipe.older, "save_embedding_layers": False}
    with _quiet():
        if recipe.converted:
            start: Any = _adapt(recipe, make_base(recipe))
            start = getattr(start, "pretrained_model", start)
            start.peft_config[recipe.adapter_name].init_lora_weights = True  # As PEFT asks for.
            place = _save_adapter(replace(recipe, converted=False), start, folder.with_name("start"))
            options["path_initial_model_for_weight_conversion"] = str(place)
        trained.save_pretrained(folder, **options)
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
