from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from pytest_lora_ckpt import open_checkpoint
from pytest_lora_ckpt.findings.copies import companion_findings
from pytest_lora_ckpt.findings.from_values import audit_values

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.results import Finding

Tensors = dict[str, torch.Tensor]


def adapter(layers: int = 3, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"model.layers.{n}.q_proj.lora_{factor}.default.weight": torch.randn(shape, generator=generator)
        for n in range(layers)
        for factor, shape in (("A", (2, 8)), ("B", (8, 2)))
    }


def audit(tensors: Tensors, folder: Path) -> tuple[Finding, ...]:
    torch.save(tensors, folder / "a.pt")
    checkpoint = open_checkpoint(folder / "a.pt")
    return audit_values(checkpoint.keys, checkpoint.read_bytes).findings


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_two_generations_of_one_adapter(prefix: str, tmp_path: Path) -> None:
    old, new = adapter(seed=1), adapter(seed=2)
    (found,) = audit({**new, **{f"{prefix}{key}": tensor for key, tensor in old.items()}}, tmp_path)
    assert (found.cause, found.severity) == ("duplicate-adapter", "error")
    assert set(found.keys) == {*new, *(f"{prefix}{key}" for key in old)}


def test_one_adapter_under_two_names_is_no_contradiction(tmp_path: Path) -> None:
    tensors = adapter()
    for other in (tensors, {key: tensor.clone() for key, tensor in tensors.items()}):
        assert audit({**tensors, **{f"module.{key}": tensor for key, tensor in other.items()}}, tmp_path) == ()


def test_two_adapters_of_other_names_are_two_adapters(tmp_path: Path) -> None:
    old = {key.replace(".default.", ".old."): tensor for key, tensor in adapter(seed=1).items()}
    assert audit({**adapter(seed=2), **old}, tmp_path) == ()


def test_layers_with_the_tensors_of_another_layer(tmp_path: Path) -> None:
    tensors = adapter(4)
    assert audit(tensors, tmp_path) == ()
    tensors["model.layers.3.q_proj.lora_B.default.weight"] = tensors[
        "model.layers.1.q_proj.lora_B.default.weight"
    ].clone()
    (found,) = audit(tensors, tmp_path)
    assert (found.cause, found.severity) == ("layers-identical", "error")
    assert found.keys == tuple(f"model.layers.{n}.q_proj.lora_B.default.weight" for n in (1, 3))


def repeat(tensors: Tensors, value: torch.Tensor | None = None, *, clone: bool = True) -> Tensors:
    """Give every layer the lora_B of the first, or this one."""
    first = tensors["model.layers.0.q_proj.lora_B.default.weight"] if value is None else value
    return {key: (first.clone() if clone else first) if "lora_B" in key else tensor for key, tensor in tensors.items()}


def test_what_may_be_the_same_in_several_layers(tmp_path: Path) -> None:
    tensors = adapter()
    assert [each.cause for each in audit(repeat(tensors), tmp_path)] == ["layers-identical"]
    assert audit(repeat(tensors, torch.ones(8, 2)), tmp_path) == ()
    assert audit(repeat(tensors, torch.tensor([[1.0, 2.0]])), tmp_path) == ()
    assert audit(repeat(tensors, clone=False), tmp_path) == ()
    shared = {key.replace("q_proj", "shared_transformer.q_proj"): tensor for key, tensor in repeat(tensors).items()}
    assert audit(shared, tmp_path) == ()
    assert [each.cause for each in audit(repeat(tensors, torch.zeros(8, 2)), tmp_path)] == ["adapter-all-zero"]
    one = {key.replace("layers.", "layer_"): tensor for key, tensor in repeat(tensors).items()}
    assert audit(one, tmp_path) == ()


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Tensors]:
    """A state dict with its adapter inside, and the same adapter in `lora_weights/` beside it."""
    from tests.helpers.adapter_samples import llama, wear

    model = wear(llama(), use_dora=True)
    model.save_pretrained(tmp_path / "lora_weights")
    state = {f"model.language_model.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt", state


def test_the_directory_beside_holds_the_same_adapter(trained: tuple[Path, Tensors]) -> None:
    path, state = trained
    assert list(companion_findings(open_checkpoint(path))) == []
    half = {key: tensor.bfloat16() for key, tensor in state.items()}
    torch.save({"state_dict": half}, path)
    assert list(companion_findings(open_checkpoint(path))) == []
    base = {key: tensor for key, tensor in state.items() if "lora_" not in key}
    torch.save({"state_dict": base}, path)
    assert list(companion_findings(open_checkpoint(path))) == []


def test_the_directory_beside_holds_another_adapter(trained: tuple[Path, Tensors]) -> None:
    path, state = trained
    odd = next(key for key in state if "layers.1.self_attn.v_proj.lora_B" in key)
    state[odd] = state[odd] + 1
    torch.save({"state_dict": state}, path)
    (found,) = companion_findings(open_checkpoint(path))
    assert (found.cause, found.severity, found.keys) == ("adapters-disagree", "warning", (odd,))
    assert "1 of 18 adapter tensors of last.ckpt" in found.message
    strided = {key: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for key, tensor in state.items()}
    torch.save({"state_dict": strided}, path)
    assert [each.keys for each in companion_findings(open_checkpoint(path))] == [(odd,)]
