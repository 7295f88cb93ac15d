# ruff: noqa: INP001  # Scripts next to the pages, not a package.
"""The loaders that `make_comparison.py` scores, and the healthy checkpoints that they are scored with.

Both are real and tiny: what PEFT, transformers, torch, accelerate and Lightning write and read. The base weights of
what a loader builds are those of training, as after `from_pretrained`; its adapter is new.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from pytest_lora_ckpt.faults import FAULTS
from pytest_lora_ckpt.manifest import write_manifest
from pytest_lora_ckpt.replicas import (
    LORA_WEIGHTS,
    PanoramaConfig,
    PanoramaVLM,
    make_panorama_vlm,
    replica_inputs,
    save_adapter,
    save_stage_checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let the libraries say nothing while checkpoints are made; the score listens by itself."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@dataclass(frozen=True, slots=True)
class Made:
    """A healthy checkpoint on disk, and what the gate holds it against.

    Attributes:
        path: The checkpoint. Its manifest lies elsewhere, so that it is found where it is given only.
        manifest: What was written at training time.
        base: Builds the base model.
        inputs: Makes the inputs of a forward pass; None for a Hugging Face model, whose config tells.
    """

    path: Path
    manifest: Path
    base: Callable[[], Any]
    inputs: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True)
class World:
    """A kind of healthy checkpoint.

    Attributes:
        name: For the page.
        make: Writes it below a directory.
        config: How its model is built.
        only: Names of the faults to inject into it; None for all that apply.
    """

    name: str
    make: Callable[[Path, dict[str, Any]], Made]
    config: dict[str, Any] = field(default_factory=dict)
    only: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Loader:
    """A loader that people use.

    Attributes:
        name: For the page.
        code: The call, for the page.
        load: Loads a path, given how the model is built.
        worlds: What it is scored with; each fault is injected into the first of them that it applies to.
    """

    name: str
    code: str
    load: Callable[[dict[str, Any], Any], Any]
    worlds: tuple[World, ...]


# PEFT adapters for a tiny Llama


def llama() -> Any:
    """Build the base model, which has biases and a head of its own; always the same."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        # At 0.02, transformers' own, no layer of a tiny random model would be seen to matter.
        config = LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.2, attention_bias=True, mlp_bias=True)
        model = LlamaForCausalLM(config)
    model.config.name_or_path = "tiny-llama"
    return model.eval()


def adapted(config: dict[str, Any]) -> Any:
    """Put a new adapter on the base model."""
    with quietly():
        settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "up_proj"]}
        return get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", **settings, **config))


