"""What does the model hold instead? One function for each answer; `_RECOGNISERS` lists them, the surest first."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from pytest_lora_ckpt.proof.bitwise import pieces, same_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SAMPLE = 64
_LEAST = 256  # Elements below which a distribution tells nothing.
_FEW = 0.01  # Of the elements: a flipped bit, a row that was written over.
_NEAR_ONE = 1e-3


class Answer(NamedTuple):
    """What the model holds: slug of the cause, and words that complete "the model holds …"."""

    cause: str
    told: str


@dataclass(frozen=True)
class Case:
    """A tensor of the model that is not the checkpoint's.

    Attributes:
        key: The checkpoint's key.
        file: The checkpoint's tensor.
        now: The model's, of the same shape.
        others: The checkpoint's other tensors.
        tied: Other names that the model has for this tensor, as the checkpoint's keys.
        beside: The tensor of the adapter directory beside the checkpoint that belongs here, with the directory's name.
        reference: The base model's tensor.
    """

    key: str
    file: torch.Tensor
    now: torch.Tensor
    others: Others
    tied: tuple[str, ...] = ()
    beside: tuple[str, torch.Tensor] | None = None
    reference: torch.Tensor | None = None


class Others:
    """The tensors of a checkpoint, found again by their values.

    Args:
        shapes: Shape of each tensor by key.
        read: Gives one tensor.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], torch.Tensor]) -> None:
        """See the class."""
        self._shapes, self._read = shapes, read
        self._seen: dict[tuple[tuple[int, ...], torch.dtype], dict[bytes, list[str]]] = {}

    def equal_to(self, tensor: torch.Tensor) -> list[str]:
        """Return the keys of the tensors that hold these values, by a sample first and then in full."""
        place = (tuple(tensor.shape), tensor.dtype)
        if place not in self._seen:
            index: dict[bytes, list[str]] = defaultdict(list)
            for key, shape in self._shapes.items():
                if shape == place[0]:
                    index[_sample(self._read(key).to(tensor.dtype))].append(key)
            self._seen[place] = dict(index)
        alike = self._seen[place].get(_sample(tensor), ())
        return [key for key in alike if same_bits(self._read(key).to(tensor.dtype), tensor)]


def what_instead(case: Case) -> Answer:
    """Say what the model holds in a place where the checkpoint's tensor should be."""
    for recognise in _RECOGNISERS:
        answer = recognise(case)
        if answer is not None:
            return answer
    return Answer("values-differ", f"other values ({_distance(case)})")


def _codes(case: Case) -> Answer | None:
    if case.file.is_floating_point() or not case.now.is_floating_point() or case.file.dtype == torch.bool:
        return None
    return Answer("integer-codes", f"the codes of a quantised tensor ({_name(case.file)}) as if they were its values")


def _not_finite(case: Case) -> Answer | None:
    if not case.now.is_floating_point() or bool(case.now.isfinite().all()) or not bool(case.file.isfinite().all()):
        return None
    if case.now.dtype != case.file.dtype:
        return Answer("cast-overflow", f"Inf or NaN after the cast from {_name(case.file)} to {_name(case.now)}")
    return Answer("nan-or-inf", "Inf or NaN, and the checkpoint's tensor is finite")


def _of_the_directory(case: Case) -> Answer | None:
    if case.beside is None or not _same(case.beside[1], case.now):
        return None
    return Answer("stale-adapter-directory", f"the tensor of {case.beside[0]}/ beside the checkpoint")


def _another(case: Case) -> Answer | None:
    if _is_constant(case.now):
        return None
    found = [key for key in case.others.equal_to(case.now) if key != case.key]
    if not found:
        return None
    if set(found) & set(case.tied):
        return Answer("tied-tensors-disagree", f"what the checkpoint has as {found[0]}: the model ties the two")
    return Answer("exchanged-tensors", f"what the checkpoint has as {found[0]}")


def _of_the_base(case: Case) -> Answer | None:
    if case.reference is None or not _same(case.reference, case.now):
        return None
    return Answer("still-initial", "the value of the base model: nothing was loaded here")


def _constant(case: Case) -> Answer | None:
    if not _is_constant(case.now):
        return None
    value = float(case.now.reshape(-1)[0]) if case.now.numel() else 0.0
    return Answer("still-initial", f"{value:g} everywhere, as initialised")


