"""Healthy checkpoints to damage, written once; no test changes them."""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer in a file of torch."""
    from tests.helpers.scored_loaders import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny") / "run-1")


@pytest.fixture(scope="session")
def lightning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replica by Lightning's trainer, with a manifest, and the adapter beside as in the guide."""
    pytest.importorskip("lightning")
    from pytest_lora_ckpt.manifest import LoraManifestCallback
    from pytest_lora_ckpt.replicas import PanoramaVLM, save_adapter, save_stage_checkpoint

    path = save_stage_checkpoint(tmp_path_factory.mktemp("scored") / "run-2", callbacks=[LoraManifestCallback()])
    save_adapter(PanoramaVLM.from_checkpoint(path), path.parent / "lora_weights")
    return path


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def base() -> Callable[[], Any]:
    """Builds a tiny Llama, always the same."""

    def build() -> Any:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            # At 0.02, transformers' own, no layer of a tiny random model would be seen to matter.
            return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.2)).eval()

    return build


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Callable[[], Any]) -> Path:
    """A PEFT adapter for it, as after training, with a manifest."""
    import torch
    from peft import LoraConfig, get_peft_model

    from pytest_lora_ckpt.manifest import write_manifest

    folder = tmp_path_factory.mktemp("scored") / "adapter-3"
    with torch.random.fork_rng(), torch.no_grad(), _quietly():
        torch.manual_seed(1)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(base(), config)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
        model.save_pretrained(folder)
        write_manifest(model, folder / "lora_manifest.json")
    return folder


@pytest.fixture(scope="session")
def from_pretrained(base: Callable[[], Any]) -> Callable[[Path], Any]:
    """Loads it as PEFT's documentation says."""

    def load_adapter(path: Path) -> Any:
        from peft import PeftModel

        return PeftModel.from_pretrained(base(), path)

    return load_adapter
