"""Qwen2-VL-Finetune's way: an adapter, and the trained merger in `non_lora_state_dict.bin` beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.foreign.running import VOCABULARY, Case, check, rows, train

if TYPE_CHECKING:
    from pathlib import Path

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.foreign

WRONG_TODAY: dict[str, str] = {}
REST = "non_lora_state_dict.bin"


def base() -> Any:
    torch.manual_seed(0)
    text = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "fullatt_block_indexes": [1], "window_size": 16}
    tokens = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def inputs() -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([[5, 62, 60, 60, 60, 60, 63, 7]]),
        "mm_token_type_ids": torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0]]),
        "pixel_values": torch.linspace(-1, 1, 16 * 96).reshape(16, 96),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }


def trained() -> Any:
    torch.manual_seed(4)
    targets = r".*language_model.*(q_proj|v_proj|up_proj)"
    model = peft.get_peft_model(
        base(), peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets)
    )
    model.base_model.model.model.visual.merger.requires_grad_(requires_grad=True)
    return train(model)


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    rest = {key: value.data for key, value in model.named_parameters() if value.requires_grad and "lora_" not in key}
    assert rest
    torch.save(rest, folder / REST)
    return folder


def load(path: Path, cut: str = "base_model.model.") -> Any:
    model = base()
    rest = torch.load(path / REST)
    model.load_state_dict({key.removeprefix(cut): value for key, value in rest.items()}, strict=False)
    return peft.PeftModel.from_pretrained(model, str(path)).eval()


def load_merged(path: Path) -> Any:
    return load(path).merge_and_unload()


def load_in_half(path: Path) -> Any:
    return load(path).merge_and_unload().half()


def cut_too_little(path: Path) -> Any:
    """Leaves `model.model.visual…`, and strict=False drops it: the merger is the base model's."""
    return load(path, cut="base_model.")


def wrapped_names(path: Path) -> None:
    torch.save({f"module.{key}": value for key, value in torch.load(path / REST).items()}, path / REST)


def merger_and_adapter_of_two_runs(path: Path) -> None:
    torch.manual_seed(6)
    torch.save({key: torch.randn_like(value) for key, value in torch.load(path / REST).items()}, path / REST)


def old_names(path: Path) -> None:
    """The names are those of transformers before 4.52: some versions rename them, others warn and load nothing."""
    from safetensors.torch import load_file, save_file

    file = path / "adapter_model.safetensors"
    weights = {
        key.replace("model.language_model.layers", "model.layers"): value for key, value in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})


NO_BASE: dict[str, Any] = {"base": None}
LOST = ("trained-weights-missing", "lost-weights", "values-differ", "still-initial", "component-partly-held")
LOST += ("ddp-prefix", "wrapper-prefix", "companion-not-loaded")
HEALTHY = Case(name="attached", trained=trained, save=save, load=load, inputs=inputs, base=base)


def _ways(case: Case) -> list[Case]:
    """Return the same with the base, without it, and with what training wrote down."""
    return [
        replace(case, name=f"{case.name}{merged}{more}", load=how, proved=settings != NO_BASE or not merged, **settings)
        for merged, how in (("", case.load), ("-merged", lambda path: case.load(path).merge_and_unload()))
        for more, settings in (("", {}), ("-without-base", NO_BASE), ("-with-manifest", {"manifest": True}))
    ]


CASES = [
    *_ways(HEALTHY),
    replace(HEALTHY, name="merged-in-half", load=load_in_half, tolerance=0.05),
    *_ways(replace(HEALTHY, name="merger-dropped", load=cut_too_little, causes=LOST)),
    replace(HEALTHY, name="merger-under-wrapped-names", damage=wrapped_names, causes=LOST),
    replace(HEALTHY, name="merger-of-another-run", damage=merger_and_adapter_of_two_runs, manifest=True, causes=LOST),
    replace(
        HEALTHY,
        name="old-names-merged",
        damage=old_names,
        load=load_merged,
        depends=True,
        causes=("vlm-refactor-prefix",),
    ),
]


@pytest.mark.parametrize("case", rows(CASES, WRONG_TODAY))
def test_qwen_vl_way(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
