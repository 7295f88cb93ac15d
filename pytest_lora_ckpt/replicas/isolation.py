"""Build, train and load without side effects: the state of torch and Python is restored afterwards."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIGHTNING_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Give the body a random state that depends on `seed` alone, float32, gradients, and `device` for new tensors.

    The caller's generator, default dtype, default device, grad and inference mode are restored afterwards.
    """
    dtype = torch.get_default_dtype()
    # No `torch.manual_seed`: it would reseed every CUDA device as well, and fork_rng() saves none of them here.
    with torch.inference_mode(mode=False), torch.enable_grad(), torch.random.fork_rng(devices=[]), torch.device(device):
        torch.default_generator.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Hide the warnings that PEFT causes by itself and that a caller cannot act on."""
    with warnings.catch_warnings():
        # PEFT reads the old name of a property that transformers 5 renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.* is deprecated", category=FutureWarning)
        # Qwen3 ties lm_head to embed_tokens; a replica with either as a target is meant to be like that.
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings", category=UserWarning)
        yield


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's loggers and advice in the body; undo what it does to `os.environ`."""
    from lightning.fabric.utilities.warnings import PossibleUserWarning  # an extra, absent for most

    environ = dict(os.environ)
    loggers = [logging.getLogger(name) for name in _LIGHTNING_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # Advice on speed and devices, for a run of one step.
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            # Lightning asks torch's pytrees a question that newer torch wants put otherwise.
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]
        os.environ.update(environ)