def _transposed(case: Case) -> Answer | None:
    square = case.now.ndim == 2 and case.now.shape[0] == case.now.shape[1]  # noqa: PLR2004  # A square matrix.
    if square and _same(case.file.T.contiguous(), case.now):
        return Answer("transposed-factors", "the checkpoint's tensor transposed")
    return None


def _but_for_a_few(case: Case) -> Answer | None:
    apart = sum(int((file.to(now.dtype) != now).sum()) for file, now in pieces(case.file, case.now))
    if not 0 < apart <= max(1, _FEW * case.now.numel()):
        return None
    return Answer("values-differ", f"the checkpoint's tensor but for {apart} of {case.now.numel()} elements")


def _multiple(case: Case) -> Answer | None:
    if not case.now.is_floating_point() or not case.file.is_floating_point():
        return None
    ff, fn, nn = _sums(case)
    if not ff or not nn or not math.isfinite(ff + fn + nn):
        return None
    factor = fn / ff
    left = math.sqrt(max(nn - factor * fn, 0.0) / nn)
    if left < 4 * torch.finfo(case.now.dtype).eps + 1e-7 and abs(factor - 1) > _NEAR_ONE:
        return Answer("scaled-values", f"{factor:.4g} times the checkpoint's tensor")
    return None


def _nearby(case: Case) -> Answer | None:
    if not case.now.is_floating_point() or not case.file.is_floating_point():
        return None
    ff, fn, nn = _sums(case)
    alike = fn / math.sqrt(ff * nn) if ff and nn else 0.0
    if alike > 0.9:  # noqa: PLR2004  # Two tensors that have nothing to do with each other are near 0.
        return Answer("earlier-value", f"an earlier or later value of this tensor ({_distance(case)})")
    return None


def _initialised(case: Case) -> Answer | None:
    """Tell what torch's and transformers' initialisers leave, by its spread."""
    if not case.now.is_floating_point() or case.now.numel() < _LEAST or case.now.ndim < 2:  # noqa: PLR2004
        return None
    values = case.now.double()
    spread, largest = float(values.std()), float(values.abs().max())
    bound = 1 / math.sqrt(math.prod(case.now.shape[1:]))
    # nn.Linear and PEFT's lora_A: kaiming_uniform_(a=sqrt(5)) is uniform up to 1 / sqrt(in).
    if abs(spread / (bound / math.sqrt(3)) - 1) < 0.05 and 0.97 < largest / bound <= 1.0 + 1e-6:  # noqa: PLR2004
        return Answer("still-initial", f"values uniform up to {bound:.3g}, as initialised")
    for known in (0.02, 1.0, bound):  # initializer_range of most configs, nn.Embedding, a fan-in normal.
        if abs(spread / known - 1) < 0.03 and 3 < largest / spread < 6.5:  # noqa: PLR2004
            return Answer("still-initial", f"values normal around 0 with a spread of {known:.3g}, as initialised")
    return None


_RECOGNISERS: tuple[Callable[[Case], Answer | None], ...] = (
    _codes,
    _not_finite,
    _of_the_directory,
    _another,
    _of_the_base,
    _constant,
    _transposed,
    _but_for_a_few,
    _multiple,
    _nearby,
    _initialised,
)


def _same(one: torch.Tensor, now: torch.Tensor) -> bool:
    return one.shape == now.shape and same_bits(one.to(now.dtype), now)


def _is_constant(tensor: torch.Tensor) -> bool:
    return not tensor.numel() or bool((tensor == tensor.reshape(-1)[0]).all())


def _sums(case: Case) -> tuple[float, float, float]:
    """‖file‖², file · now, ‖now‖²."""
    sums = [0.0, 0.0, 0.0]
    for file, now in pieces(case.file, case.now):
        one, other = file.double(), now.double()
        for at, value in enumerate((one @ one, one @ other, other @ other)):
            sums[at] += float(value)
    return sums[0], sums[1], sums[2]


def _distance(case: Case) -> str:
    if not case.now.is_floating_point():
        return f"{int((case.now != case.file.to(case.now.dtype)).sum())} of {case.now.numel()} elements differ"
    ff, fn, nn = _sums(case)
    apart = math.sqrt(max(ff - 2 * fn + nn, 0.0) / ff) if ff else math.inf
    return f"off by {apart:.3g} of its norm"


def _sample(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    picked = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE].contiguous()
    return bytes(picked.view(torch.uint8).numpy().tobytes())


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
