"""The real wrappers' names: a wrapped PEFT model's state dict is mapped onto the unwrapped one's, key by key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.keys import infer_remapping, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# torch imports its own deprecated modules when it compiles.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=False,
    )
    lora = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], modules_to_save=["lm_head"])
    return get_peft_model(Qwen3ForCausalLM(config), lora)


@pytest.fixture
def gloo(tmp_path: Path) -> Iterator[None]:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def wrapped_names(wrapped: Any) -> dict[str, tuple[int, ...]]:
    """Parameters' names, which keep every wrapper; some wrappers hide themselves in the state dict."""
    return {name: tuple(parameter.shape) for name, parameter in wrapped.named_parameters()}


def assert_undone(wrapped: dict[str, tuple[int, ...]], plain: dict[str, tuple[int, ...]], words: set[str]) -> None:
    assert {word for key in wrapped for word in parse_key(key).wrappers} == words
    found = infer_remapping(wrapped, plain)
    truth = {key: ".".join(s for s in key.split(".") if s not in words) for key in wrapped}
    assert found.mapping == truth
    assert {key: found.apply(key) for key in truth} == truth
    back = infer_remapping(plain, wrapped)
    assert back.mapping == {goal: key for key, goal in truth.items()}


@pytest.mark.slow
def test_torch_compile(model: Any) -> None:
    import torch

    assert_undone(shapes(torch.compile(model).state_dict()), shapes(model.state_dict()), {"_orig_mod"})


def test_compiled_layers(model: Any) -> None:
    """torch.compile of each layer puts its prefix in the middle."""
    import torch
    from torch import nn

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(torch.compile(layer) for layer in model.base_model.model.model.layers)

    plain = {
        f"layers.{key.split('layers.', 1)[1]}": shape
        for key, shape in shapes(model.state_dict()).items()
        if "layers." in key
    }
    assert_undone(shapes(Layers().state_dict()), plain, {"_orig_mod"})


def test_data_parallel(model: Any) -> None:
    from torch import nn

    assert_undone(shapes(nn.DataParallel(model).state_dict()), shapes(model.state_dict()), {"module"})


@pytest.mark.usefixtures("gloo")
def test_distributed_data_parallel_of_a_compiled_model(model: Any) -> None:
    import torch
    from torch.nn.parallel import DistributedDataParallel

    both = DistributedDataParallel(torch.compile(model))
    assert_undone(shapes(both.state_dict()), shapes(model.state_dict()), {"module", "_orig_mod"})


def test_activation_checkpointing(model: Any) -> None:
    from copy import deepcopy

    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    plain = wrapped_names(model)
    copy = deepcopy(model)
    layers = copy.base_model.model.model.layers
    for at, layer in enumerate(layers):
        layers[at] = checkpoint_wrapper(layer)
    layers[0].self_attn = checkpoint_wrapper(layers[0].self_attn)
    names = {
        # `named_parameters` of the wrapper hides its prefix; the modules' own names do not.
        f"{path}.{name}" if path else name: tuple(parameter.shape)
        for path, module in copy.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    }
    assert_undone(names, plain, {"_checkpoint_wrapped_module"})
    assert infer_remapping(shapes(copy.state_dict()), shapes(model.state_dict())).rules == ()


@pytest.mark.usefixtures("gloo")
def test_fabric_in_front_of_distributed_data_parallel(model: Any) -> None:
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    class Fabric(nn.Module):
        """Registers what it wraps as Lightning Fabric's `_FabricModule` does."""

        def __init__(self) -> None:
            super().__init__()
            self._forward_module = DistributedDataParallel(model)

    assert_undone(shapes(Fabric().state_dict()), shapes(model.state_dict()), {"module", "_forward_module"})


def test_what_peft_saves_is_what_its_loader_wants(model: Any) -> None:
    from peft import get_peft_model_state_dict

    saved = shapes(get_peft_model_state_dict(model))
    found = infer_remapping(saved, shapes(model.state_dict()), adapter_config={"modules_to_save": ["lm_head"]})
    assert len(found.mapping) == len(saved)
    assert {rule.by for rule in found.rules} == {"peft"}
    assert all(".default." in goal for goal in found.mapping.values())


def test_unloaded_model_takes_the_base_weights(model: Any) -> None:
    from copy import deepcopy

    plain = shapes(deepcopy(model).unload().state_dict())
    found = infer_remapping(shapes(model.state_dict()), plain)
    assert set(found.mapping.values()) == set(plain)
    assert found.mapping["base_model.model.lm_head.modules_to_save.default.weight"] == "lm_head.weight"