def _train(model: torch.nn.Module) -> None:
    """Move all that is trained, as training would: nothing of it is as a new model has it."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                factor = "lora_" in name and "magnitude" not in name
                parameter.add_(torch.randn_like(parameter) * (0.2 if factor else 0.02))


def _save_peft(folder: Path, config: dict[str, Any], **options: Any) -> Made:
    with quietly():
        model = adapted(config)
        _train(model)
        model.save_pretrained(folder / "adapter", **options)
        return Made(folder / "adapter", write_manifest(model, folder / "written.json"), llama)


# The usual adapter first: a trained head alone makes PEFT raise where it would warn.
_LORA = World("LoRA", _save_peft)
_RICH = World(
    "LoRA with patterns, head and biases",
    _save_peft,
    {
        "rank_pattern": {"v_proj": 2},
        "alpha_pattern": {"v_proj": 3},
        "modules_to_save": ["lm_head"],
        "bias": "all",
    },
)
_DORA = World("DoRA with rsLoRA", _save_peft, {"use_dora": True, "use_rslora": True})
_BIN = World("LoRA in a .bin", partial(_save_peft, safe_serialization=False))


def _from_pretrained(_: dict[str, Any], path: Path) -> Any:
    return PeftModel.from_pretrained(llama(), path)


def _load_adapter(config: dict[str, Any], path: Path) -> Any:
    model = adapted(config)
    model.load_adapter(path, "default")
    return model


def _transformers(_: dict[str, Any], path: Path) -> Any:
    model = llama()
    model.load_adapter(str(path))
    return model


# Files that hold the whole state dict of a tiny vision-language model with LoRA


_TRAINED = ("lora_", "projector.", "vision_to_language_projection.", "modules_to_save.")


def _vlm_base() -> Any:
    return make_panorama_vlm(lora=False)


def _new_vlm(config: dict[str, Any]) -> Any:
    return make_panorama_vlm(random_lora_b=False, **{name: config[name] for name in config if name != "keep"})


def _save_state_dict(name: str, folder: Path, config: dict[str, Any]) -> Made:
    path = folder / "run" / name
    path.parent.mkdir()
    with quietly():
        model = _new_vlm(config)
        _train(model)
        state = model.state_dict()
        if config.get("keep") == "trained":
            state = {key: state[key] for key in state if any(part in key for part in _TRAINED)}
        if path.suffix == ".safetensors":
            # It refuses shared memory: as many do, each name gets a tensor of its own.
            save_file({key: tensor.clone() for key, tensor in state.items()}, path, metadata={"format": "pt"})
        else:
            torch.save(state, path)
        manifest = write_manifest(model, folder / "written.json")
    return Made(path, manifest, _vlm_base, replica_inputs)


def _torch(config: dict[str, Any], path: Path, *, strict: bool) -> Any:
    model = _new_vlm(config)
    model.load_state_dict(torch.load(path, weights_only=True), strict=strict)
    return model.eval()


def _accelerate(config: dict[str, Any], path: Path) -> Any:
    from accelerate import load_checkpoint_in_model

    model = _new_vlm(config)
    load_checkpoint_in_model(model, str(path))
    return model.eval()


# Lightning checkpoints of the same model, by the Trainer


class Vlm(pl.LightningModule):
    """A vision-language model of which adapter and projector are trained.

    Args:
        keep: `"all"`, or `"trained"`: what a checkpoint holds.
        make: For `make_panorama_vlm`.
    """

    def __init__(self, keep: str = "all", **make: Any) -> None:
        """See the class."""
        super().__init__()
        self.keep = keep
        self.save_hyperparameters({"keep": keep, **make})
        self.model = make_panorama_vlm(**make)

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> Any:
        """Give what the model gives."""
        return self.model(pixel_values, input_ids)

    def generate(self, **inputs: Any) -> torch.Tensor:
        """Generate as the model does."""
        return self.model.generate(**inputs)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """Pull the logits to zero."""
        loss: torch.Tensor = self(**batch).logits.square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        """Train what is to be trained."""
        return torch.optim.SGD([each for each in self.parameters() if each.requires_grad], lr=0.5)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what was not trained, where asked."""
        if self.keep == "trained":
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {key: state[key] for key in state if any(part in key for part in _TRAINED)}


def _fit(module: Vlm, folder: Path, resume_from: Path | None = None) -> Any:
    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        devices=1,
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, DataLoader([replica_inputs()], batch_size=None), ckpt_path=resume_from)
    return trainer


def _save_lightning(folder: Path, config: dict[str, Any]) -> Made:
    with quietly():
        module = Vlm(**config)
        _fit(module, folder).save_checkpoint(folder / "run" / "last.ckpt")
        manifest = write_manifest(module, folder / "written.json")
    return Made(folder / "run" / "last.ckpt", manifest, partial(Vlm, lora=False), replica_inputs)


def _load_from_checkpoint(_: dict[str, Any], path: Path, *, strict: bool) -> Any:
    return Vlm.load_from_checkpoint(path, strict=strict).eval()


def _resume(config: dict[str, Any], path: Path) -> Any:
    module = Vlm(**config, random_lora_b=False)
    module.strict_loading = False
    # It has made its last step: the Trainer loads the checkpoint, and trains no more.
    _fit(module, Path(path).parent.parent, resume_from=path)
    return module.eval()


# The same model by hand: the checkpoint, and the adapter in a directory next to it


def _save_beside(folder: Path, config: dict[str, Any]) -> Made:
    with quietly():
        path = save_stage_checkpoint(folder / "run")
        model = PanoramaVLM.from_checkpoint(path)
        save_adapter(model, path.parent / LORA_WEIGHTS)
        manifest = write_manifest(model, folder / "written.json")
        if config["apart"]:
            contents = torch.load(path, weights_only=True)
            for key in [key for key in contents["state_dict"] if "lora_" in key]:
                del contents["state_dict"][key]
            torch.save(contents, path)
    return Made(path, manifest, _vlm_base, replica_inputs)


