"""Inputs of a probe as recipes: kinds and sizes instead of values, the same inputs on every machine.

Random values come from SHAKE-128 (FIPS 202) and exact arithmetic, not from torch's generators, whose streams no release
of torch promises to keep.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.manifest.schema import ManifestError
from pytest_lora_ckpt.models import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

# Up to this number of runs of equal values integers are kept: where the placeholders of an image stand matters.
MOST_RUNS = 1024

MOST_ELEMENTS = 1 << 26
"""A file that asks for more would fill the memory."""

_DRAWS = 4  # Uniform numbers of 16 bits per element; their sum is close enough to a normal distribution.
_LEVELS = 1 << 16
_SPREAD = math.sqrt(_DRAWS * (_LEVELS**2 - 1) / 12)


def make_recipe(name: str, value: Any) -> dict[str, Any]:  # noqa: PLR0911  # One kind each.
    """Say how an input like this one is made.

    Kinds: `plain` (a number, a string, None), `constant`, `runs` (`[value, count]`, for integers), `range` (integers of
    a range, where there are too many runs), `normal` (floats of the same mean and spread).

    Raises:
        TypeError: It is neither a dense tensor nor a plain value.
    """
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return {"kind": "plain", "value": value}
    if not isinstance(value, torch.Tensor) or value.is_meta or value.is_complex() or value.is_sparse:
        raise TypeError(
            f"probe={name!r} should be a tensor with data, a number, a string or None, and is {describe(value)}."
        )
    about = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    flat = value.detach().cpu().reshape(-1)
    if not flat.numel():
        return {"kind": "constant", **about, "value": 0}
    if value.is_floating_point():
        wide = flat.double()
        mean, spread = float(wide.mean()), float(wide.std(correction=0))
        if not math.isfinite(mean + spread):
            raise TypeError(f"probe={name!r} should hold finite numbers.")
        if not spread:
            return {"kind": "constant", **about, "value": mean}
        return {"kind": "normal", **about, "mean": mean, "spread": spread}
    if bool((flat == flat[0]).all()):
        return {"kind": "constant", **about, "value": int(flat[0])}
    runs = [[number, len(list(same))] for number, same in itertools.groupby(map(int, flat.tolist()))]
    if len(runs) <= MOST_RUNS:
        return {"kind": "runs", **about, "runs": runs}
    return {"kind": "range", **about, "low": int(flat.min()), "high": int(flat.max())}


def follow_recipes(recipes: Mapping[str, Mapping[str, Any]], seed: int, device: torch.device) -> dict[str, Any]:
    """Make the inputs.

    Raises:
        ManifestError: A recipe lacks something, or is of a kind that this release does not know.
    """
    made: dict[str, Any] = {}
    for name, recipe in recipes.items():
        try:
            made[name] = _follow(recipe, f"{seed}:{name}")
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise ManifestError(
                None,
                expected=f"a recipe for the input {name!r} of the probe",
                found=f"{dict(recipe)!r:.200} ({error!r:.100})",
                remedy="Write the manifest again.",
            ) from error
        if isinstance(made[name], torch.Tensor):
            made[name] = made[name].to(device)
    return made


def _follow(recipe: Mapping[str, Any], seed: str) -> Any:
    kind = recipe["kind"]
    if kind == "plain":
        return recipe["value"]
    shape, dtype = tuple(recipe["shape"]), getattr(torch, recipe["dtype"])
    count = math.prod(shape)
    if count > MOST_ELEMENTS:
        raise ValueError(f"{count:,} elements, and at most {MOST_ELEMENTS:,} are made")
    if kind == "constant":
        return torch.full(shape, recipe["value"], dtype=dtype)
    if kind == "runs":
        values = torch.tensor([value for value, _ in recipe["runs"]])
        flat = values.repeat_interleave(torch.tensor([length for _, length in recipe["runs"]]))
    elif kind == "range":
        low, high = recipe["low"], recipe["high"]
        flat = low + _words(seed, count).sum(dim=1) % (high - low + 1)
    elif kind == "normal":
        total = _words(seed, count).sum(dim=1).double()
        flat = (total - _DRAWS * (_LEVELS - 1) / 2) / _SPREAD * recipe["spread"] + recipe["mean"]
    else:
        raise ValueError(f"unknown kind {kind!r}")
    return flat.to(dtype).reshape(shape)


def _words(seed: str, count: int) -> torch.Tensor:
    """Return `_DRAWS` numbers of 16 bits for each element."""
    octets = bytearray(hashlib.shake_128(seed.encode()).digest(count * _DRAWS * 2))
    pairs = torch.frombuffer(octets, dtype=torch.uint8).to(torch.int64).reshape(count, _DRAWS, 2)
    return pairs[..., 0] + 256 * pairs[..., 1]
