from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pytest_lora_ckpt import KeySet, TensorInfo, model_keys
from pytest_lora_ckpt.models import as_key_set, is_module, is_tensor
from pytest_lora_ckpt.wording import type_name


def _tied(device: str = "cpu") -> torch.nn.Module:
    with torch.device(device):
        net = torch.nn.ModuleDict({"embed": torch.nn.Embedding(8, 4), "head": torch.nn.Linear(4, 8, bias=False)})
    net["head"].weight = net["embed"].weight
    net["twice"] = net["head"]
    return net


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_keys_shapes_and_aliases(device: str) -> None:
    net = _tied(device)
    keys = model_keys(net)
    assert list(keys) == list(net.state_dict())
    assert keys["embed.weight"] == keys["head.weight"]
    assert keys["embed.weight"].shape == (8, 4)
    assert keys["embed.weight"].dtype == "float32"
    assert keys["embed.weight"].nbytes == 128
    assert keys.aliases == (("embed.weight", "head.weight", "twice.weight"),)
    assert keys.nbytes == 128


def test_views_of_one_storage_are_no_aliases() -> None:
    net = torch.nn.Module()
    whole = torch.zeros(4, 2)
    net.register_buffer("a", whole[:2])
    net.register_buffer("b", whole[2:])
    assert model_keys(net).aliases == ()


def test_extra_state_is_no_key() -> None:
    class WithExtra(torch.nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 1}

        def set_extra_state(self, state: object) -> None: ...

    assert list(model_keys(WithExtra(2, 2))) == ["weight", "bias"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int8])
def test_dtypes(dtype: torch.dtype) -> None:
    net = torch.nn.Module()
    net.register_buffer("x", torch.zeros(3, dtype=dtype))
    info = model_keys(net)["x"]
    assert f"torch.{info.dtype}" == str(dtype)
    assert info.nbytes == 3 * dtype.itemsize


def test_lazy_parameters_have_no_shape_yet() -> None:
    net = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.Linear(3, 2), torch.nn.LazyBatchNorm1d())
    keys = model_keys(net)
    assert list(keys) == ["1.weight", "1.bias", "2.num_batches_tracked"]
    assert list(as_key_set(net.state_dict(keep_vars=True))) == list(keys)
    net(torch.zeros(4, 5))
    assert model_keys(net)["0.weight"].shape == (3, 5)


def test_plain_mappings_and_tensors() -> None:
    keys = as_key_set({"a": (2, 3), "b": [4], "c": TensorInfo((1,)), "d": torch.zeros(5)}, aliases=[("a", "b")])
    assert keys.shapes == {"a": (2, 3), "b": (4,), "c": (1,), "d": (5,)}
    assert keys.aliases == (("a", "b"),)


def test_a_key_set_keeps_its_aliases_and_takes_more() -> None:
    keys = KeySet({"a": TensorInfo((1,)), "b": TensorInfo((1,)), "c": TensorInfo((1,))}, [("a", "b")])
    assert as_key_set(keys) is keys
    assert as_key_set(keys, [("b", "c")]).aliases == (("a", "b", "c"),)


@pytest.mark.parametrize("shape", ["ab", 3, None, (1, "x")])
def test_a_shape_that_is_none(shape: object) -> None:
    with pytest.raises(TypeError, match="shape of 'a'"):
        as_key_set({"a": shape})


def test_no_module() -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, and was given a list of 2"):
        model_keys([1, 2])  # type: ignore[arg-type]
    assert type_name(torch.nn.Linear(1, 1)) == "a torch.nn.modules.linear.Linear"
    assert is_module(_tied())
    assert not is_module(torch.zeros(1))
    assert is_tensor(torch.nn.Parameter(torch.zeros(1)))


def test_mappings_need_no_torch() -> None:
    code = (
        "import sys; from pytest_lora_ckpt import compare; compare({'a': (1,)}, {'a': (1,)}); "
        "assert not {'torch', 'numpy', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
