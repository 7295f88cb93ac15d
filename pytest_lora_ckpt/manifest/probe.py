"""The probe: a model's output on seeded inputs with its adapter on and off, at training and now.

Its inputs are recipes: kinds and sizes instead of values, the same inputs on every machine. Random values come from
SHAKE-128 (FIPS 202) and exact arithmetic, not from torch's generators, whose streams no release of torch promises to
keep.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.manifest.schema import ManifestError
from pytest_lora_ckpt.proof.effect import adapters_off, up_factors
from pytest_lora_ckpt.proof.loaded_model import LoadedModel
from pytest_lora_ckpt.proof.running import at_rest, tensors_in
from pytest_lora_ckpt.wording import dtype_name, type_name

if TYPE_CHECKING:
    from pytest_lora_ckpt.manifest.schema import Manifest

SEED = 0
SAMPLE = 64  # At most so many values of an output are recorded, evenly spaced.

_POSITIONAL = 3  # Dimensions of logits that have positions: batch, positions, vocabulary.

# Share of the largest recorded value by which two machines may differ: other kernels, other order of sums. Measured
# within a machine it is 0; these leave room for a deep network in that precision.
_TOLERANCE = {"float64": 1e-6, "float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}

# Up to this number of runs of equal values integers are kept: where the placeholders of an image stand matters.
MOST_RUNS = 1024

MOST_ELEMENTS = 1 << 26  # A file that asks for more would fill the memory.

_DRAWS = 4  # Uniform numbers of 16 bits per element; their sum is close enough to a normal distribution.
_LEVELS = 1 << 16
_SPREAD = math.sqrt(_DRAWS * (_LEVELS**2 - 1) / 12)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A probe run again.

    Attributes:
        on: Largest difference from the recorded logits with the adapter on, as a share of the largest recorded value.
        off: The same with the adapter off; None where it cannot be switched off: merged, or not in the model.
        effect: What switching the adapter off changed when it was recorded, as such a share; None where there was none.
        tolerance: Up to which share outputs count as the same, by the dtypes then and now.
        error: Why it could not be compared, or None.
    """

    on: float = math.inf
    off: float | None = math.inf
    effect: float | None = None
    tolerance: float = 0.0
    error: str | None = None

    @property
    def same(self) -> bool:
        """Whether the output matches the recorded one, with the adapter and without it."""
        return self.error is None and self.on <= self.tolerance and (self.off or 0.0) <= self.tolerance

    @property
    def blind(self) -> bool:
        """Whether the adapter's recorded effect is too small for this precision: its absence would not be seen."""
        return self.error is None and self.effect is not None and self.effect <= 2 * self.tolerance

    @property
    def why(self) -> str:
        """The result in a sentence."""
        if self.error:
            return f"The probe could not be compared: {self.error}"
        if self.same:
            within = f"within {max(self.on, self.off or 0.0):.2g}"
            fact = f"The model's output on the recorded probe matches training ({within})"
            small = f"; but the adapter's effect ({self.effect:.2g}) is too small for this precision to prove anything"
            return fact + (small if self.blind else "") + "."
        if self.off is None:
            fact = "The model's output on the recorded probe differs from training, and it has no adapter to switch off"
            return f"{fact}: it is off by {self.on:.2g} (tolerance {self.tolerance:.2g})."
        facts = f"{self.on:.2g} with the adapter on and {self.off:.2g} with it off (tolerance {self.tolerance:.2g})"
        if self.off <= self.tolerance:
            return f"The base model's output on the recorded probe matches training, the adapter's is off by {facts}."
        return f"The base model's output on the recorded probe differs from training: it is off by {facts}."


