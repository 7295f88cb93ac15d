"""litgpt: factors beside `hyperparameters.yaml`, q, k and v stacked in one of them, and a merge block by block."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.checkpoint import AdapterInfo
from tests.foreign.running import VOCABULARY, Case, check, rows, token_ids, train

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("litgpt", exc_type=ImportError)
lora = pytest.importorskip("litgpt.lora")
finetune = pytest.importorskip("litgpt.finetune.lora")
merging = pytest.importorskip("litgpt.scripts.merge_lora")
lightning = pytest.importorskip("lightning")
utils = pytest.importorskip("litgpt.utils")
litgpt_model = pytest.importorskip("litgpt.model")
pytestmark = pytest.mark.foreign

WRONG_TODAY: dict[str, str] = {}
# What `litgpt finetune lora` sets by itself: queries and values.
ATTENTION = {
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.05,
    "lora_query": True,
    "lora_key": False,
    "lora_value": True,
}
EVERYTHING = ATTENTION | {"lora_key": True, "lora_projection": True, "lora_mlp": True, "lora_head": True}
SIZES = {
    "block_size": 32,
    "n_layer": 2,
    "n_embd": 32,
    "vocab_size": VOCABULARY,
    "padded_vocab_size": VOCABULARY,
    "n_head": 4,
    "n_query_groups": 2,
    "intermediate_size": 48,
    "norm_class_name": "RMSNorm",
    "mlp_class_name": "LLaMAMLP",
    "parallel_residual": False,
    "bias": False,
    "rotary_percentage": 1.0,
}


def inputs() -> dict[str, torch.Tensor]:
    return {"idx": token_ids()["input_ids"]}


def base() -> Any:
    torch.manual_seed(0)
    model = litgpt_model.GPT(litgpt_model.Config(name="tiny", **SIZES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


def adapted(settings: dict[str, Any], weights: dict[str, torch.Tensor] | None = None) -> Any:
    """Return litgpt's LoRA model, with the base weights as its own `load_state_dict` maps them."""
    torch.manual_seed(1)
    model = lora.GPT(lora.Config(name="tiny", **SIZES, **settings))
    missing, unexpected = model.load_state_dict(base().state_dict() if weights is None else weights, strict=False)
    assert weights is not None or (not unexpected and all("lora_" in key for key in missing))
    lora.mark_only_lora_as_trainable(model)
    return model.eval()


def saves(settings: dict[str, Any]) -> Any:
    """As the end of `litgpt finetune lora`: the factors, the model's config, and the arguments of the run."""

    def save(model: Any, folder: Path) -> Path:
        pretrained, final = folder / "pretrained", folder / "final"
        for each in (pretrained, final):
            each.mkdir(parents=True)
            utils.save_config(base().config, each)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (each / name).write_text("{}")
        torch.save(base().state_dict(), pretrained / "lit_model.pth")
        fabric = lightning.Fabric(devices=1, accelerator="cpu")
        finetune.save_lora_checkpoint(fabric, model, final / "lit_model.pth.lora")
        arguments = {"checkpoint_dir": str(pretrained), "precision": "32-true", **settings}
        (final / "hyperparameters.yaml").write_text(yaml.safe_dump(arguments))
        return final / "lit_model.pth.lora"

    return save


def settings_of(path: Path) -> dict[str, Any]:
    settings, _, _ = merging.load_lora_metadata(path.parent)
    return settings


def factors(path: Path) -> dict[str, torch.Tensor]:
    weights = torch.load(path)
    return weights.get("model", weights)


def load(path: Path, **other: Any) -> Any:
    model = adapted(settings_of(path) | other)
    model.load_state_dict(factors(path), strict=False)
    return model


def load_merged(path: Path) -> Any:
    """By litgpt's own `merge_lora`, into a model without LoRA."""
    with contextlib.redirect_stdout(io.StringIO()):
        merging.merge_lora(path.parent)
    model = litgpt_model.GPT(litgpt_model.Config.from_file(path.parent / "model_config.yaml"))
    model.load_state_dict(torch.load(path.parent / "lit_model.pth"))
    (path.parent / "lit_model.pth").unlink()
    return model.eval()


def base_dropped(path: Path) -> Any:
    """The base weights have the names of the plain model where this one has `.linear.`: strict=False drops them."""
    torch.manual_seed(1)
    model = lora.GPT(lora.Config(name="tiny", **SIZES, **settings_of(path)))
    own = model.state_dict()
    own.update({key: value for key, value in base().state_dict().items() if key in own})
    own.update(factors(path))
    torch.nn.Module.load_state_dict(model, own)
    return model.eval()


def never_loaded(path: Path) -> Any:
    model = adapted(settings_of(path))
    model.load_state_dict({f"_forward_module.{key}": value for key, value in factors(path).items()}, strict=False)
    return model


def layers_exchanged(path: Path) -> None:
    other = {"transformer.h.0": "transformer.h.1", "transformer.h.1": "transformer.h.0"}
    weights = factors(path)
    torch.save({other.get(key[:15], key[:15]) + key[15:]: value for key, value in weights.items()}, path)


def merged_with_alpha_times_four(path: Path) -> Any:
    arguments = path.parent / "hyperparameters.yaml"
    was = arguments.read_text()
    arguments.write_text(yaml.safe_dump(yaml.safe_load(was) | {"lora_alpha": 32}))
    model = load_merged(path)
    arguments.write_text(was)
    return model


LOST = ("adapter-not-loaded", "still-initial", "values-differ", "lora-slot-empty", "wrapper-prefix")
SCALED = ("scaling-differs", "scaled-values", "config-differs")


def _cases(name: str, settings: dict[str, Any]) -> list[Case]:
    healthy = Case(
        name=name,
        trained=lambda: train(adapted(settings)),
        save=saves(settings),
        load=load,
        inputs=inputs,
        base=base,
    )
    return [
        healthy,
        replace(healthy, name=f"{name}-without-base", base=None),
        replace(healthy, name=f"{name}-with-manifest", manifest=True),
        replace(healthy, name=f"{name}-merged", load=load_merged),
        replace(healthy, name=f"{name}-never-loaded", load=never_loaded, causes=LOST),
        replace(
            healthy,
            name=f"{name}-base-random",
            load=base_dropped,
            causes=("base-overwritten", "base-from-nowhere", "lost-weights"),
        ),
        replace(healthy, name=f"{name}-alpha-times-four", load=lambda path: load(path, lora_alpha=32), causes=SCALED),
        replace(healthy, name=f"{name}-merged-with-alpha-times-four", load=merged_with_alpha_times_four, causes=SCALED),
        replace(
            healthy,
            name=f"{name}-layers-exchanged",
            damage=layers_exchanged,
            manifest=True,
            causes=("values-differ", "exchanged-tensors"),
        ),
    ]


@pytest.mark.parametrize(("settings", "modules"), [(ATTENTION, 2), (EVERYTHING, 11)])
def test_the_adapter_of_the_directory(settings: dict[str, Any], modules: int, tmp_path: Path) -> None:
    path = saves(settings)(train(adapted(settings)), tmp_path)
    for given in (path, path.parent):
        assert open_checkpoint(given).adapters == {"default": AdapterInfo(4, 8, modules)}


@pytest.mark.parametrize("case", rows([*_cases("q-and-v", ATTENTION), *_cases("everything", EVERYTHING)], WRONG_TODAY))
def test_litgpt(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
