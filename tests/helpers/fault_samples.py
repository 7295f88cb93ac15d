"""Healthy checkpoints of every layout, written by the real libraries, and what differs between two of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.replicas import make_panorama_vlm, save_adapter, save_replica, save_stage_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = 4


def tiny_qwen2() -> Any:
    """A language model whose q, k and v projections have biases, and whose head is a tensor of its own."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config)


def wear(model: Any, **settings: Any) -> Any:
    """Put LoRA on a model, with every lora_B as after training."""
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "up_proj", "gate_proj"], **settings}
    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name and not parameter.any():
                parameter.normal_()
    wrapped.peft_config["default"].base_model_name_or_path = "tiny-qwen2"
    return wrapped


def save_samples(folder: Path) -> dict[str, Path]:
    """Write one healthy checkpoint of every kind below `folder`; return them by name."""
    plain = wear(tiny_qwen2())
    # All that a config can say: DoRA, biases, a trained head, ranks and strengths of their own.
    rich = wear(
        tiny_qwen2(),
        use_dora=True,
        use_rslora=True,
        bias="all",
        modules_to_save=["lm_head"],
        rank_pattern={"v_proj": 2},
        alpha_pattern={"v_proj": 3},
    )
    dora = {"layers": LAYERS, "use_dora": True, "modules_to_save": ["norm"]}
    samples = {
        "peft_adapter": _saved(plain, folder / "plain" / "run-7"),
        "peft_adapter-rich": _saved(rich, folder / "rich" / "run-8"),
        "peft_adapter-bin": save_adapter(
            make_panorama_vlm(layers=LAYERS), folder / "bin" / "run-9", safe_serialization=False
        ),
        "peft_adapter-companion": _saved(plain, folder / "companion" / "run-10"),
        "lightning": save_stage_checkpoint(folder / "lightning", layers=LAYERS),
        "lightning-trained": save_stage_checkpoint(folder / "trained", layers=LAYERS, keep="trained"),
        "lightning-dora": save_stage_checkpoint(folder / "lightning-dora", **dora),
        "torch": save_replica(folder / "torch", layout="torch", layers=LAYERS),
        "torch-dora": save_replica(folder / "torch-dora", layout="torch", **dora),
        "torch-trained": save_replica(folder / "torch-trained", layout="torch", layers=LAYERS, keep="trained"),
        "torch-legacy": save_replica(folder / "legacy", layout="torch-legacy", layers=LAYERS),
        "torch-language": folder / "language" / "model.bin",
        "safetensors": save_replica(folder / "safetensors", layout="safetensors", layers=LAYERS),
        "safetensors-trained": save_replica(
            folder / "safetensors-trained", layout="safetensors", layers=LAYERS, keep="trained"
        ),
        "safetensors-dora": save_replica(folder / "safetensors-dora", layout="safetensors", **dora),
        "safetensors-language": folder / "language-safetensors" / "model.safetensors",
    }
    from safetensors.torch import save_file

    # As LLaVA's project: the projector, trained as a whole, in a file of its own.
    projector = {f"base_model.model.projector.{name}": torch.randn(8, 8) for name in ("0.weight", "2.weight")}
    torch.save(projector, samples["peft_adapter-companion"] / "non_lora_trainables.bin")
    samples["transformers"] = folder / "transformers" / "model"
    tiny_qwen2().save_pretrained(samples["transformers"], max_shard_size="30KB")
    for name, save in (("torch-language", torch.save), ("safetensors-language", save_file)):
        samples[name].parent.mkdir()
        save(dict(rich.state_dict()), samples[name])
    # As the guide's project: the file without the adapter, and the adapter in a directory beside it.
    for layout in ("lightning", "torch"):
        beside = samples[f"{layout}-beside"] = folder / f"{layout}-beside" / samples[layout].name
        shutil.copytree(samples[layout].parent, beside.parent)
        save_adapter(make_panorama_vlm(layers=LAYERS), beside.parent / "lora_weights")
        (beside.parent / "lora_manifest.json").write_text("{}")
        apart = samples[f"{layout}-apart"] = folder / f"{layout}-apart" / samples[layout].name
        shutil.copytree(beside.parent, apart.parent)
        contents = torch.load(apart, weights_only=True)
        state = contents.get("state_dict", contents)
        for key in [key for key in state if "lora_" in key]:
            del state[key]
        torch.save(contents, apart)
    return samples


def _saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@dataclass
class Diff:
    """What differs between two checkpoints.

    Attributes:
        lost: Keys of the first that the second lacks, with their tensors.
        new: Keys of the second that the first lacks, with their tensors.
        changed: Keys of both -> both tensors, where shape, dtype or a bit differs.
        config: Fields of adapter_config.json -> both values.
        files: Names of other files that were added, removed or changed.
        envelope: Whether what lies around the state dict, or its order, or its class, differs.
    """

    lost: dict[str, torch.Tensor] = field(default_factory=dict)
    new: dict[str, torch.Tensor] = field(default_factory=dict)
    changed: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    config: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    envelope: bool = False

    @property
    def is_empty(self) -> bool:
        return self == Diff()


@lru_cache(maxsize=64)
def read(path: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """Read a weights file with the library itself: the state dict, and all around it; nobody changes them."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open
        from safetensors.torch import load_file

        with safe_open(path, "pt") as file:
            return load_file(path), file.metadata()
    contents = torch.load(path, weights_only=True)
    state = contents.pop("state_dict") if "state_dict" in contents else contents
    around = {} if state is contents else contents
    return dict(state), (type(contents), around, type(state), getattr(state, "_metadata", None))


def weights_of(path: Path) -> Path:
    """The weights file of a checkpoint."""
    if path.is_file():
        return path
    adapter = (path / name for name in ("adapter_model.safetensors", "adapter_model.bin"))
    return next(each for each in (*adapter, *sorted(path.glob("model*.safetensors"))) if each.exists())


def diff(original: Path, damaged: Path, *, read_weights: bool = True) -> Diff:
    """Compare two checkpoints, and all that lies beside them."""
    found = Diff()
    one, other = weights_of(original), damaged / weights_of(original).name if original.is_dir() else damaged
    if read_weights:
        (before, around), (after, around_after) = read(one), read(other)
        found.lost = {key: before[key] for key in before if key not in after}
        found.new = {key: after[key] for key in after if key not in before}
        found.changed = {
            key: (before[key], after[key]) for key in before if key in after and not equal(before[key], after[key])
        }
        found.envelope = not same(around, around_after)
    configs = [_config(path) if original.is_dir() else {} for path in (original, damaged)]
    found.config = {
        name: (configs[0].get(name), configs[1].get(name))
        for name in {*configs[0], *configs[1]}
        if configs[0].get(name) != configs[1].get(name)
    }
    skipped = {one.name, "adapter_config.json"} if original.is_dir() else {one.name}
    files = [_files(path, skipped) for path in (one.parent, other.parent)]
    found.files = {name for name in {*files[0], *files[1]} if files[0].get(name) != files[1].get(name)}
    return found


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit, dtype and shape included."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.numel() == 0 or torch.equal(
        one.reshape(-1).contiguous().view(torch.uint8), other.reshape(-1).contiguous().view(torch.uint8)
    )


def same(one: Any, other: Any) -> bool:
    """Compare nested plain data with tensors in it."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and equal(one, other)
    if isinstance(one, dict):
        return type(one) is type(other) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    return _files(folder, set())


def _files(folder: Path, skipped: set[str]) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() not in skipped
    }


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return {}
