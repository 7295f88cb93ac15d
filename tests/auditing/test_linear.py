"""The cost of an audit grows with the size of its files: twice the names and twice the keys are twice the calls.

Calls are counted, not timed. What is written in C and loops inside one call has a test of its own below: with lists
as long as these, a loop over names and modules would not come to an end.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.checkpoint.hyperparameters import lora_config_in
from pytest_lora_ckpt.findings.from_config import config_findings, intruder_findings
from pytest_lora_ckpt.manifest.differences import config_differences
from pytest_lora_ckpt.models import as_key_set
from pytest_lora_ckpt.tensors import KeySet, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Shapes = dict[str, tuple[int, ...]]


def adapter(layers: int) -> Shapes:
    """Keys of an adapter on one module of each layer."""
    return {
        f"base_model.model.layers.{layer}.q_proj.lora_{factor}.weight": shape
        for layer in range(layers)
        for factor, shape in (("A", (2, 4)), ("B", (4, 2)))
    }


def one_of_each(number: int) -> Shapes:
    """Keys that are alike in nothing but their form."""
    return {f"base_model.model.w{at}x.lora_A.weight": (2, 4) for at in range(number)}


CONFIGS: dict[str, Callable[[int], dict[str, Any]]] = {
    "names of modules": lambda n: {"target_modules": [f"m{at}" for at in range(n)]},
    "paths of modules": lambda n: {"target_modules": [f"layers.{at}.q_proj" for at in range(n)]},
    "excluded modules": lambda n: {"exclude_modules": [f"layers.{at}.k_proj" for at in range(n)]},
    "ranks by name": lambda n: {"rank_pattern": {f"layers.{at}.q_proj": 2 for at in range(n)}},
    "alphas by name": lambda n: {"alpha_pattern": {f"layers.{at}.q_proj": 2 for at in range(n)}},
    "modules to save": lambda n: {"modules_to_save": [f"head{at}" for at in range(n)]},
    "layers": lambda n: {"layers_to_transform": list(range(n))},
    "parameters": lambda n: {"target_parameters": [f"experts.{at}.w" for at in range(n)]},
    "tokens": lambda n: {"trainable_token_indices": {f"e{at}": [at] for at in range(n)}},
    "replicated layers": lambda n: {"layer_replication": [[0, 2]] * n},
    "fields that are not known": lambda n: {f"field{at}": at for at in range(n)},
    "broken members": lambda n: {"target_modules": ["q_proj", *range(n)]},
}


def manifest(tensors: Shapes, **further: Any) -> dict[str, Any]:
    entries = {key: {"shape": list(shape), "dtype": "float32", "trained": True} for key, shape in tensors.items()}
    return {"schema": 1, "tensors": entries, **further}


def chain(number: int) -> dict[str, Any]:
    names = [f"a{at}.weight" for at in range(number)]
    tensors = {**adapter(4), **dict.fromkeys(names, (2,))}
    return manifest(tensors, aliases={name: [after] for name, after in pairwise(names)})


MANIFESTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "a model": lambda n: manifest(adapter(n)),
    "tensors of all forms": lambda n: manifest(one_of_each(n)),
    "aliases in a chain": chain,
    "scalings": lambda n: manifest(adapter(4), scalings={f"a{at}": 1.0 for at in range(n)}),
    "adapters": lambda n: manifest(
        adapter(4), adapters={f"a{at}": {"r": 2} for at in range(n)}, active=[f"a{at}" for at in range(n)]
    ),
}


def write(folder: Path, shapes: Shapes, config: dict[str, Any] | None, written: dict[str, Any] | None = None) -> Path:
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    if written is not None:
        (folder / "lora_manifest.json").write_text(json.dumps(written))
    return folder


def calls(path: Path) -> int:
    """Audit, and count the calls of functions, those written in C too."""
    made = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal made
        made += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        audit(path)
    finally:
        sys.setprofile(None)
    return made


def growth(tmp_path: Path, build: Callable[[Path, int], Path], few: int = 200) -> float:
    """How many times the calls of an audit grow from twice as many keys and names to four times as many."""
    nothing, twice, again = (calls(build(tmp_path / str(number), number)) for number in (few, 2 * few, 4 * few))
    return (again - twice) / (twice - nothing)


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is imported once counts for nothing."""
    config = {"layers_to_transform": [0], "modules_to_save": ["head"]}
    audit(write(tmp_path_factory.mktemp("warm") / "a", adapter(2), config, manifest(adapter(2))))


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(tmp_path: Path, name: str) -> None:
    assert growth(tmp_path, lambda folder, number: write(folder, adapter(number), CONFIGS[name](number))) < 2.6


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(tmp_path: Path, name: str) -> None:
    assert growth(tmp_path, lambda folder, number: write(folder, adapter(4), None, MANIFESTS[name](number))) < 2.6


@pytest.mark.parametrize("keys", [adapter, one_of_each])
def test_keys(tmp_path: Path, keys: Callable[[int], Shapes]) -> None:
    assert growth(tmp_path, lambda folder, number: write(folder, keys(number), None)) < 2.6


@pytest.mark.parametrize("name", CONFIGS)
def test_very_long_lists_come_to_an_end(name: str) -> None:
    keys = as_key_set({**adapter(2000), **{f"base_model.model.x{at}.weight": (2, 2) for at in range(4000)}})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **CONFIGS[name](100_000)}
    config_findings(config, keys)
    intruder_findings(config, keys)


def test_very_many_aliases_come_to_an_end() -> None:
    names = [f"a{at}" for at in range(100_000)]
    keys = KeySet(dict.fromkeys(names, TensorInfo((2,))), pairwise(names))
    assert keys.aliases == (tuple(sorted(names)),)
    keys = KeySet(dict.fromkeys(names, TensorInfo((2,))), zip(names[::2], names[1::2], strict=True))
    assert len(keys.aliases) == 50_000
    keys = KeySet(dict.fromkeys(names, TensorInfo((2,))), [(names[0], name) for name in names])
    assert len(keys.aliases) == 1


def test_very_long_lists_of_two_configs_are_compared() -> None:
    before = {"target_modules": [f"a{at}" for at in range(100_000)]}
    after = {"target_modules": [f"b{at}" for at in range(100_000)]}
    [found] = config_differences(before, after)
    assert "target_modules lacks a0" in found.message


def test_very_many_settings_of_a_run() -> None:
    settings = {f"g{at}": {"lora_r": at + 1, "lora_alpha": 2} for at in range(50_000)}
    assert 1 <= len(lora_config_in(settings)) <= 100
    shared = [f"m{at}" for at in range(50_000)]
    assert lora_config_in({f"g{at}_lora_target_modules": shared for at in range(50_000)}) == []
