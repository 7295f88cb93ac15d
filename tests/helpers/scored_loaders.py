"""Loaders as people write them, good and bad, for a model of one layer; other processes can import them."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import torch

WARNS = logging.getLogger("tests.helpers.scored_loaders.apart")
WARNS.propagate = False


class Tiny(torch.nn.Module):
    """One layer, which is all there is to load."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


def save_tiny(folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.save({key: torch.randn_like(value) for key, value in Tiny().state_dict().items()}, folder / "tiny.pt")
    return folder / "tiny.pt"


def inputs() -> dict[str, torch.Tensor]:
    return {"x": torch.ones(1, 4)}


def read(path: Any) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True))


def strict(path: Any) -> Tiny:
    model = Tiny()
    model.load_state_dict(read(path))
    return model


def lenient(path: Any) -> Tiny:
    model = Tiny()
    model.load_state_dict(read(path), strict=False)
    return model


def swallowing(path: Any) -> Tiny:
    try:
        return strict(path)
    except Exception:  # noqa: BLE001  # The mistake that this loader is an example of.
        return Tiny()


def without_model(path: Any) -> Tiny | None:
    try:
        return strict(path)
    except Exception:  # noqa: BLE001  # As above.
        return None


def complaining(path: Any) -> Tiny:
    """Warns in one way each time, and in three others where keys are missing."""
    model = Tiny()
    warnings.warn("this format is old", DeprecationWarning, stacklevel=2)
    print(f"reading {path} at {id(model):#x}, step {next(_STEPS)}")  # noqa: T201
    found = model.load_state_dict(read(path), strict=False)
    if found.missing_keys:
        _SAYS[os.environ.get("SCORED_SAYS", "warning")](f"{len(found.missing_keys)} keys are missing")
    return model


_STEPS = iter(range(10_000))
_SAYS = {
    "warning": lambda text: warnings.warn(text, UserWarning, stacklevel=3),
    "log": WARNS.warning,
    "info": WARNS.info,
    "stderr": lambda text: sys.stderr.write(text + "\n"),
    "stdout": lambda text: sys.stdout.write(text + "\n"),
}


def exiting(path: Any) -> Tiny:
    try:
        return strict(path)
    except RuntimeError:
        sys.exit(os.environ.get("SCORED_EXIT") or 0)


def hanging_or_dying(path: Any) -> Tiny:
    """Waits for ever for keys of one kind, and ends the process for those of another."""
    keys = [*read(path)]
    if keys and keys[0].startswith("module."):
        threading.Event().wait()
    if keys and keys[0].startswith("_orig_mod."):
        os._exit(3)
    return strict(path)


def writing_beside(path: Any) -> Tiny:
    (Path(path).parent / "cache").mkdir(exist_ok=True)
    (Path(path).parent / "cache" / "converted.bin").write_bytes(b"x")
    return strict(path)


def deaf(_: Any) -> Tiny:
    """Does not read the path that it is given."""
    return strict(os.environ["SCORED_CHECKPOINT"])


def meddling(path: Any) -> Tiny:
    """Leaves global state as it likes it."""
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.manual_seed(99)
    os.chdir(Path(path).parent)
    torch.set_default_dtype(torch.float32)
    model = strict(path)
    torch.set_default_dtype(torch.float64)
    return model