def record_probe(model: torch.nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Run a model on inputs like these with its adapters on and off, and return what `replay_probe` needs.

    Args:
        model: Any module.
        inputs: Keyword arguments of its `forward`: tensors and plain values.

    Raises:
        TypeError: An input is neither.
        ManifestError: The forward pass raised, or gave no floating tensor.
    """
    if not isinstance(inputs, Mapping):
        raise TypeError(f"probe= should be a mapping, argument of forward -> input, and is {type(inputs).__name__}.")
    recipes = {str(name): make_recipe(str(name), value) for name, value in inputs.items()}
    on, off = _answers(model, recipes, SEED)
    output = {"shape": list(on.shape), "dtype": dtype_name(on.dtype), "on": _sample(on), "off": _sample(off)}
    return {"seed": SEED, "inputs": recipes, "output": output}


def replay_probe(manifest: Manifest, model: torch.nn.Module | LoadedModel) -> ProbeResult:
    """Run the recorded probe on a model, and compare its answers with the recorded ones.

    Model, random state and modes are as before afterwards. Nothing is raised: what goes wrong is the result's `error`.
    """
    if manifest.probe is None:
        return ProbeResult(error="the manifest was written without probe=.")
    then, loaded = manifest.probe["output"], LoadedModel.of(model)
    try:
        on, off = _answers(loaded.module, manifest.probe["inputs"], manifest.probe["seed"])
    except ManifestError as error:
        return ProbeResult(error=f"{error.found}.")
    if list(on.shape) != then["shape"]:
        return ProbeResult(error=f"the output was of shape {then['shape']} and is of shape {list(on.shape)}.")
    largest = max((abs(value) for value in (*then["on"], *then["off"]) if value is not None), default=0.0) or 1.0
    had_lora = any(key.is_lora for key in parse_keys(manifest.tensors).values())
    can_switch = bool(up_factors(loaded.module)) and not any(layer.merged for layer in loaded.layers)
    return ProbeResult(
        on=_distance(_sample(on), then["on"]) / largest,
        off=_distance(_sample(off), then["off"]) / largest if can_switch else None,
        effect=_distance(then["on"], then["off"]) / largest if had_lora else None,
        tolerance=max(_TOLERANCE.get(each, _TOLERANCE["bfloat16"]) for each in (then["dtype"], dtype_name(on.dtype))),
    )


def _answers(
    model: torch.nn.Module, recipes: Mapping[str, Mapping[str, Any]], seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    inputs = follow_recipes(recipes, seed, device)
    try:
        with at_rest(model):
            on = _logits(model(**inputs))
            with adapters_off(model):
                off = _logits(model(**inputs))
    except Exception as error:
        raise _failed(f"the forward pass raised {type(error).__name__}: {error!s:.300}") from error
    if on is None or off is None:
        raise _failed("the forward pass gave no floating tensor")
    return on, off


def _failed(found: str) -> ManifestError:
    return ManifestError(
        None,
        expected="a forward pass of the model on the probe's inputs",
        found=found,
        remedy="Give probe= the keyword arguments that the model's forward takes.",
    )


def _logits(output: Any) -> torch.Tensor | None:
    """Return `logits` where there are any, else the first floating tensor; a copy, for models may reuse memory."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    candidates = [named] if isinstance(named, torch.Tensor) else tensors_in(output)
    found = next((one for one in candidates if one.is_floating_point() and one.numel()), None)
    return None if found is None else found.detach().clone()


def _sample(output: torch.Tensor) -> list[float | None]:
    """Return evenly spaced values of the last position; None for what is not finite, since JSON has no word for it."""
    last = (output[:, -1] if output.ndim >= _POSITIONAL else output).reshape(-1)
    steps = min(SAMPLE, last.numel())
    places = [index * (last.numel() - 1) // max(steps - 1, 1) for index in range(steps)]
    values = last[torch.tensor(places, device=last.device)].double().tolist()
    return [value if math.isfinite(value) else None for value in values]


def _distance(first: list[float | None], second: list[float | None]) -> float:
    """Return the largest gap; it is endless where one of two values is not finite, or there are more of them."""
    if [value is None for value in first] != [value is None for value in second]:
        return math.inf
    pairs = zip(first, second, strict=True)
    return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)


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
            f"probe={name!r} should be a tensor with data, a number, a string or None, and is {type_name(value)}."
        )
    about = {"shape": list(value.shape), "dtype": dtype_name(value.dtype)}
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
