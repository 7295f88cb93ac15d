"""Changed checkpoints through the whole audit: nothing runs, hangs, fails of itself, or forges a line of the report.

What is changed: torch files of both formats and safetensors (`mutations`), the pickles of healthy and of hostile
checkpoints opcode by opcode, and every field of configs, headers, shard indexes and manifests.

    python -m tests.fuzz.audited --number 100000 --seed 1 --save found/
    python -m tests.fuzz.audited --seconds 60
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from tests.fuzz.mutations import cut_or_moved, flipped, mutation, other_pickle, seeds
from tests.hostile import watch
from tests.hostile.verdicts import MOST_CPU, MOST_MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH = 1000  # Files of one process.


@cache
def _files() -> dict[str, list[bytes]]:
    return seeds()


@cache
def pickles() -> list[bytes]:
    """Give the pickles of a healthy Lightning checkpoint, and of one hostile sample of each family."""
    import torch

    from tests.hostile import corpus, places
    from tests.hostile.sample import Kind

    buffer = io.BytesIO()
    torch.save(places.healthy(), buffer)
    found = [_pickle_of(buffer.getvalue())] * 20
    with tempfile.TemporaryDirectory() as folder:
        for number, family in enumerate(corpus.families()):
            if family.kind is Kind.CODE:
                inside = Path(folder) / f"{number}"
                inside.mkdir()
                path = family.samples[number % len(family.samples)].write(inside)
                found += [_pickle_of(path.read_bytes())] if path.is_file() else []
    return [each for each in found if each]


def _pickle_of(data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    except (zipfile.BadZipFile, StopIteration, OSError, NotImplementedError):
        return b""


@cache
def manifest() -> str:
    """Give a manifest as training writes it."""
    import torch

    from pytest_lora_ckpt import write_manifest

    model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2, bias=False), "q_proj": torch.nn.Linear(2, 2)})
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(model, Path(folder) / "m.json")
        return (Path(folder) / "m.json").read_text("utf-8")


def write(random: Random, folder: Path) -> Path:
    """Write one changed checkpoint into an empty directory, and return the path to audit."""
    kinds = (_file, _pickle, write_config, _header, write_index, _manifested, write_ranks)
    return random.choices(kinds, (3, 3, 3, 2, 1, 1, 1))[0](random, folder)


def _file(random: Random, folder: Path) -> Path:
    kind, data = mutation(random, _files())
    path = folder / ("a.safetensors" if kind == "safetensors" else "a.pt")
    path.write_bytes(data)
    return path


def _pickle(random: Random, folder: Path) -> Path:
    from tests.hostile.archives import checkpoint, written
    from tests.hostile.neighbours import write_adapter

    data = random.choice(pickles())
    for _ in range(random.choice((1, 1, 2, 4))):
        change = random.choice((other_pickle, other_pickle, flipped, cut_or_moved))
        try:
            data = change(random, data)
        except (ValueError, IndexError):  # It is broken already.
            data = flipped(random, data)
    place = random.randrange(4)
    if place == 0:
        write_adapter(folder)
        (folder / random.choice(("optimizer.pt", "training_args.bin", "projector.bin", "x.npy"))).write_bytes(data)
        return folder
    if place == 1:
        return written(data, folder)
    return written(checkpoint(data), folder)


@cache
def runs() -> list[dict[str, bytes]]:
    """Give the files of DeepSpeed's checkpoints of every stage, by their paths."""
    from tests.helpers.zero_samples import write_universal, write_zero, zero

    found = []
    for stage in range(4):
        for make in (write_zero, write_universal) if stage else (write_zero,):
            with tempfile.TemporaryDirectory() as folder:
                run = make(zero(stage), Path(folder) / "run")
                files = (path for path in sorted(run.rglob("*")) if path.is_file())
                found.append({str(path.relative_to(run)): path.read_bytes() for path in files})
    return found


def write_ranks(random: Random, folder: Path) -> Path:
    """Write a checkpoint of DeepSpeed in which the pickle of one file is changed."""
    files = dict(random.choice(runs()))
    name = random.choice([name for name in files if name.endswith(".pt")])
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(files[name])) as before, zipfile.ZipFile(packed, "w") as after:
        for record in before.namelist():
            data = before.read(record)
            after.writestr(record, other_pickle(random, data) if record.endswith("data.pkl") else data)
    files[name] = packed.getvalue()
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def write_config(random: Random, folder: Path) -> Path:
    """Write an adapter whose config is changed."""
    from tests.hostile.neighbours import CONFIG, write_adapter

    whole = {**CONFIG, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {}, "modules_to_save": None, "use_dora": False}
    return write_adapter(folder, changed_json(random, json.dumps(whole)))


def _header(random: Random, folder: Path) -> Path:
    data = random.choice(_files()["safetensors"])
    length = int.from_bytes(data[:8], "little")
    header = changed_json(random, data[8 : 8 + length].decode()).encode("utf-8", "surrogatepass")
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    return path


