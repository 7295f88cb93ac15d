"""What does the model hold instead? One function for each answer; `_RECOGNISERS` lists them, the surest first."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from pytest_lora_ckpt.proof.bitwise import holds, pieces, same_bits
from pytest_lora_ckpt.wording import dtype_name, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_SAMPLE = 64
_LEAST = 256  # Elements below which a distribution shows nothing.
_FEW = 0.01  # Of the elements: a flipped bit, a row that was overwritten.
_NEAR_ONE = 1e-3
_ROWS = 256
_ROUGH = 1e-2  # Norms may have been computed in half precision.


class Explanation(NamedTuple):
    """What the model holds: slug of the cause, and words that complete "the model holds …"."""

    cause: str
    what: str


@dataclass(frozen=True)
class Mismatch:
    """A tensor of the model that is not the checkpoint's.

    Attributes:
        key: The checkpoint's key.
        file: The checkpoint's tensor.
        now: The model's, of the same shape.
        others: The checkpoint's other tensors.
        tied: Other names that the model has for this tensor, as the checkpoint's keys.
        companion: The tensor of the adapter directory next to the checkpoint that belongs here, with its name.
        reference: The base model's tensor.
        normed: For DoRA's magnitude vector, the weight from whose rows it is initialised.
    """

    key: str
    file: torch.Tensor
    now: torch.Tensor
    others: TensorsByValue
    tied: tuple[str, ...] = ()
    companion: tuple[str, torch.Tensor] | None = None
    reference: torch.Tensor | None = None
    normed: torch.Tensor | None = None


class TensorsByValue:
    """The tensors of a checkpoint, looked up by their values.

    Args:
        shapes: Shape of each tensor by key.
        read: Reads one tensor.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], torch.Tensor]) -> None:
        self._shapes, self._read = shapes, read
        self._seen: dict[tuple[tuple[int, ...], torch.dtype], dict[bytes, list[str]]] = {}

    def equal_to(self, tensor: torch.Tensor) -> list[str]:
        """Return the keys of the tensors that hold these values, by a sample first and then in full."""
        kind = (tuple(tensor.shape), tensor.dtype)
        if kind not in self._seen:
            index: dict[bytes, list[str]] = defaultdict(list)
            for key, shape in self._shapes.items():
                if shape == kind[0]:
                    index[_sample(self._read(key).to(tensor.dtype))].append(key)
            self._seen[kind] = dict(index)
        similar = self._seen[kind].get(_sample(tensor), ())
        return [key for key in similar if same_bits(self._read(key).to(tensor.dtype), tensor)]


def explain_mismatch(case: Mismatch) -> Explanation:
    """Say what the model holds where the checkpoint's tensor should be."""
    answers = (recognise(case) for recognise in _RECOGNISERS)
    return next((answer for answer in answers if answer), None) or Explanation(
        "values-differ", f"other values ({_distance(case)})"
    )


def _magnitude(case: Mismatch) -> Explanation | None:
    """Recognise DoRA's vector as PEFT initialises it: the norms of W's rows, while B is zero."""
    weight = case.normed
    if weight is None or weight.is_meta or not weight.is_floating_point() or weight.shape[0] != case.now.numel():
        return None
    norms = torch.cat([rows.float().flatten(1).norm(dim=1) for rows in torch.split(weight.detach().cpu(), _ROWS)])
    close = torch.allclose(norms, case.now.float().flatten(), rtol=_ROUGH)
    return Explanation("still-initial", "the norms of the rows of W, as initialised") if close else None


def _codes(case: Mismatch) -> Explanation | None:
    if case.file.is_floating_point() or not case.now.is_floating_point() or case.file.dtype == torch.bool:
        return None
    return Explanation(
        "integer-codes", f"the codes of a quantised tensor ({dtype_name(case.file.dtype)}) as if they were its values"
    )


def _not_finite(case: Mismatch) -> Explanation | None:
    if not case.now.is_floating_point() or bool(case.now.isfinite().all()) or not bool(case.file.isfinite().all()):
        return None
    if case.now.dtype != case.file.dtype:
        return Explanation(
            "cast-overflow",
            f"Inf or NaN after the cast from {dtype_name(case.file.dtype)} to {dtype_name(case.now.dtype)}",
        )
    return Explanation("nan-or-inf", "Inf or NaN, and the checkpoint's tensor is finite")


def _of_the_companion(case: Mismatch) -> Explanation | None:
    if case.companion is None or not holds(case.now, case.companion[1]):
        return None
    return Explanation("stale-adapter-directory", f"the tensor of {case.companion[0]}/ next to the checkpoint")


def _another(case: Mismatch) -> Explanation | None:
    if _is_constant(case.now):
        return None
    equal = [key for key in case.others.equal_to(case.now) if key != case.key]
    if not equal:
        return None
    what = f"what the checkpoint has as {printable(equal[0])}"
    if set(equal) & set(case.tied):
        return Explanation("tied-tensors-disagree", f"{what}: the model ties the two")
    return Explanation("exchanged-tensors", what)


def _of_the_base(case: Mismatch) -> Explanation | None:
    if case.reference is None or not holds(case.now, case.reference):
        return None
    return Explanation("still-initial", "the value of the base model: nothing was loaded here")


def _constant(case: Mismatch) -> Explanation | None:
    if not _is_constant(case.now):
        return None
    value = float(case.now.reshape(-1)[0]) if case.now.numel() else 0.0
    return Explanation("still-initial", f"{value:g} everywhere, as initialised")


def _transposed(case: Mismatch) -> Explanation | None:
    square = case.now.ndim == 2 and case.now.shape[0] == case.now.shape[1]  # noqa: PLR2004  # A square matrix.
    if square and holds(case.now, case.file.T):
        return Explanation("transposed-factors", "the checkpoint's tensor transposed")
    return None


