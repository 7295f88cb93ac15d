"""The adapted modules of a key set: which keys are the two factors of one low-rank update."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.keys.templates import are_turned
from pytest_lora_ckpt.lora.update import shape_of_update
from pytest_lora_ckpt.tensors import KeySet
from pytest_lora_ckpt.vocabulary.lora import (
    FACTORS,
    FUSED_PROJECTIONS,
    LORA_SCALES,
    MLX_FACTORS,
    PLAIN_CONTAINER,
    PRODUCT_FACTORS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_lora_ckpt.tensors import TensorInfo


_PROJECTIONS = 3  # Queries, keys and values.
_MATRIX = 2
_WORDS = ("down", "up")


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The factors of one adapted module.

    Attributes:
        module: Path of the module, without wrappers and PEFT's structure.
        adapter: Name of the adapter, or None where the keys carry none.
        down: Key and tensor of `lora_A` (rank x in, whichever way it lies in the file), or None if missing.
        up: Key and tensor of `lora_B` (out x rank), or None if missing.
        others: Further adapter parameters of the module, by what they are (`lora_magnitude_vector`, `alpha`,
            `lora_B.bias` …) -> key.
        product: The matrices of a LoHa or LoKr by name -> key, for which A and B stand; empty for a plain pair.
        again: Pairs of keys that name one factor, such as one with `module.` before it; the first of each is kept.
        shape: Shape of the weight that the factors change (out x in x kernel); empty where they are not complete.
    """

    module: str
    adapter: str | None
    down: tuple[str, TensorInfo] | None = None
    up: tuple[str, TensorInfo] | None = None
    others: Mapping[str, str] = field(default_factory=dict)
    product: Mapping[str, str] = field(default_factory=dict)
    again: tuple[tuple[str, str], ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of the pair."""
        factors = [factor[0] for factor in (self.down, self.up) if factor]
        further = [*self.product.values(), *self.others.values(), *(second for _, second in self.again)]
        return tuple(dict.fromkeys([*factors, *further]))

    @property
    def factors(self) -> tuple[str, ...]:
        """Keys of the matrices whose product is the update, B first."""
        return tuple(self.product.values()) or tuple(factor[0] for factor in (self.up, self.down) if factor)

    @property
    def rank(self) -> int | None:
        """First size of the down factor, or of one block of it; None if it is missing, or the update has no rank."""
        if "lokr_w2" in self.product:
            return self.up[1].shape[-1] if self.up and "lokr_w1_a" in self.product and self.up[1].shape else None
        if self.down and self.up and is_stack(self.down[1].shape, self.up[1].shape):
            return self.down[1].shape[1]
        return self.down[1].shape[0] // self.blocks if self.down and self.down[1].shape else None

    @property
    def is_scaled(self) -> bool:
        """Whether alpha scales the update: LyCORIS ignores it for a Kronecker product of two whole matrices."""
        return not {"lokr_w1", "lokr_w2"} <= self.product.keys()

    @property
    def lacks(self) -> str:
        """The factor that is missing, by its name; empty where the update is whole."""
        if not self.product:
            return "" if self.up and self.down else "lora_A" if self.up else "lora_B"
        wanted = [f"hada_w{number}" for number in "12"] if any("hada" in name for name in self.product) else []
        wanted = [*wanted] or [name for number in "12" if (name := f"lokr_w{number}") not in self.product]
        names = (f"{name}_{factor}" for name in wanted for factor in "ab")
        return next((name for name in names if name not in self.product), "")

    @property
    def blocks(self) -> int:
        """How many pairs of factors are stacked in this one (loralib's MergedLinear); 1 for a plain pair.

        Example:
            >>> from pytest_lora_ckpt import TensorInfo
            >>> down, up = TensorInfo((8, 32)), TensorInfo((48, 4))
            >>> LoraPair("h.0.attn.qkv", None, ("a", down), ("b", up)).blocks
            2
        """
        if not self.down or not self.up or self.module.rpartition(".")[2].lower() not in FUSED_PROJECTIONS:
            return 1
        return stacked_blocks(self.down[1].shape, self.up[1].shape)


def stacked_blocks(down: Sequence[int], up: Sequence[int]) -> int:
    """Return how many pairs of factors these shapes may stack: A (n * rank) x in, B (all outs) x rank; else 1.

    Example:
        >>> stacked_blocks((8, 32), (48, 4)), stacked_blocks((4, 32), (48, 4))
        (2, 1)
    """
    if not len(down) == len(up) == _MATRIX or not up[1] or down[0] % up[1]:
        return 1
    number = down[0] // up[1]
    return number if number <= min(_PROJECTIONS, up[0]) else 1


def is_stack(down: Sequence[int], up: Sequence[int]) -> bool:
    """Return whether these are the factors of several experts: A experts x rank x in, B experts x out x rank.

    Example:
        >>> is_stack((8, 4, 32), (8, 48, 4)), is_stack((4, 32, 3), (48, 4, 1))
        (True, False)
    """
    return len(down) == len(up) == _MATRIX + 1 and down[0] == up[0] and down[1] == up[2]


def lora_factor(kind: str | None) -> Literal["down", "up"] | None:
    """Return which factor of a pair this is, by any convention: `"down"` (rank x in), `"up"` (out x rank), or None.

    Args:
        kind: What `ParsedKey.lora` gives.

    Example:
        >>> lora_factor("lora_A"), lora_factor("lora.up"), lora_factor("lora_magnitude_vector")
        ('down', 'up', None)
    """
    factor = FACTORS.get(kind or "", PRODUCT_FACTORS.get(kind or ""))
    return {"A": "down", "B": "up"}.get(factor or "")  # type: ignore[return-value]  # The two words.


def lora_pairs(keys: KeySet | Mapping[str, TensorInfo]) -> tuple[LoraPair, ...]:
    """Return the adapter parameters of a checkpoint, by module and adapter; a `KeySet` keeps the answer.

    Example:
        >>> from pytest_lora_ckpt import TensorInfo
        >>> pairs = lora_pairs({"q.lora_A.weight": TensorInfo((4, 8)), "q.lora_B.weight": TensorInfo((8, 4))})
        >>> pairs[0].module, pairs[0].rank
        ('q', 4)
    """
    return (keys if isinstance(keys, KeySet) else KeySet(keys)).derived(_pair_up)


def _pair_up(keys: KeySet) -> tuple[LoraPair, ...]:
    places: dict[tuple[str, str | None, int], list[tuple[str, str]]] = {}
    for key, parsed in parse_keys(keys).items():
        if parsed.is_lora:
            kind = parsed.lora or ""
            # Two parameters of one module (PEFT's `target_parameters`) have their adapters one inside the other.
            place = (parsed.module_path, parsed.adapter, parsed.roles.count("base_layer"))
            places.setdefault(place, []).append((key, f"{kind}.bias" if parsed.parameter == "bias" else kind))
    pairs = (_pair(keys, module, adapter, own) for (module, adapter, *_), own in places.items())
    return tuple(pair for pair in pairs if pair.down or pair.up or not pair.others.keys() <= LORA_SCALES)


def _pair(keys: KeySet, module: str, adapter: str | None, parameters: list[tuple[str, str]]) -> LoraPair:
    factors: dict[str, str] = {}
    others: dict[str, str] = {}
    product: dict[str, str] = {}
    again: list[tuple[str, str]] = []
    for key, kind in parameters:
        factor = lora_factor(kind)
        if factor and factors.setdefault(factor, key) != key:
            again.append((factors[factor], key))
        elif kind in PRODUCT_FACTORS:
            product[kind] = key
        elif not factor:
            others[key if kind in others else kind] = key
    infos = _as_peft_has_them(keys, factors, [kind for _, kind in parameters])
    down, up = ((factors[word], infos[word]) if word in factors else None for word in _WORDS)
    pair = LoraPair(module, adapter, down, up, others, product, tuple(again))
    shapes = {name: keys[key].shape for name, key in (product or others).items()}
    if not down or not up or pair.lacks or (product and any(len(shape) < _MATRIX for shape in shapes.values())):
        return pair
    return replace(pair, shape=shape_of_update(down[1].shape, up[1].shape, shapes))


def _as_peft_has_them(keys: KeySet, factors: Mapping[str, str], kinds: Iterable[str]) -> dict[str, TensorInfo]:
    """The factors with their axes in PEFT's order: A is rank x in, B is out x rank."""
    infos = {word: keys[key] for word, key in factors.items()}
    # GGUF has MLX's names behind `weight`; what a project keeps in a module of its own may lie either way.
    ends = [key.rsplit(".", 2)[-2:] for key in factors.values()]
    is_mlx = all(end[-1] in MLX_FACTORS and end[0] != "weight" for end in ends)
    is_own = any(kind.startswith(f"{PLAIN_CONTAINER}.lora_") for kind in kinds) and infos.keys() == {*_WORDS}
    if is_mlx or (is_own and are_turned(infos["down"].shape, infos["up"].shape)):
        return {
            word: replace(info, shape=info.shape[::-1]) if len(info.shape) == _MATRIX else info
            for word, info in infos.items()
        }
    return infos


def changes_nothing(keys: KeySet, is_zero: Callable[[str], bool]) -> bool:
    """Whether each pair of factors has an empty or an all-zero one; False where there is no pair.

    Args:
        keys: The keys of a checkpoint.
        is_zero: Whether all values of a factor that is not empty are zero. It is asked for one pair after
            another, the factor that PEFT initialises to zero first, until a pair changes something.

    Example:
        >>> from pytest_lora_ckpt import KeySet, TensorInfo
        >>> keys = KeySet({"q.lora_A.weight": TensorInfo((4, 8)), "q.lora_B.weight": TensorInfo((8, 4))})
        >>> changes_nothing(keys, lambda key: "lora_B" in key)
        True
    """
    updates = [pair.factors for pair in lora_pairs(keys) if pair.up and pair.down]
    # An embedding's `lora_embedding_A` begins at zero, any other `lora_B` (peft/tuners/lora/layer.py).
    return bool(updates) and all(any(not keys[key].numel or is_zero(key) for key in factors) for factors in updates)
