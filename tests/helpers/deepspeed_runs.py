"""Starts the two processes in which DeepSpeed writes its checkpoints, and the rows of it in the shared test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers.layout_samples import sample

ROOT = Path(__file__).parents[2]
RANKS = 2
PATIENCE = 1200  # Seconds: the first run compiles a helper.


def run_ranks(what: str, folder: Path) -> None:
    """Let two processes run the writer; the helper that it compiles is kept where TORCH_EXTENSIONS_DIR says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "DS_ACCELERATOR": "cpu",
        "TORCH_EXTENSIONS_DIR": os.environ.get("TORCH_EXTENSIONS_DIR", str(folder / "extensions")),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),  # It starts ninja.
        "PYTHONPATH": str(ROOT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.deepspeed_writer", what, str(folder)]
    logs = [folder / f"rank{rank}.log" for rank in range(RANKS)]
    processes = []
    for rank, log in enumerate(logs):
        own = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("wb") as out:
            processes.append(subprocess.Popen(command, env=own, stdout=out, stderr=subprocess.STDOUT, cwd=folder))
    try:
        ends = [each.wait(PATIENCE) for each in processes]
    finally:
        for each in processes:
            each.kill()
    assert not any(ends), "\n".join(log.read_text("utf-8", "replace")[-3000:] for log in logs)


@sample("deepspeed", needs="deepspeed")
def deepspeed_zero_1(model: Any, folder: Path) -> Path:
    run_ranks("1", folder)
    return folder


@sample("deepspeed", needs="deepspeed")
def deepspeed_zero_3(model: Any, folder: Path) -> Path:
    run_ranks("3", folder)
    return folder / "global_step0"
