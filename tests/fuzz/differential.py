"""What this package reads, against what `torch.load` and safetensors read: the same, or it refuses.

Each changed file is opened here, then by `torch.load(weights_only=True)`, without and with `mmap=True`, or by
safetensors' `load_file`. They must give the same keys, shapes, dtypes and bytes; or this package must refuse. Where
torch refuses what is read here, that is counted. A changed file can end torch's process: each
batch runs in a process of its own.

    python -m tests.fuzz.differential --number 100000 --seed 1 --save found/
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from pytest_lora_ckpt.checkpoint import CheckpointError, open_checkpoint
from tests.fuzz.mutations import mutation, seeds

if TYPE_CHECKING:
    from pytest_lora_ckpt import Checkpoint

BATCH = 500
SECONDS = 20  # For one file: torch is to be stopped, not waited for.
MEMORY = 8 << 30


@dataclass
class Outcome:
    """How many changed files ended how, and which were read differently."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    differences: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0


def judged(path: Path, kind: str) -> tuple[str, str]:
    """Say how one file ended, and why: `same`, `different`, or `refused` by both, or `here` or `there` alone."""
    ours, reason = opened(path)
    theirs: list[tuple[str, object]] = []
    ways = ("safetensors",) if kind == "safetensors" else ("plain", "mmap") if kind == "zip.pt" else ("plain",)
    for way in ways:
        loaded, why = loaded_by_torch(path, way)
        if loaded is not None:
            theirs.append((way, loaded))
        elif way == ways[0]:
            refusal = why
    if ours is None:
        return ("refused here", reason) if theirs else ("refused", reason)
    if not theirs or theirs[0][0] != ways[0]:
        return "refused there", refusal
    for way, loaded in theirs:
        if difference := compared(ours, loaded):
            return "different", f"{way}: {difference}"
    return "same", ""


def opened(path: Path) -> tuple[Checkpoint | None, str]:
    try:
        checkpoint = open_checkpoint(path)
        for key in checkpoint.keys:
            checkpoint.read(key)
    except CheckpointError as error:
        return None, f"{error.problem}: {re.sub(r'[0-9]+|record [^ ]+|storage .* of', 'N', error.found)[:60]}"
    return checkpoint, ""


