from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import pytest

import pytest_lora_ckpt.replicas as package

MODULES = [f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules(package.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name: str) -> None:
    module = import_module(name)
    names = {public: getattr(package, public) for public in package.__all__}
    result = doctest.testmod(module, extraglobs=names)
    assert result.failed == 0
