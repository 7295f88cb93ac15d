"""What pytest-lora-ckpt has to know of this project: four fixtures, each of which replaces the plugin's own.

The imports stand inside, so that a run without --lora-ckpt does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peft import PeftModel
    from torch import Tensor


@pytest.fixture(scope="session")
def lora_model() -> Any:
    """A model to receive the adapter's weights: its keys and shapes are compared with those of the file."""
    from assistant import load_base, lora_config
    from peft import get_peft_model

    return get_peft_model(load_base(), lora_config())


@pytest.fixture(scope="session")
def lora_loader() -> Callable[[Path], PeftModel]:
    """The code that loads the adapter in production: what it returns is run."""
    from assistant import load_for_serving

    return load_for_serving


@pytest.fixture(scope="session")
def lora_base_model() -> Path:
    """The base model's weights: the adapter must leave them as they are."""
    from assistant import BASE

    return BASE


@pytest.fixture(scope="session")
def lora_inputs() -> dict[str, Tensor]:
    """Arguments for `forward` and for `generate`: a prompt of four tokens."""
    import torch

    tokens = torch.tensor([[1, 17, 99, 4]])
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


@pytest.fixture(scope="session")
def served_model(lora_ckpt: Path, lora_loader: Callable[[Path], PeftModel]) -> PeftModel:
    """The model as it is served, for this project's own tests."""
    return lora_loader(lora_ckpt)
