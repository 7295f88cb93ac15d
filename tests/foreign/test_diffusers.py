"""diffusers: its own file, with and without metadata, and kohya's, whose scalings are in the file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign.running import Case, check, rows, train

if TYPE_CHECKING:
    from pathlib import Path

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
peft = pytest.importorskip("peft")
conversion = pytest.importorskip("diffusers.utils.state_dict_utils")
training_utils = pytest.importorskip("diffusers.training_utils")
pytestmark = pytest.mark.foreign

WRONG_TODAY: dict[str, str] = {}
TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]
NAME = "pytorch_lora_weights.safetensors"


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "sample": torch.randn(1, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([1]),
        "encoder_hidden_states": torch.randn(1, 3, 16, generator=generator),
    }


def unet() -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


def pipeline() -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet(),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def trained(alpha: float) -> Any:
    """As `train_text_to_image_lora.py` sets it up."""
    model = unet()
    model.requires_grad_(requires_grad=False)
    torch.manual_seed(1)
    model.add_adapter(peft.LoraConfig(r=4, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=TARGETS))
    return train(model, step=0.3)


def save(model: Any, folder: Path, *, metadata: bool = False) -> Path:
    """As the example does; with metadata, as the newer examples do."""
    weights = conversion.convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(model))
    more = training_utils._collate_lora_metadata({"unet": model}) if metadata else {}
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights, **more)
    return folder / NAME


def save_kohya(model: Any, folder: Path) -> Path:
    """By diffusers' conversion, with the alpha of training in each module's `alpha`."""
    weights = {f"unet.{key}": value for key, value in peft.get_peft_model_state_dict(model).items()}
    weights = {key: value.contiguous() for key, value in conversion.convert_state_dict_to_kohya(weights).items()}
    alpha = torch.tensor(float(model.peft_config["default"].lora_alpha))
    folder.mkdir()
    path = folder / "kohya.safetensors"
    save_file({key: alpha.clone() if key.endswith(".alpha") else value for key, value in weights.items()}, path)
    return path


def old_names(model: Any, *, processors: bool) -> dict[str, torch.Tensor]:
    """Name the factors as the attention processors of releases before 0.20 did, or the layers of those before PEFT."""
    named = {}
    for key, factor in peft.get_peft_model_state_dict(model).items():
        path, _, end = key.partition(".lora_")
        which = "down" if end.startswith("A") else "up"
        attention, _, layer = path.removesuffix(".0").rpartition(".")
        new = f"{attention}.processor.{layer}_lora.{which}.weight" if processors else f"{path}.lora.{which}.weight"
        named[f"unet.{new}"] = factor.contiguous()
    return named


def save_old(model: Any, folder: Path, *, processors: bool) -> Path:
    """Write the file: no release of today does."""
    folder.mkdir()
    save_file(old_names(model, processors=processors), folder / NAME)
    return folder / NAME


def served(path: Path) -> Any:
    pipe = pipeline()
    pipe.load_lora_weights(
        str(path.parent if path.is_file() else path), weight_name=path.name if path.is_file() else NAME
    )
    return pipe


def load(path: Path) -> Any:
    return served(path).unet


def load_fused(path: Path) -> Any:
    pipe = served(path)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return pipe.unet


def load_doubled(path: Path) -> Any:
    """A strength for a demonstration, left in the loader."""
    pipe = served(path)
    pipe.set_adapters(pipe.get_active_adapters(), [2.0])
    return pipe.unet


def fuse_doubled(path: Path) -> Any:
    pipe = served(path)
    pipe.fuse_lora(lora_scale=2.0)
    pipe.unload_lora_weights()
    return pipe.unet


def without_scalings(path: Path) -> Any:
    """The tensors alone are handed over: neither metadata nor `alpha`."""
    pipe = pipeline()
    pipe.load_lora_weights({key: value for key, value in load_file(path).items() if not key.endswith(".alpha")})
    return pipe.unet


def without_prefix(path: Path) -> Any:
    """Nothing in the file has the prefix that is asked for: diffusers warns, and loads nothing."""
    pipe = pipeline()
    pipe.load_lora_weights({f"transformer.{key}": value for key, value in load_file(path).items()})
    return pipe.unet


def by_itself(path: Path) -> Any:
    """The model reads the file without a pipeline, and calls the adapter by a name of its own."""
    model = unet()
    model.load_lora_adapter(str(path.parent), prefix="unet", weight_name=path.name)
    return model.eval()


def fused_by_itself(path: Path) -> Any:
    model = by_itself(path)
    model.fuse_lora()
    model.unload_lora()
    return model


def unfused(path: Path) -> Any:
    model = by_itself(path)
    model.fuse_lora()
    model.unfuse_lora()
    return model


def disabled(path: Path) -> Any:
    model = by_itself(path)
    model.disable_lora()
    return model


def in_directory(model: Any, folder: Path) -> Path:
    return save(model, folder).parent


def up_gone(path: Path) -> None:
    weights = load_file(path)
    gone = next(key for key in weights if key.endswith(("lora.up.weight", "lora_up.weight", "_lora.up.weight")))
    save_file({key: value for key, value in weights.items() if key != gone}, path)


NOT_LOADED = ("adapter-not-loaded", "adapter-without-home", "wrapper-prefix")
SCALED = ("scaling-differs", "scaled-values", "config-differs")
PLAIN = Case(name="plain", trained=lambda: trained(4), save=save, load=load, inputs=inputs, base=unet)
METADATA = replace(
    PLAIN, name="metadata", trained=lambda: trained(16), save=lambda model, folder: save(model, folder, metadata=True)
)
PROCESSORS, LAYERS = (
    replace(PLAIN, name=name, save=lambda model, folder, p=p: save_old(model, folder, processors=p))  # type: ignore[misc]
    for name, p in (("processors", True), ("layers", False))
)
KOHYA = replace(PLAIN, name="kohya", trained=lambda: trained(2), save=save_kohya)
CASES = [
    PLAIN,
    replace(PLAIN, name="plain-without-base", base=None),
    replace(PLAIN, name="plain-fused", load=load_fused),
    replace(PLAIN, name="plain-with-manifest", manifest=True),
    replace(PLAIN, name="plain-directory", save=in_directory),
    replace(PLAIN, name="plain-never-loaded", load=without_prefix, causes=NOT_LOADED),
    replace(PLAIN, name="plain-by-itself", load=by_itself),
    replace(PLAIN, name="plain-by-itself-fused", load=fused_by_itself),
    replace(PLAIN, name="plain-unfused", load=unfused),
    replace(PLAIN, name="plain-disabled", load=disabled, causes=("adapter-inactive",), alone=True),
    replace(PLAIN, name="plain-up-gone", damage=up_gone, causes=("lora-pair-incomplete",)),
    # The file has no alpha: only what training wrote down can tell.
    replace(PLAIN, name="plain-alpha-lost", trained=lambda: trained(16), manifest=True, causes=SCALED),
    METADATA,
    replace(METADATA, name="metadata-fused", load=load_fused),
    replace(METADATA, name="metadata-ignored", load=without_scalings, causes=SCALED),
    replace(METADATA, name="metadata-scale-doubled", load=load_doubled, causes=SCALED),
    PROCESSORS,
    replace(PROCESSORS, name="processors-up-gone", damage=up_gone, causes=("lora-pair-incomplete",)),
    LAYERS,
    replace(LAYERS, name="layers-fused", load=load_fused),
    KOHYA,
    replace(KOHYA, name="kohya-fused", load=load_fused),
    replace(KOHYA, name="kohya-scale-doubled", load=load_doubled, causes=SCALED),
    replace(KOHYA, name="kohya-fused-doubled", load=fuse_doubled, causes=SCALED),
    replace(KOHYA, name="kohya-alpha-ignored", load=without_scalings, causes=SCALED),
    replace(KOHYA, name="kohya-up-gone", damage=up_gone, raises=True, causes=("lora-pair-incomplete",)),
]


@pytest.mark.parametrize("case", rows(CASES, WRONG_TODAY))
def test_diffusers(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
