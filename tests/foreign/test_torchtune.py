"""torchtune: LoRA inside the model, saved as factors alone, merged, or converted for PEFT."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import audit, compare, open_checkpoint
from pytest_lora_ckpt.checkpoint import AdapterInfo
from pytest_lora_ckpt.keys import parse_key
from pytest_lora_ckpt.lora.pairs import lora_pairs
from tests.foreign.running import VOCABULARY, Case, check, rows, token_ids, train

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint import Checkpoint

pytest.importorskip("torchtune", exc_type=ImportError)
torchtune_llama = pytest.importorskip("torchtune.models.llama3")
torchtune_peft = pytest.importorskip("torchtune.modules.peft")
converting = pytest.importorskip("torchtune.models.convert_weights")
pytestmark = pytest.mark.foreign

WRONG_TODAY: dict[str, str] = {}
RANK, ALPHA = 4, 8
SIZES = {
    "vocab_size": VOCABULARY,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 32,
    "intermediate_dim": 48,
    "max_seq_len": 32,
}


def inputs() -> dict[str, torch.Tensor]:
    return {"tokens": token_ids()["input_ids"]}


def base() -> Any:
    torch.manual_seed(0)
    model = torchtune_llama.llama3(**SIZES)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


def adapted(*, alpha: float = ALPHA, strict: bool = True) -> Any:
    """Return the model with LoRA and the base weights, as torchtune's recipes set it up."""
    torch.manual_seed(1)
    model = torchtune_llama.lora_llama3(
        ["q_proj", "v_proj", "output_proj"], apply_lora_to_mlp=True, lora_rank=RANK, lora_alpha=alpha, **SIZES
    )
    if strict:
        missing, unexpected = model.load_state_dict(base().state_dict(), strict=False)
        assert not unexpected
        assert all("lora" in key for key in missing)
    torchtune_peft.set_trainable_params(model, torchtune_peft.get_adapter_params(model))
    return model.eval()


def trained() -> Any:
    return train(adapted())


def save(model: Any, folder: Path) -> Path:
    """As the recipe's checkpointer does: `adapter_0.pt`."""
    folder.mkdir()
    torch.save(torchtune_peft.get_adapter_state_dict(model.state_dict()), folder / "adapter_0.pt")
    return folder / "adapter_0.pt"


def load(path: Path, **settings: Any) -> Any:
    model = adapted(**settings)
    _, unexpected = model.load_state_dict(torch.load(path), strict=False)
    assert not unexpected
    return model


def load_merged(path: Path, alpha: float = ALPHA) -> Any:
    merged = torchtune_llama.llama3(**SIZES)
    merged.load_state_dict(torchtune_peft.get_merged_lora_ckpt(load(path).state_dict(), rank=RANK, alpha=alpha))
    return merged.eval()


def without_base(path: Path) -> Any:
    return load(path, strict=False)


def before_the_base(path: Path) -> Any:
    """The adapter's names are those of the unwrapped module: nothing of it arrives."""
    model = adapted()
    weights = {f"module.{key}": value for key, value in torch.load(path).items()}
    model.load_state_dict(weights, strict=False)
    return model


def layers_exchanged(path: Path) -> None:
    weights = torch.load(path)
    other = {"0": "1", "1": "0"}
    torch.save({key.replace(key.split(".")[1], other[key.split(".")[1]], 1): weights[key] for key in weights}, path)


FACTORS = Case(name="factors", trained=trained, save=save, load=load, inputs=inputs, base=base)
LOST = ("adapter-not-loaded", "still-initial", "values-differ", "lora-slot-empty", "ddp-prefix", "wrapper-prefix")
NATIVE = [
    FACTORS,
    replace(FACTORS, name="factors-without-base", base=None),
    replace(FACTORS, name="factors-with-manifest", manifest=True),
    replace(FACTORS, name="merged", load=load_merged),
    replace(FACTORS, name="never-loaded", load=before_the_base, causes=LOST),
    replace(
        FACTORS, name="base-random", load=without_base, causes=("base-overwritten", "base-from-nowhere", "lost-weights")
    ),
    replace(
        FACTORS,
        name="merged-with-alpha-times-four",
        load=lambda path: load_merged(path, 4 * ALPHA),
        manifest=True,
        causes=("scaling-differs", "scaled-values"),
    ),
    replace(
        FACTORS,
        name="alpha-times-four",
        load=lambda path: load(path, alpha=4 * ALPHA),
        manifest=True,
        causes=("scaling-differs", "scaled-values", "config-differs"),
    ),
    replace(
        FACTORS,
        name="layers-exchanged",
        damage=layers_exchanged,
        manifest=True,
        causes=("values-differ", "exchanged-tensors"),
    ),
]

# --- Converted for PEFT, and loaded there.


def hf_base() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config)
    weights = converting.tune_to_hf(base().state_dict(), num_heads=4, num_kv_heads=2, dim=32)
    model.load_state_dict(weights)
    return model.eval()


