"""`key_mapping` proved by loading with it: transformers' `from_pretrained` and PEFT's `PeftModel.from_pretrained`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.keys import infer_remapping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.fixture(scope="module")
def llama() -> Callable[[], Any]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int = 0) -> Any:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=False,
        )
        return LlamaForCausalLM(config).eval()

    return make


RENAMINGS: dict[str, Callable[[str], str]] = {
    "wrapper in front": lambda key: f"_orig_mod.{key}",
    "wrapper in the middle": lambda key: key.replace("self_attn.", "self_attn._checkpoint_wrapped_module."),
    "wrapper at both": lambda key: "module." + key.replace("mlp.", "mlp._fsdp_wrapped_module."),
    "tower renamed": lambda key: key.replace("model.", "language_model.", 1) if key.startswith("model.") else key,
    "refactored": lambda key: f"text.{key}" if key.startswith("lm_head") else key.replace("model.", "text.model.", 1),
    "segment renamed": lambda key: key.replace("self_attn.", "attention."),
    "peft inside": lambda key: f"base_model.model.{key}".replace("q_proj.", "q_proj.base_layer."),
}


@pytest.mark.parametrize("name", sorted(RENAMINGS))
def test_transformers_loads_with_the_key_mapping(name: str, llama: Callable[[], Any], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    trained = llama(1)
    state = trained.state_dict()
    file = {RENAMINGS[name](key): tensor.clone() for key, tensor in state.items()}
    save_file(file, tmp_path / "model.safetensors", metadata={"format": "pt"})
    trained.config.save_pretrained(tmp_path)
    found = infer_remapping(shapes(file), shapes(state))
    assert found.mapping == {RENAMINGS[name](key): key for key in state}

    mapping = found.as_key_mapping("transformers")
    loaded, info = type(trained).from_pretrained(tmp_path, key_mapping=mapping, output_loading_info=True)

    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("name", sorted(RENAMINGS))
def test_pasted_function_makes_a_strict_load_work(name: str, llama: Callable[[], Any]) -> None:
    import torch

    state = llama(1).state_dict()
    file = {RENAMINGS[name](key): tensor for key, tensor in state.items()}
    model = llama(2)
    space: dict[str, Any] = {}
    exec(infer_remapping(shapes(file), shapes(state)).as_python("mend"), space)  # noqa: S102
    model.load_state_dict(space["mend"](file), strict=True)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


ADAPTERS: dict[str, tuple[Callable[[str], str], dict[str, Any]]] = {
    "as saved": (lambda key: key, {}),
    "one level short": (lambda key: key.replace("base_model.model.model.", "base_model.model.", 1), {}),
    "refactored": (lambda key: key.replace("base_model.model.model.", "base_model.model.language_model.model.", 1), {}),
    "segment renamed": (lambda key: key.replace(".self_attn.", ".attention."), {}),
    "with a head": (
        lambda key: key.replace("base_model.model.model.", "base_model.model.language_model.", 1),
        {"modules_to_save": ["lm_head"]},
    ),
    "with DoRA and a bias": (
        lambda key: key.replace("base_model.model.model.", "base_model.model.text.model.", 1),
        {"use_dora": True, "bias": "none"},
    ),
    "with embeddings": (
        lambda key: key.replace("base_model.model.model.", "base_model.model.text.model.", 1),
        {"target_modules": ["q_proj", "embed_tokens"]},
    ),
}


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_peft_loads_with_the_key_mapping(name: str, llama: Callable[[], Any], tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file, save_file

    rename, options = ADAPTERS[name]
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **options})
    trained = get_peft_model(llama(1), config)
    with torch.no_grad():
        for key, parameter in trained.named_parameters():
            if parameter.requires_grad:
                parameter.fill_(float(len(key)))
    trained.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    file = {rename(key): tensor for key, tensor in load_file(path).items()}
    save_file(file, path)
    adapter_config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    model_shapes = shapes(trained.state_dict())

    found = infer_remapping(shapes(file), model_shapes, adapter_config=adapter_config)
    assert len(found.mapping) == len(file)
    assert found.mapping == {
        rename(key): goal
        for key, goal in infer_remapping(shapes(load_saved(trained, tmp_path)), model_shapes).mapping.items()
    }
    loaded = PeftModel.from_pretrained(llama(1), tmp_path, key_mapping=found.as_key_mapping())
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[key]), key


def load_saved(model: Any, folder: Path) -> dict[str, Any]:
    """What PEFT writes for a model, under its own names."""
    from safetensors.torch import load_file

    model.save_pretrained(folder / "again")
    return dict(load_file(folder / "again" / "adapter_model.safetensors"))


def test_keys_that_peft_refuses_are_told() -> None:
    found = infer_remapping({"module.fc.weight": (2, 3)}, {"fc.weight": (2, 3)})
    with pytest.raises(ValueError, match="base_model"):
        found.as_key_mapping("peft")


def test_nothing_to_do_is_an_empty_mapping() -> None:
    assert infer_remapping({"fc.weight": (2, 3)}, {"fc.weight": (2, 3)}).as_key_mapping() == {}
