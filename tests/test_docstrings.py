from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING

import pytest

import pytest_lora_ckpt

if TYPE_CHECKING:
    from types import ModuleType

MODULES = [
    module.name
    for module in pkgutil.walk_packages(pytest_lora_ckpt.__path__, "pytest_lora_ckpt.")
    if module.name != "pytest_lora_ckpt.replicas.training"
]

# Their examples write checkpoints, train, or draw.
HEAVY = (
    "pytest_lora_ckpt.manifest",
    "pytest_lora_ckpt.replicas",
    "pytest_lora_ckpt.scoring",
    "pytest_lora_ckpt.strategies",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.startswith(HEAVY) else []) for name in MODULES]
)
def test_the_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    package = importlib.import_module(".".join(name.split(".")[:2]))
    public = {shown: getattr(package, shown) for shown in getattr(package, "__all__", ())}
    result = doctest.testmod(module, extraglobs=public, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not result.failed


def _public(module: ModuleType) -> list[object]:
    return [getattr(module, name) for name in pytest_lora_ckpt.__all__ if inspect.isfunction(getattr(module, name))]


@pytest.mark.parametrize("function", _public(pytest_lora_ckpt), ids=lambda function: function.__name__)
def test_public_functions_tell_what_they_take_and_raise(function: object) -> None:
    text = inspect.getdoc(function) or ""
    assert "Args:" in text or not inspect.signature(function).parameters  # type: ignore[arg-type]
    assert "Raises:" in text or "never raises" in text.lower()
