"""The alpha of an adapter, wherever a library writes it down: next to the factors, in metadata, in a config beside."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_lora_ckpt import KeySet, TensorInfo, audit, open_checkpoint
from pytest_lora_ckpt.checkpoint import AdapterInfo
from pytest_lora_ckpt.lora.pairs import lora_pairs
from tests.helpers.sections import shown

if TYPE_CHECKING:
    from pathlib import Path

UNET = "lora_unet_mid_block_attn_to_q"
TEXT = "lora_te_text_model_layers_0_mlp_fc1"


def kohya(**alphas: torch.Tensor) -> dict[str, torch.Tensor]:
    """Name factors and alphas as `LoRANetwork.save_weights` of sd-scripts does."""
    state = {f"{module}.lora_down.weight": torch.ones(4, 8) for module in (UNET, TEXT)}
    state |= {f"{module}.lora_up.weight": torch.ones(8, 4) for module in (UNET, TEXT)}
    return state | {f"{module}.alpha": alpha for module, alpha in alphas.items()}


def saved(state: dict[str, torch.Tensor], folder: Path, metadata: dict[str, str] | None = None) -> Path:
    save_file(state, folder / "style.safetensors", metadata)
    return folder / "style.safetensors"


NUMBERS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NUMBERS += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_alpha_of_kohya_in_any_dtype(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    alpha = torch.full(shape, 2, dtype=dtype)
    path = saved(kohya(**{UNET: alpha, TEXT: alpha.clone()}), tmp_path)
    assert open_checkpoint(path).adapters == {"default": AdapterInfo(4, 2.0, 2)}


@pytest.mark.parametrize(
    ("alphas", "expected"),
    [
        ({UNET: torch.tensor(2.0), TEXT: torch.tensor(0.5)}, (0.5, 2.0)),
        ({UNET: torch.tensor(2.0)}, 2.0),  # The other module says nothing.
        ({UNET: torch.tensor([2.0, 3.0]), TEXT: torch.tensor([])}, None),
        ({UNET: torch.tensor(math.nan), TEXT: torch.tensor(math.inf)}, None),
        ({UNET: torch.ones((), dtype=torch.bool), TEXT: torch.tensor(2j)}, None),
        ({}, None),
    ],
)
def test_alphas_that_differ_or_say_nothing(tmp_path: Path, alphas: dict[str, torch.Tensor], expected: object) -> None:
    for path in (saved(kohya(**alphas), tmp_path), tmp_path / "style.pt"):
        if path.suffix == ".pt":
            torch.save(kohya(**alphas), path)
        assert open_checkpoint(path).adapters["default"].alpha == expected
        (facts,) = audit(path).checkpoint.adapters.values()
        assert facts.alpha == expected


def test_the_line_of_the_terminal(tmp_path: Path) -> None:
    state = kohya(**{UNET: torch.tensor(2.0), TEXT: torch.tensor(0.5)})
    state[f"{UNET}.lora_down.weight"], state[f"{UNET}.lora_up.weight"] = torch.ones(2, 8), torch.ones(8, 2)
    result = audit(saved(state, tmp_path))
    assert "adapter default: rank (2, 4), alpha (0.5, 2), 2 modules" in shown(result)
    assert type(result).from_dict(json.loads(json.dumps(result.to_dict()))) == result


COMPONENTS = ("unet.mid.to_q", "text_encoder.layers.0.q_proj")
STATE = {f"{module}.lora_A.weight": torch.ones(4, 8) for module in COMPONENTS}
STATE |= {f"{module}.lora_B.weight": torch.ones(8, 4) for module in COMPONENTS}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"unet.r": 4, "unet.lora_alpha": 8, "text_encoder.r": 4, "text_encoder.lora_alpha": 8}, 8),
        ({"unet.r": 4, "unet.lora_alpha": 8, "text_encoder.r": 4, "text_encoder.lora_alpha": 2}, (2, 8)),
        ({"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"mid.to_q": 1}, "text_encoder.r": 4}, 1),
        ({"unet.r": 4, "unet.lora_alpha": "many"}, None),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"mid.to_q": 1}}, (1, 8)),
        ({}, None),
        ([1], None),
    ],
)
def test_the_metadata_of_diffusers(tmp_path: Path, metadata: Any, expected: object) -> None:
    path = saved(STATE, tmp_path, {"format": "pt", "lora_adapter_metadata": json.dumps(metadata)})
    assert open_checkpoint(path).adapters == {"default": AdapterInfo(4, expected, 2)}  # type: ignore[arg-type]


RUNS = {
    "hyperparameters.yaml": "checkpoint_dir: x\nlora_r: 4\nlora_alpha: 8\nlora_query: true\n",
    "torchtune_config.yaml": "model: {_component_: torchtune.lora_llama3, lora_rank: 4, lora_alpha: 8}\n",
    "adapter_config.json": json.dumps({"r": 4, "lora_alpha": 8, "target_modules": ["to_q"]}),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_config_of_the_run_next_to_it(tmp_path: Path, name: str) -> None:
    path = saved(STATE, tmp_path)
    (tmp_path / name).write_text(RUNS[name])
    assert open_checkpoint(path).adapters == {"default": AdapterInfo(4, 8, 2)}
    (tmp_path / name).write_text(RUNS[name].replace("4", "16"))  # Another adapter's.
    assert open_checkpoint(path).adapters == {"default": AdapterInfo(4, None, 2)}


@pytest.mark.parametrize(("folder", "alpha"), [("epoch_0", 8), ("other", None)])
def test_the_config_of_the_run_above_the_directory_of_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, alpha: int | None
) -> None:
    """As torchtune writes it: `torchtune_config.yaml` in the directory of the run."""
    (tmp_path / folder).mkdir()
    path = saved(STATE, tmp_path / folder)
    (tmp_path / "torchtune_config.yaml").write_text(RUNS["torchtune_config.yaml"])
    assert open_checkpoint(path).adapters == {"default": AdapterInfo(4, alpha, 2)}
    monkeypatch.chdir(tmp_path / folder)
    assert open_checkpoint("style.safetensors").adapters == {"default": AdapterInfo(4, alpha, 2)}


@pytest.mark.parametrize("name", ["hyper_parameters", "config", "args", "metadata"])
def test_the_settings_around_a_state_dict(tmp_path: Path, name: str) -> None:
    """As the runners of LAVIS and MiniGPT-4 save them."""
    settings = {"model": {"arch": "minigpt_v2", "lora_r": 4, "lora_alpha": 8}, "run": {"init_lr": 1e-5}}
    torch.save({"model": STATE, name: settings, "epoch": 3}, tmp_path / "checkpoint_3.pth")
    assert open_checkpoint(tmp_path / "checkpoint_3.pth").adapters == {"default": AdapterInfo(4, 8, 2)}


def test_configs_of_two_runs_that_differ_say_nothing(tmp_path: Path) -> None:
    path = saved(STATE, tmp_path)
    (tmp_path / "hyperparameters.yaml").write_text(RUNS["hyperparameters.yaml"])
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 16}))
    assert open_checkpoint(path).adapters == {"default": AdapterInfo(4, None, 2)}


def test_a_torchtune_adapter_is_found_in_the_keys(tmp_path: Path) -> None:
    state = {}  # As `get_adapter_params` of torchtune/modules/peft names them.
    for layer in range(3):
        for name in ("q_proj", "output_proj"):
            state[f"layers.{layer}.attn.{name}.lora_a.weight"] = torch.ones(2 + layer // 2, 8)
            state[f"layers.{layer}.attn.{name}.lora_b.weight"] = torch.ones(8, 2 + layer // 2)
    torch.save(state, tmp_path / "adapter_0.pt")
    assert open_checkpoint(tmp_path / "adapter_0.pt").adapters == {"default": AdapterInfo((2, 3), None, 6)}


def test_patterns_of_a_config_make_alphas_that_differ(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {"q_proj": 1}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert open_checkpoint(tmp_path).adapters == {"default": AdapterInfo(4, (1, 8), 2)}


def test_a_file_that_changed_after_it_was_opened_is_said(tmp_path: Path) -> None:
    path = saved(kohya(**{UNET: torch.tensor(2.0)}), tmp_path)
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(Exception, match="changed"):
        _ = checkpoint.adapters


@pytest.mark.slow
def test_many_flattened_names_take_no_longer_each() -> None:
    """Each is a template of its own: the path of a module has its numbers between underscores."""
    infos = {}
    for at in range(15_000):
        module = f"lora_unet_down_blocks_{at}_attn_to_q"
        infos |= {f"{module}.lora_down.weight": TensorInfo((4, 8)), f"{module}.lora_up.weight": TensorInfo((8, 4))}
        infos[f"{module}.alpha"] = TensorInfo(())
    keys = KeySet(infos)
    began = time.process_time()
    assert len(lora_pairs(keys)) == 15_000
    assert time.process_time() - began < 4
