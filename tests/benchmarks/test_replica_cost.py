"""Build and save a tiny replica, once the libraries are imported. Target: under 1 s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.replicas.names import LAYOUTS

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("layout", LAYOUTS)
def test_build_and_save(benchmark: BenchmarkFixture, tmp_path: Path, layout: str) -> None:
    from pytest_lora_ckpt.replicas import save_replica

    save_replica(tmp_path, layout=layout)
    path = benchmark.pedantic(save_replica, (tmp_path,), {"layout": layout}, rounds=5)
    assert path.exists()
