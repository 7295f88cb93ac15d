"""A PEFT adapter: `adapter_config.json` beside `adapter_model.safetensors` or `adapter_model.bin`.

Source of the names and of which file PEFT takes: `peft/utils/save_and_load.py`, `load_peft_weights`.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.checkpoint import registry
from pytest_lora_ckpt.checkpoint.checkpoint import open_companion
from pytest_lora_ckpt.checkpoint.errors import CheckpointError
from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG as CONFIG
from pytest_lora_ckpt.vocabulary.files import ADAPTER_WEIGHTS as WEIGHTS

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lora_ckpt.checkpoint.checkpoint import Checkpoint

NAME = "PEFT adapter"
EXPECTS = "a directory with `adapter_config.json`, or a weights file of that name beside one"

MAX_CONFIG = 10_000_000  # Bytes; what is longer is cut off, and so no JSON.


def accepts(head: bytes, path: Path) -> bool:
    """Say whether it is such a directory, or such a weights file beside its config."""
    if head:
        return path.name in WEIGHTS and (path.parent / CONFIG).is_file()
    return any((path / name).is_file() for name in (CONFIG, *WEIGHTS))


def read(path: Path) -> Checkpoint:
    """Read the config, and the index of the weights file.

    Raises:
        CheckpointError: One of the two is missing or broken.
    """
    folder = path if path.is_dir() else path.parent
    present = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    weights = path if path != folder else next(iter(present), None)
    config = _config(folder / CONFIG)
    if weights is None:
        raise CheckpointError(
            "no-weights",
            path,
            expected=f"{' or '.join(WEIGHTS)} beside {CONFIG}",
            found=f"{CONFIG} alone" + _other_files(folder),
            remedy="Save the adapter with `model.save_pretrained(directory)`, or copy the weights file too.",
        )
    checkpoint = registry.read_file(weights, but=(NAME,))
    notes = list(checkpoint.notes)
    companions = [
        open_companion("twin", path, lambda path: registry.read_file(path, but=(NAME,)))
        for path in present
        if path != weights
    ]
    if companions:
        taken = "PEFT reads the safetensors file" + (", not this one" if weights != present[0] else "")
        notes.insert(0, f"{WEIGHTS[1]} lies beside {WEIGHTS[0]}: {taken}")
    return dataclasses.replace(
        checkpoint,
        path=path,
        layout="peft_adapter",
        adapter_config=config,
        companions=tuple(companions),
        file_bytes=checkpoint.file_bytes + (folder / CONFIG).stat().st_size,
        notes=tuple(notes),
    )


def _config(path: Path) -> dict[str, Any]:
    """Read `adapter_config.json`."""
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(MAX_CONFIG).decode("utf-8"))
    except FileNotFoundError as error:
        found = "no such file beside the weights"
        raise _config_error("no-config", path, found) from error
    except OSError as error:
        raise _config_error("no-permission", path, str(error)) from error
    except (ValueError, RecursionError) as error:  # Broken JSON and broken UTF-8 are both a ValueError.
        raise _config_error("broken-config", path, f"{error!r:.300}") from error
    if not isinstance(config, dict):
        raise _config_error("broken-config", path, f"a JSON {type(config).__name__}")
    return config


def _config_error(problem: str, path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        problem,
        path,
        expected="a JSON object in UTF-8 with the adapter's settings, as `save_pretrained` writes it",
        found=found,
        remedy="Save the adapter again with `model.save_pretrained(directory)`, or copy the file again.",
    )


def _other_files(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.name != CONFIG)
    return f", and {', '.join(names[:6])}" if names else ""