def _but_for_a_few(case: Mismatch) -> Explanation | None:
    apart = sum(int((file.to(now.dtype) != now).sum()) for file, now in pieces(case.file, case.now))
    if not 0 < apart <= max(1, _FEW * case.now.numel()):
        return None
    return Explanation("values-differ", f"the checkpoint's tensor but for {apart} of {case.now.numel()} elements")


def _multiple(case: Mismatch) -> Explanation | None:
    if not case.now.is_floating_point() or not case.file.is_floating_point():
        return None
    ff, fn, nn = _sums(case)
    if not ff or not nn or not math.isfinite(ff + fn + nn):
        return None
    factor = fn / ff
    left = math.sqrt(max(nn - factor * fn, 0.0) / nn)
    if left < 4 * torch.finfo(case.now.dtype).eps + 1e-7 and abs(factor - 1) > _NEAR_ONE:
        return Explanation("scaled-values", f"{factor:.4g} times the checkpoint's tensor")
    return None


def _nearby(case: Mismatch) -> Explanation | None:
    if not case.now.is_floating_point() or not case.file.is_floating_point():
        return None
    ff, fn, nn = _sums(case)
    similarity = fn / math.sqrt(ff * nn) if ff and nn else 0.0
    if similarity > 0.9:  # noqa: PLR2004  # Unrelated tensors are near 0.
        return Explanation("earlier-value", f"an earlier or later value of this tensor ({_distance(case)})")
    return None


def is_fresh_linear(tensor: torch.Tensor) -> bool:
    """Whether a matrix is as nn.Linear, or PEFT for lora_A, initialises it: uniform up to 1 / sqrt(in).

    That is `kaiming_uniform_(a=sqrt(5))`. Too small a matrix shows nothing.
    """
    if not tensor.is_floating_point() or tensor.numel() < _LEAST or tensor.ndim < 2:  # noqa: PLR2004
        return False
    bound = 1 / math.sqrt(math.prod(tensor.shape[1:]))
    values = tensor.double()
    spread, largest = float(values.std()), float(values.abs().max())
    return abs(spread / (bound / math.sqrt(3)) - 1) < 0.05 and 0.97 < largest / bound <= 1.0 + 1e-6  # noqa: PLR2004


def looks_drawn(tensor: torch.Tensor, spreads: Iterable[float]) -> bool:
    """Whether a matrix of any size may be what an initialiser drew: constant, normal, or uniform as nn.Linear's.

    The smaller it is, the less it shows.

    Args:
        tensor: The matrix.
        spreads: The standard deviations by which the library draws normally.
    """
    if not tensor.is_floating_point() or _is_constant(tensor):
        return tensor.is_floating_point()
    values = tensor.double()
    spread, largest, middle = float(values.std()), float(values.abs().max()), float(values.mean())
    slack = 0.03 + 3 / math.sqrt(2 * tensor.numel())  # Three standard errors of a standard deviation.
    bound = 1 / math.sqrt(math.prod(tensor.shape[1:]))
    uniform = abs(spread * math.sqrt(3) / bound - 1) < slack and 1 - slack < largest / bound <= 1 + 1e-6
    normal = any(abs(spread / known - 1) < slack for known in spreads if known) and largest < 6.5 * spread
    return (uniform or normal) and abs(middle) < 4 * spread / math.sqrt(tensor.numel())


def _initialised(case: Mismatch) -> Explanation | None:
    """Recognise what torch's and transformers' initialisers leave, by its spread."""
    if not case.now.is_floating_point() or case.now.numel() < _LEAST or case.now.ndim < 2:  # noqa: PLR2004
        return None
    values = case.now.double()
    spread, largest = float(values.std()), float(values.abs().max())
    bound = 1 / math.sqrt(math.prod(case.now.shape[1:]))
    if is_fresh_linear(case.now):
        return Explanation("still-initial", f"values uniform up to {bound:.3g}, as initialised")
    for known in (0.02, 1.0, bound):  # initializer_range of most configs, nn.Embedding, a fan-in normal.
        if abs(spread / known - 1) < 0.03 and 3 < largest / spread < 6.5:  # noqa: PLR2004
            return Explanation("still-initial", f"values normal around 0 with a spread of {known:.3g}, as initialised")
    return None


_RECOGNISERS: tuple[Callable[[Mismatch], Explanation | None], ...] = (
    _magnitude,
    _codes,
    _not_finite,
    _of_the_companion,
    _another,
    _of_the_base,
    _constant,
    _transposed,
    _but_for_a_few,
    _multiple,
    _nearby,
    _initialised,
)


def _is_constant(tensor: torch.Tensor) -> bool:
    return not tensor.numel() or bool((tensor == tensor.reshape(-1)[0]).all())


def _sums(case: Mismatch) -> tuple[float, float, float]:
    """‖file‖², file · now, ‖now‖²."""
    sums = [0.0, 0.0, 0.0]
    for file, now in pieces(case.file, case.now):
        one, other = file.double(), now.double()
        for at, value in enumerate((one @ one, one @ other, other @ other)):
            sums[at] += float(value)
    return sums[0], sums[1], sums[2]


def _distance(case: Mismatch) -> str:
    if not case.now.is_floating_point():
        return f"{int((case.now != case.file.to(case.now.dtype)).sum())} of {case.now.numel()} elements differ"
    ff, fn, nn = _sums(case)
    apart = math.sqrt(max(ff - 2 * fn + nn, 0.0) / ff) if ff else math.inf
    return f"off by {apart:.3g} of its norm"


def _sample(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    picked = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE].contiguous()
    return bytes(picked.view(torch.uint8).numpy().tobytes())
