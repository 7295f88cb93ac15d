"""The healthy checkpoints, written once; no test changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.helpers.fault_samples import save_samples

    return save_samples(tmp_path_factory.mktemp("healthy"))


@pytest.fixture(scope="session")
def reach(samples: dict[str, Path]) -> Callable[[str], dict[str, list[str]]]:
    """Layout -> the samples of it that a fault befalls."""
    from pytest_lora_ckpt.faults import faults_for

    # Trained weights that lie elsewhere go with a checkpoint of any layout.
    elsewhere = [samples["peft_adapter-companion"] / "non_lora_trainables.bin"]
    befallen = {
        name: {fault.name for fault in faults_for(path, () if name == "transformers" else elsewhere)}
        for name, path in samples.items()
    }

    def of(fault: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in samples:
            if fault in befallen[name]:
                found.setdefault(name.partition("-")[0], []).append(name)
        return found

    return of
