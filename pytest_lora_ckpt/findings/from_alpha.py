"""The alpha next to the factors (kohya, LyCORIS): where modules lack it, and where it is no number.

A loader that finds none scales a module by 1 and says nothing (`_convert_non_diffusers_lora_to_diffusers` in
diffusers/loaders/lora_conversion_utils.py; `LoRAModule` in sd-scripts' networks/lora.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.findings.finding import finding
from pytest_lora_ckpt.findings.from_names import keys_of, stand_out
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.lora.scaling import alpha_of
from pytest_lora_ckpt.vocabulary.lora import DIFFUSERS_COMPONENTS
from pytest_lora_ckpt.wording import count, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_lora_ckpt.results import Finding
    from pytest_lora_ckpt.tensors import KeySet

_REMEDY = "Save again from the run, with the alpha of every module: without it a loader scales the update by 1."


def alpha_findings(keys: KeySet, numbers: Mapping[str, float]) -> Iterator[Finding]:
    """Find modules without the alpha that the others have, alphas that scale nothing, and alphas without factors.

    Args:
        keys: The checkpoint's keys.
        numbers: Key -> number (`Checkpoint.alphas`).
    """
    pairs = [pair for pair in lora_pairs(keys) if pair.down or pair.up]
    having = [pair for pair in pairs if "alpha" in pair.others]
    if not having:
        return
    lacking = [pair for pair in pairs if "alpha" not in pair.others]
    # Where alpha is the rank everywhere, nothing is lost.
    scaled = any(alpha_of(pair, numbers) != pair.rank for pair in having if pair.is_scaled)
    if scaled and stand_out(len(lacking), len(pairs)):
        message = f"{len(lacking)} of {count(len(pairs), 'adapted module')} {_have(lacking)} no alpha, and others have "
        message += f"one: such as {printable(lacking[0].module)}."
        yield finding("lora-pair-incomplete", message, keys_of(lacking), remedy=_REMEDY)
    broken = [pair for pair in having if pair.is_scaled and not alpha_of(pair, numbers)]
    if broken:
        key = broken[0].others["alpha"]
        what = numbers.get(key, f"of shape {list(keys[key].shape)} and dtype {keys[key].dtype}")
        message = f"{len(broken)} of {count(len(having), 'module')} {_have(broken)} an alpha that is no number above 0:"
        message += f" {printable(key)} is {what}."
        own = [pair.others["alpha"] for pair in broken]
        yield finding("lora-pair-incomplete", message, own, remedy=_REMEDY)
    alone = _alone(keys)
    if alone:
        what = f"an alpha and no factors, such as {printable(alone[0])}."
        yield finding("lora-pair-incomplete", f"{count(len(alone), 'module')} {_have(alone)} {what}", alone)


def _alone(keys: KeySet) -> list[str]:
    """List alphas without factors; a number of this name in a file with other weights may be the model's own."""
    parsed = parse_keys(keys)
    others = [key for key, own in parsed.items() if not own.is_adapter]
    are_alphas = all(key.endswith(".alpha") and keys[key].numel == 1 for key in others)
    return others if are_alphas else []


def diffusers_without_alpha(keys: KeySet) -> Iterator[Finding]:
    """Say that a file of diffusers has no alpha: it is served at scaling 1, whatever it was trained with.

    Args:
        keys: Keys of a safetensors file in which no config and no metadata lie.
    """
    pairs = [pair for pair in lora_pairs(keys) if pair.down and pair.up]
    factors = [pair.down[0] for pair in pairs if pair.down]
    ours = factors and all(key.split(".")[0] in DIFFUSERS_COMPONENTS and key.endswith(".weight") for key in factors)
    if ours and not any(key.endswith(".alpha") for key in keys):
        message = "The file has no alpha (neither metadata nor alpha keys): diffusers serves it at scaling 1."
        yield finding("alpha-not-in-file", message)


def _have(those: Sequence[object]) -> str:
    return "has" if len(those) == 1 else "have"