def loaded_by_torch(path: Path, way: str) -> tuple[object | None, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if way == "safetensors":
                return safetensors.torch.load_file(path), ""
            return (torch.load(path, weights_only=True, mmap=way == "mmap"),), ""
    except Exception as error:  # noqa: BLE001 - Whatever a broken file makes torch raise.
        return None, f"{type(error).__name__}: {re.sub('[0-9]+', 'N', str(error))[:60]}"


def compared(checkpoint: Checkpoint, loaded: object) -> str:
    """Return how what was loaded differs from the checkpoint; nothing if it does not."""
    whole = loaded[0] if isinstance(loaded, tuple) else loaded
    candidates = [whole, *whole.values()] if isinstance(whole, dict) else [whole]
    answers = [difference(checkpoint, each) for each in candidates if isinstance(each, dict)]
    return "" if "" in answers else "; ".join(answers[:2]) or f"a {type(whole).__name__}"


def difference(checkpoint: Checkpoint, state: dict[object, object]) -> str:
    plain = {
        key: value
        for key, value in state.items()
        if isinstance(key, str) and key not in checkpoint.opaque_keys and isinstance(value, torch.Tensor)
    }
    if plain.keys() != checkpoint.keys.keys():
        return f"keys {sorted(plain.keys() ^ checkpoint.keys.keys())[:3]}"
    for key, tensor in plain.items():
        info, read = checkpoint.keys[key], checkpoint.read(key)
        if (tuple(tensor.shape), str(tensor.dtype)) != (info.shape, f"torch.{info.dtype}"):
            return f"{key}: {tuple(tensor.shape)} {tensor.dtype}, not {info.shape} {info.dtype}"
        if tensor.device.type != "cpu":
            return f"device of {key}"
        one, other = (each.detach().contiguous().flatten().view(torch.uint8) for each in (tensor, read))
        if not torch.equal(one, other):
            return f"bytes of {key}"
    return ""


def changed_file(seed: int, number: int, files: dict[str, list[bytes]]) -> tuple[str, bytes]:
    return mutation(Random(f"{seed}:{number}"), files)


def batch(seed: int, numbers: range, folder: Path, report: int) -> None:
    """Judge a batch of files, and write a line for each: the process may end at any of them."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files = seeds()
    with os.fdopen(report, "w", buffering=1) as lines:
        for number in numbers:
            kind, data = changed_file(seed, number, files)
            path = folder / ("a.safetensors" if kind == "safetensors" else "a.pt")
            path.write_bytes(data)
            signal.alarm(SECONDS)
            try:
                lines.write(json.dumps(["at", number, opened(path)[0] is not None]) + "\n")
                answer, why = judged(path, kind)
            except BaseException as error:  # noqa: BLE001 - Of ours: it must not be lost.
                answer, why = "fault", "".join(traceback.format_exception_only(error))[:300]
            lines.write(json.dumps([f"{kind}: {answer}", number, why]) + "\n")
            signal.alarm(0)


def run(seed: int, first: int, number: int, folder: Path, seconds: float = math.inf) -> Outcome:
    """Judge so many changed files in processes of their own, or as many as can be begun in so many seconds."""
    outcome = Outcome()
    at, last, until = first, first + number, time.monotonic() + seconds
    while at < last and time.monotonic() < until:
        numbers = range(at, min(at + BATCH, last))
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(reader)
                batch(seed, numbers, folder, writer)
            except BaseException:  # noqa: BLE001 - It must not run on as a second parent.
                traceback.print_exc()
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as lines:
            at = note(outcome, [json.loads(line) for line in lines], numbers)
        _, _, usage = os.wait4(child, 0)
        outcome.seconds += usage.ru_utime + usage.ru_stime
    return outcome


def note(outcome: Outcome, lines: list[list[object]], numbers: range) -> int:
    """Count a batch's lines, and return which file comes next."""
    begun, done = None, 0
    for answer, number, why in lines:
        if answer == "at":
            begun = (number, why)
            continue
        begun, done = None, done + 1
        outcome.counts[str(answer)] += 1
        kind, _, how = str(answer).partition(": ")
        if how.startswith("refused"):
            outcome.refused[f"{kind}, {how}: {why}"] += 1
        if how in {"different", "fault"}:
            outcome.differences.append((int(str(number)), f"{answer}: {why}"))
    if begun is None:
        if done != len(numbers):
            raise RuntimeError(f"of {len(numbers)} files {done} were judged")
        return numbers.stop
    number, was_read = begun
    outcome.counts["torch's process ended" + (", read here" if was_read else ", refused here")] += 1
    if was_read:
        outcome.differences.append((int(str(number)), "torch's process ended"))
    return int(str(number)) + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long")
    parser.add_argument("--shown", type=int, default=150, help="how many reasons for a refusal to show")
    parser.add_argument("--save", type=Path, help="a directory for the files that were read differently")
    options = parser.parse_args()
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(options.seed, options.first, options.number, Path(folder), options.seconds)
    lines = [f"{outcome.counts.total()} changed files, seed {options.seed}, torch {torch.__version__}"]
    lines.append(f"{outcome.seconds:.0f} s of CPU, {time.time() - begun:.0f} s in all")
    for counter in (outcome.counts, outcome.refused):
        lines += ["", *(f"{count:7} {what}" for what, count in counter.most_common(options.shown))]
    lines += ["", *(f"DIFFERENT {number} {what}" for number, what in outcome.differences)]
    sys.stdout.write("\n".join(lines) + "\n")
    files = seeds()
    for number, _ in outcome.differences:
        kind, data = changed_file(options.seed, number, files)
        if options.save:
            options.save.mkdir(exist_ok=True)
            name = f"{options.seed}-{number}-{hashlib.sha256(data).hexdigest()[:8]}.{kind}"
            (options.save / name).write_bytes(data)
    return bool(outcome.differences)


if __name__ == "__main__":
    sys.exit(main())