def save_for_peft(model: Any, folder: Path) -> Path:
    folder.mkdir()
    factors = torchtune_peft.get_adapter_state_dict(model.state_dict())
    weights = converting.tune_to_peft_adapter_weights(factors, num_heads=4, num_kv_heads=2, dim=32)
    targets = ["q_proj", "v_proj", "output_proj", "w1", "w2", "w3"]
    config = converting.tune_to_peft_adapter_config(
        {"r": RANK, "lora_alpha": ALPHA, "target_modules": targets, "peft_type": "LORA"}
    )
    torch.save(weights, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def load_by_peft(path: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(hf_base(), str(path)).eval()


FOR_PEFT = Case(
    name="for-peft",
    trained=trained,
    save=save_for_peft,
    load=load_by_peft,
    inputs=token_ids,
    trained_inputs=inputs,
    base=hf_base,
)
CONVERTED = [
    FOR_PEFT,
    replace(FOR_PEFT, name="for-peft-merged", load=lambda path: load_by_peft(path).merge_and_unload()),
]


@pytest.mark.parametrize("case", rows([*NATIVE, *CONVERTED], WRONG_TODAY))
def test_torchtune(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


# --- The directory of a recipe.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save two epochs as `recipes/lora_finetune_single_device.py` does: one in between and the last.

    torchtune 0.6 imports names that torchao has no more, of quantisers that this does not use.
    """
    quantization = pytest.importorskip("torchao.quantization")
    quantisers = ["int4_weight_only", "int8_dynamic_activation_int4_weight", "Int4WeightOnlyQuantizer"]
    for name in [*quantisers, "Int8DynActInt4WeightQuantizer"]:
        if not hasattr(quantization, name):
            setattr(quantization, name, None)
    training = pytest.importorskip("torchtune.training", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("torchtune")
    hf_base().save_pretrained(folder / "base")
    checkpointer = training.FullModelHFCheckpointer(
        str(folder / "base"), ["model.safetensors"], "LLAMA3", str(folder / "run")
    )
    checkpointer.load_checkpoint()
    model = trained()
    targets = torchtune_peft.get_lora_module_names(["q_proj", "v_proj", "output_proj"], True, False)  # noqa: FBT003
    for epoch in range(2):
        weights = model.state_dict()
        state = {
            training.ADAPTER_KEY: torchtune_peft.get_adapter_state_dict(weights),
            training.MODEL_KEY: torchtune_peft.get_merged_lora_ckpt(dict(weights), rank=RANK, alpha=ALPHA),
            training.ADAPTER_CONFIG: {
                "r": RANK,
                "lora_alpha": ALPHA,
                "target_modules": targets,
                "peft_type": "LORA",
            },
        }
        if not epoch:
            state[training.OPT_KEY] = torch.optim.AdamW(model.parameters()).state_dict()
        checkpointer.save_checkpoint(state, epoch=epoch, intermediate_checkpoint=not epoch)
    return folder / "run"


@pytest.mark.parametrize("epoch", ["epoch_0", "epoch_1"])
def test_the_directory_of_a_recipe(run: Path, epoch: str) -> None:
    info = AdapterInfo(RANK, ALPHA, 12)
    checkpoint = open_checkpoint(run / epoch)
    assert (checkpoint.layout, checkpoint.adapters) == ("peft_adapter", {"default": info})
    assert {each.path.name: each.kind for each in checkpoint.companions} == {
        "adapter_model.pt": "other",
        "model-00001-of-00001.safetensors": "other",
    }
    own = open_checkpoint(run / epoch / "adapter_model.pt")
    assert own.adapters == {"default": info}
    found = {path: _updates(opened, hf_base()) for path, opened in (("peft", checkpoint), ("own", own))}
    assert found["peft"].keys() == found["own"].keys()
    for module, update in found["peft"].items():
        rows = found["own"][module]
        # torchtune's queries have the two halves of a rotation next to each other.
        same = torch.equal(update.sort(dim=0).values, rows.sort(dim=0).values) if "q_proj" in module else None
        assert torch.equal(update, rows) if same is None else same
    result = audit(run / epoch, loader=load_by_peft, inputs=token_ids, base_model=hf_base)
    assert not result.named("failed"), [each.message for each in result.findings]
    assert "loaded" in result.named("passed")


def test_a_directory_whose_own_copy_is_of_another_run(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run / "epoch_1", tmp_path / "epoch_1")
    weights = torch.load(folder / "adapter_model.pt")
    torch.save({key: value for key, value in weights.items() if "layers.1." not in key}, folder / "adapter_model.pt")
    (own,) = (each for each in open_checkpoint(folder).companions if each.path.name == "adapter_model.pt")
    assert own.kind == "weights"


def _updates(checkpoint: Checkpoint, base: Any) -> dict[str, torch.Tensor]:
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    places = compare(checkpoint, model).mapping
    return {
        parse_key(places[pair.down[0]]).module_path: checkpoint.read(pair.up[0]) @ checkpoint.read(pair.down[0])
        for pair in lora_pairs(checkpoint.keys)
        if pair.down and pair.up
    }