def _by_hand(_: dict[str, Any], path: Path) -> Any:
    contents = torch.load(path, map_location="cpu", weights_only=True)
    model = PanoramaVLM(PanoramaConfig.from_dict(contents["hyper_parameters"]["model"]))
    state = {key.removeprefix("model."): tensor for key, tensor in contents["state_dict"].items()}
    model.load_state_dict(state, strict=False)
    adapter = Path(path).parent / LORA_WEIGHTS
    if adapter.is_dir():
        model.language_model = PeftModel.from_pretrained(model.language_model, adapter)
    return model.eval()


# An adapter for the same model, whose trained projector lies next to it, as LLaVA's scripts save and load it


_REST = "non_lora_trainables.bin"
_COMPANIONS = frozenset(name for name in FAULTS if name.startswith("companion-"))


def _save_with_rest(folder: Path, _: dict[str, Any]) -> Made:
    with quietly():
        config = LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model.*(q_proj|v_proj|up_proj)")
        model = get_peft_model(_vlm_base(), config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name or ".projector." in name)
        _train(model)
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
        rest = {
            name: each.data for name, each in model.named_parameters() if each.requires_grad and "lora_" not in name
        }
        torch.save(rest, folder / "adapter" / _REST)
        return Made(folder / "adapter", write_manifest(model, folder / "written.json"), _vlm_base, replica_inputs)


def _with_rest(_: dict[str, Any], path: Path) -> Any:
    model = _vlm_base()
    rest = torch.load(Path(path) / _REST, weights_only=True)
    model.load_state_dict({name.removeprefix("base_model.model."): rest[name] for name in rest}, strict=False)
    return PeftModel.from_pretrained(model, path)


_HEAD: dict[str, Any] = {"modules_to_save": ["norm"]}


@cache
def _worlds(save: Any, *, trained_only: bool) -> tuple[World, ...]:
    found = [World("whole", save, _HEAD), World("whole, DoRA", save, {"use_dora": True})]
    if trained_only:
        found.append(World("trained part only", save, {"keep": "trained"}))
    return tuple(found)


_TORCH, _SAFETENSORS = partial(_save_state_dict, "model.pt"), partial(_save_state_dict, "model.safetensors")

LOADERS: tuple[Loader, ...] = (
    Loader(
        "PEFT from_pretrained", "PeftModel.from_pretrained(base, path)", _from_pretrained, (_LORA, _RICH, _DORA, _BIN)
    ),
    Loader("PEFT load_adapter", 'peft_model.load_adapter(path, "default")', _load_adapter, (_LORA, _RICH, _DORA, _BIN)),
    Loader("transformers load_adapter", "model.load_adapter(path)", _transformers, (_LORA, _RICH)),
    Loader(
        "Lightning strict",
        "Vlm.load_from_checkpoint(path, strict=True)",
        partial(_load_from_checkpoint, strict=True),
        _worlds(_save_lightning, trained_only=False),
    ),
    Loader(
        "Lightning not strict",
        "Vlm.load_from_checkpoint(path, strict=False)",
        partial(_load_from_checkpoint, strict=False),
        _worlds(_save_lightning, trained_only=True),
    ),
    Loader(
        "Trainer resume not strict",
        "trainer.fit(vlm, data, ckpt_path=path), strict_loading = False",
        _resume,
        _worlds(_save_lightning, trained_only=True),
    ),
    Loader(
        "torch strict",
        "model.load_state_dict(torch.load(path))",
        partial(_torch, strict=True),
        _worlds(_TORCH, trained_only=False),
    ),
    Loader(
        "torch not strict",
        "model.load_state_dict(torch.load(path), strict=False)",
        partial(_torch, strict=False),
        _worlds(_TORCH, trained_only=True),
    ),
    Loader(
        "accelerate",
        "load_checkpoint_in_model(model, path)",
        _accelerate,
        _worlds(_SAFETENSORS, trained_only=True),
    ),
    Loader(
        "by hand (adapter beside)",
        "not strict, then PEFT from lora_weights/",
        _by_hand,
        (
            World("adapter beside", _save_beside, {"apart": True}),
            # The loader does not read the adapter in the file: of what befalls that one it could notice nothing.
            World("adapter in both", _save_beside, {"apart": False}, frozenset({"stale-directory"})),
        ),
    ),
    Loader(
        "LLaVA's way",
        f"not strict from {_REST}, then PEFT",
        _with_rest,
        # All else is as with PEFT from_pretrained.
        (World("LoRA, projector beside", _save_with_rest, only=_COMPANIONS),),
    ),
)
"""Every loader, in the order of the page."""