def write_index(random: Random, folder: Path) -> Path:
    """Write a sharded model whose index is changed."""
    from tests.hostile.bombs import shard_index

    shard = "model-00001-of-00001.safetensors"
    text = changed_json(random, json.dumps({"metadata": {"total_size": 4}, "weight_map": {"a.weight": shard}}))
    return shard_index(text.encode("utf-8", "surrogatepass"))(folder)


def _manifested(random: Random, folder: Path) -> Path:
    from tests.hostile.archives import checkpoint, written

    text = changed_json(random, manifest())
    (folder / "lora_manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    return written(checkpoint(), folder)


def changed_json(random: Random, text: str) -> str:
    """Change a JSON text in a few places: values of other types, fields twice, and bytes."""
    from tests.hostile.data import WRONG

    for _ in range(random.choice((1, 1, 2, 3))):
        if random.random() < 0.15:
            return flipped(random, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
        try:
            value = json.loads(text, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            return text
        places = list(_places(value))
        if not places:
            return text
        random.choice(places)(random)
        text = _dump(value).replace('"@wrong"', random.choice(list(WRONG.values())), 1)
    return text


class _Pairs(list[tuple[str, Any]]):
    """An object as its pairs, so that a field can stand in it twice."""


def _places(value: Any) -> Iterator[Callable[[Random], None]]:
    """Give a change for each place in a value."""
    for number in range(len(value)) if isinstance(value, list) else ():
        if isinstance(value, _Pairs):
            yield partial(_change_field, value, number)
            yield from _places(value[number][1])
        else:
            yield partial(_change_item, value, number)
            yield from _places(value[number])


def _change_field(pairs: _Pairs, number: int, random: Random) -> None:
    name, inside = pairs[number]
    match random.randrange(7):
        case 0 | 1 | 2:
            pairs[number] = (name, "@wrong")
        case 3:
            pairs.append((name, inside))
        case 4:
            pairs.append((name, "@wrong"))
        case 5:
            pairs[number] = (name + random.choice(("", "\ud800", "\n", ".", "x" * 1000)), inside)
        case 6:
            del pairs[number]


def _change_item(items: list[Any], number: int, random: Random) -> None:
    items[number] = random.choice(("@wrong", [], -1, 1 << 63, True, None, 1.5, "a\x1b[31m"))


def _dump(value: Any) -> str:
    if isinstance(value, _Pairs):
        return "{" + ", ".join(f"{json.dumps(name)}: {_dump(inside)}" for name, inside in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    return json.dumps(value)


def judge(label: str, folder: Path) -> dict[str, Any]:
    """Audit one changed checkpoint; in the process that `watch` runs."""
    import gc

    from tests.hostile.auditing import audited

    path = write(Random(label), folder)
    gc.freeze()
    found = audited(path, folder)
    faults = list(found["faults"])
    faults += [f"{found['cpu']} s of CPU"] if found["cpu"] > MOST_CPU else []
    faults += [f"{found['peak']} MiB"] if found["peak"] > MOST_MEMORY else []
    outcome = ", ".join(name for name in ("readable", "safe") if found["checks"].get(name) == "failed") or "read"
    return {"faults": faults, "outcome": outcome, "cpu": found["cpu"]}


def run(seed: int, numbers: range, seconds: float | None = None) -> tuple[Counter[str], dict[str, list[str]], float]:
    """Audit changed checkpoints.

    Args:
        seed: With a number it is the label of a change.
        numbers: Which of the seed's changes.
        seconds: When to stop, at the end of a batch.

    Returns:
        How many ended how, what is wrong by label, and the seconds of CPU that the audits took.
    """
    begun, counts, wrong, cpu = time.monotonic(), Counter[str](), {}, 0.0
    for first in numbers[::BATCH]:
        labels = [f"{seed}:{number}" for number in range(first, min(first + BATCH, numbers.stop))]
        for label, found in watch.run(labels, [sys.executable, "-W", "ignore", "-m", "tests.fuzz.audited"]).items():
            faults = [f"the process died: {found['died']}"] if "died" in found else found["faults"]
            counts[found.get("outcome", "died")] += 1
            cpu += found.get("cpu", 0.0)
            if faults:
                wrong[label] = faults
        if seconds is not None and time.monotonic() - begun > seconds:
            break
    return counts, wrong, cpu


def main() -> int:
    """Run by hand, and show what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--save", type=Path, help="a directory for the checkpoints with which something was wrong")
    options = parser.parse_args()
    counts, wrong, cpu = run(options.seed, range(options.first, options.first + options.number), options.seconds)
    lines = [f"{counts.total()} changed checkpoints, seed {options.seed}: {cpu:.0f} s of CPU in audits"]
    lines += [f"{count:7} {what}" for what, count in counts.most_common()]
    lines += [f"WRONG {label}: {each}" for label, faults in wrong.items() for each in faults]
    sys.stdout.write("\n".join(lines) + "\n")
    for label in wrong if options.save else ():
        folder = options.save / label.replace(":", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(Random(label), folder)
    return bool(wrong)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main())
    from tests.hostile.auditing import warm_up

    with tempfile.TemporaryDirectory() as temporary:
        warm_up(Path(temporary))
    watch.serve(judge)
