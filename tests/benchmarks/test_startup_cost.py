"""What the plugin costs a run that does not ask for it. Target: at most 10 ms."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from tests.benchmarks.measuring import python

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
ROUNDS = 25


def test_plugin_installed_and_not_asked_for(
    benchmark: BenchmarkFixture, tmp_path: Path, environment: dict[str, str]
) -> None:
    without, installed = [], []
    for args in (PYTEST, (*PYTEST, "-p", "no:lora_ckpt")):
        python(*args, cwd=tmp_path, env=environment)
    for _ in range(ROUNDS):
        # In turn, so that whatever else the machine does befalls both.
        without.append(python(*PYTEST, "-p", "no:lora_ckpt", cwd=tmp_path, env=environment).seconds)
        installed.append(python(*PYTEST, cwd=tmp_path, env=environment).seconds)
    differences = [b - a for a, b in zip(without, installed, strict=True)]
    benchmark.extra_info |= {
        "without_ms": round(1000 * statistics.median(without), 1),
        "installed_ms": round(1000 * statistics.median(installed), 1),
        "difference_ms_median": round(1000 * statistics.median(differences), 1),
        "difference_ms_of_minima": round(1000 * (min(installed) - min(without)), 1),
        "ratio": round(statistics.median(installed) / statistics.median(without), 3),
    }
    print(f"\nstart-up: {benchmark.extra_info}")  # noqa: T201 - The result, with `-s`.
    benchmark.pedantic(python, PYTEST, {"cwd": tmp_path, "env": environment}, rounds=3)
