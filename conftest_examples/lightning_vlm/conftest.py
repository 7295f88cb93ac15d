"""What pytest-lora-ckpt has to know of this project, beside the `lora_*` lines in pyproject.toml.

The loader is not here but there, so that `--lora-loader` on the command line can exchange it. A fixture does the same,
and wins over both; write one where loading needs more than the path:

    @pytest.fixture(scope="session")
    def lora_loader():
        return lambda path: from_checkpoint(path, device="cuda")

The report holds the checkpoint against the model that the loader returns. To hold it against a model that no loader has
touched, give that one:

    @pytest.fixture(scope="session")
    def lora_model():
        return PanoramaChat(VLMConfig(), with_lora=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from panorama.model import PanoramaChat
    from torch import Tensor


@pytest.fixture(scope="session")
def lora_inputs() -> dict[str, Tensor]:
    """Arguments for `forward` and for `generate`: an image and a prompt of three tokens."""
    # Imported here, so that a run without --lora-ckpt does not wait for torch.
    import torch

    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(1, 3, 64, 64, generator=generator),
        "input_ids": torch.tensor([[5, 23, 42]]),
    }


@pytest.fixture(scope="session")
def served_model(lora_ckpt: Path, lora_loader: Callable[[Path], PanoramaChat]) -> PanoramaChat:
    """The model as it is served, for this project's own tests."""
    return lora_loader(lora_ckpt)
