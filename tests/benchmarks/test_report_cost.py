"""The HTML report: at most 1 s and 1 MB for the guide's 1,335 keys, 5 s and 5 MB for 100,000; CPU time of this process.

Ten thousand modules with an update each are drawn as ten thousand cells, twice.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt import AuditResult, compare
from pytest_lora_ckpt.auditing.picture import draw_names
from pytest_lora_ckpt.auditing.render import write_report
from pytest_lora_ckpt.auditing.result import CheckpointFacts
from tests.helpers.report_samples import many_modules

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture


def compared(layers: int, per_layer: int) -> AuditResult:
    """A checkpoint whose keys all need a renaming, and of which each twentieth is lost."""
    names = (f"layers.{n}.block{at % 8}.proj{at}" for n in range(layers) for at in range(per_layer))
    model = {f"{name}.lora_{half}.default.weight": (2, 2) for name in names for half in "AB"}
    held = {f"model.{key}": shape for at, (key, shape) in enumerate(model.items()) if at % 20}
    report = compare(held, model)
    result = AuditResult.from_dict({**report.to_dict(), "checkpoint": {"path": "a.ckpt", "keys": len(held)}})
    return dataclasses.replace(result, picture=draw_names(report))


def guide() -> AuditResult:
    from pytest_lora_ckpt.replicas import make_panorama_vlm

    model = {key: tuple(tensor.shape) for key, tensor in make_panorama_vlm(scale="guide").state_dict().items()}
    report = compare({f"model.{key}": shape for key, shape in model.items()}, model)
    checkpoint = CheckpointFacts("a.ckpt", "lightning", "torch zip", len(model), 1)
    picture = draw_names(report)
    return dataclasses.replace(
        AuditResult.from_dict({**report.to_dict(), "checkpoint": {"path": "a"}}), checkpoint=checkpoint, picture=picture
    )


@pytest.mark.parametrize(
    ("make", "seconds", "megabytes"),
    [(guide, 1.0, 1.0), (lambda: compared(100, 500), 5.0, 5.0), (many_modules, 5.0, 5.0)],
    ids=["1335 keys", "100000 keys", "10000 modules"],
)
def test_a_report_is_small_and_soon_there(
    make: Callable[[], AuditResult], seconds: float, megabytes: float, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    result, path = make(), tmp_path / "report.html"

    def write() -> float:
        begin = time.process_time()
        write_report(path, [result])
        return time.process_time() - begin

    took, size = benchmark.pedantic(write, rounds=1), path.stat().st_size / 1e6
    print(f"\n{took:.2f} s, {size:.2f} MB")  # noqa: T201
    assert took < seconds
    assert size < megabytes
