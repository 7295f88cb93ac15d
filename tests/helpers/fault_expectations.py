"""What each fault must do to a checkpoint, told without the package: by the names of the keys and by torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from tests.helpers.fault_samples import Diff, equal

Tensors: TypeAlias = "dict[str, torch.Tensor]"


@dataclass
class Case:
    """A healthy checkpoint, the damaged one, and what differs."""

    before: Tensors
    after: Tensors
    config: dict[str, Any]
    found: Diff

    def only(self, **kept: Any) -> None:
        """Nothing but these fields of the difference is left."""
        assert all(getattr(self.found, name) for name in kept), f"no {kept}: {self.found}"
        rest = replace(self.found, **{name: type(getattr(self.found, name))() for name in kept})
        assert rest == Diff(), rest


Expectation: TypeAlias = Callable[[Case], None]
Sees: TypeAlias = Callable[[torch.Tensor, torch.Tensor], bool]

LORA = re.compile(r"\.lora_")
LORA_A = re.compile(r"\.lora_A\.")
LORA_B = re.compile(r"\.lora_B\.")
MAGNITUDE = re.compile(r"\.lora_magnitude_vector")
ADAPTED = re.compile(r"layers\.\d+\..*\.base_layer\.weight$")


def renamed(rename: Callable[[str], str]) -> Expectation:
    """Every key has its new name, in the old order, and its old tensor."""

    def check(case: Case) -> None:
        case.only(lost=True, new=True)
        assert set(case.after) == {rename(key) for key in case.before}
        assert len(case.after) == len(case.before)
        assert all(equal(case.before[key], case.after[rename(key)]) for key in case.before)

    return check


def lost(pattern: str, count: int | None = None) -> Expectation:
    """Keys are gone: so many of those that match, or all of them."""

    def check(case: Case) -> None:
        case.only(lost=True)
        matching = [key for key in case.before if re.search(pattern, key)]
        assert set(case.found.lost) <= set(matching)
        assert len(case.found.lost) == (count or len(matching))

    return check


def changed(pattern: re.Pattern[str], sees: Sees, count: int | None = None) -> Expectation:
    """Tensors are other ones: so many of those that match, or all of them."""

    def check(case: Case) -> None:
        case.only(changed=True)
        matching = [key for key in case.before if pattern.search(key)]
        assert set(case.found.changed) <= set(matching)
        assert len(case.found.changed) == (count or len(matching))
        assert all(sees(*pair) for pair in case.found.changed.values())

    return check


def other_values(before: torch.Tensor, after: torch.Tensor) -> bool:
    return before.shape == after.shape and before.dtype == after.dtype and not torch.allclose(before, after)


def empty(_: torch.Tensor, after: torch.Tensor) -> bool:
    return after.shape == (0,)


def zero(_: torch.Tensor, after: torch.Tensor) -> bool:
    return not after.any()


def one_is(test: Callable[[torch.Tensor], torch.Tensor]) -> Sees:
    return lambda before, after: int(test(after).sum()) == 1 == int((before != after).sum())


def codes(before: torch.Tensor, after: torch.Tensor) -> bool:
    return after.dtype == torch.int8 and after.shape == before.shape and int(after.abs().max()) == 127


def turned(before: torch.Tensor, after: torch.Tensor) -> bool:
    return equal(before.t().contiguous(), after)


def _exchanged(swap: Callable[[str], str]) -> Expectation:
    def check(case: Case) -> None:
        case.only(changed=True)
        assert all(LORA.search(key) for key in case.found.changed)
        assert all(equal(after, case.before[swap(key)]) for key, (_, after) in case.found.changed.items())

    return check


def _layers_exchanged(key: str) -> str:
    return re.sub(r"layers\.([23])\.", lambda found: f"layers.{5 - int(found[1])}.", key)


def _modules_exchanged(key: str) -> str:
    for one, other in (("gate_proj", "up_proj"), ("k_proj", "v_proj"), ("q_proj", "v_proj")):
        if one in key or other in key:
            return key.replace(one, "?").replace(other, one).replace("?", other)
    return key


def _factors_exchanged(key: str) -> str:
    return key.replace("lora_A", "?").replace("lora_B", "lora_A").replace("?", "lora_B")


def _layers_repeated(case: Case) -> None:
    case.only(changed=True)
    assert {key for key in case.before if LORA.search(key) and ".layers.0." not in key} == set(case.found.changed)
    for key, (_, after) in case.found.changed.items():
        assert equal(after, case.before[re.sub(r"layers\.\d+\.", "layers.0.", key)])


def _cut(case: Case, modules: int | None) -> None:
    case.only(changed=True)
    downs = [key for key in case.found.changed if LORA_A.search(key)]
    assert len(downs) == (modules or sum(bool(LORA_A.search(key)) for key in case.before))
    assert len(case.found.changed) == 2 * len(downs)
    for key, (before, after) in case.found.changed.items():
        rank = before.shape[0 if LORA_A.search(key) else 1]
        assert equal(before[: rank // 2] if LORA_A.search(key) else before[:, : rank // 2].contiguous(), after)


def _dtype_changed(before: torch.Tensor, after: torch.Tensor) -> bool:
    return after.dtype == torch.bfloat16 and equal(before.to(torch.bfloat16), after)


def _pair_of_two_ranks(before: torch.Tensor, after: torch.Tensor) -> bool:
    return equal(before[:, : before.shape[1] // 2].contiguous(), after)


def _factor(before: torch.Tensor, after: torch.Tensor) -> bool:
    return before.shape == after.shape and torch.allclose(after / before, (after / before).mean())


def _merged(case: Case) -> None:
    case.only(changed=True)
    assert set(case.found.changed) == {key for key in case.before if ADAPTED.search(key)}
    for key, (before, after) in case.found.changed.items():
        stem = key.removesuffix("base_layer.weight")
        down, up = (case.before[f"{stem}lora_{factor}.default.weight"] for factor in "AB")
        assert torch.allclose(after, before + 2 * up @ down, atol=1e-5)


def _more_layers(case: Case) -> None:
    case.only(new=True)
    for key, tensor in case.found.new.items():
        like = case.before[re.sub(r"layers\.\d+\.", "layers.3.", key)]
        assert ".layers.4." in key or key.startswith("layers.4.")
        assert tensor.shape == like.shape
    stack = next(key for key in case.found.new).split("layers.4.")[0]
    assert len(case.found.new) == sum(key.startswith(f"{stack}layers.3.") for key in case.before)


def _rows(before: torch.Tensor, after: torch.Tensor) -> bool:
    return after.shape[0] == before.shape[0] + 8 and equal(after[: before.shape[0]], before)


def _one_name(*names: str) -> Expectation:
    def check(case: Case) -> None:
        case.only(changed=True)
        ((key, (before, after)),) = case.found.changed.items()
        assert any(name in key for name in names)
        assert other_values(before, after)
        assert any(equal(before, tensor) for other, tensor in case.after.items() if other != key)

    return check


def _added(rename: Callable[[str], str]) -> Expectation:
    def check(case: Case) -> None:
        case.only(new=True)
        assert set(case.found.new) == {rename(key) for key in case.before if LORA.search(key)}
        like = {rename(key): tensor for key, tensor in case.before.items()}
        assert all(tensor.shape == like[key].shape for key, tensor in case.found.new.items())
        assert not any(equal(tensor, like[key]) for key, tensor in case.found.new.items())

    return check


def _base_weight(case: Case) -> None:
    case.only(new=True)
    ((key, tensor),) = case.found.new.items()
    stem = key.removesuffix("base_layer.weight")
    assert tensor.shape == (case.before[f"{stem}lora_B.weight"].shape[0], case.before[f"{stem}lora_A.weight"].shape[1])


def _half(case: Case) -> None:
    case.only(lost=True)
    assert set(case.found.lost) >= set(list(case.before)[math.ceil(len(case.before) / 2) :])
    assert case.after


def _unwrapped(case: Case) -> None:
    case.only(lost=True, new=True)
    kept = {key: tensor for key, tensor in case.before.items() if not LORA.search(key)}
    plain = {key.replace("base_model.model.", "").replace(".base_layer", ""): kept[key] for key in kept}
    assert set(case.after) == set(plain)
    assert all(equal(case.after[key], plain[key]) for key in plain)


def _in_keys(key: str) -> str:
    key = re.sub(r"lora_magnitude_vector$", "lora_magnitude_vector.default.weight", key)
    key = re.sub(r"(lora_[AB])\.weight", r"\1.default.weight", key)
    return key.replace("lm_head.weight", "lm_head.modules_to_save.default.weight")


NAMED = re.compile(r"(lora_A|lora_B|lora_magnitude_vector|modules_to_save)\.default")
FIRST_NUMBER = re.compile(r"\.(\d+)\.")

EXPECTED: dict[str, Expectation] = {
    "wrapper-prefix": renamed("module.{}".format),
    "compile-prefix": renamed("_orig_mod.{}".format),
    "fsdp-wrapper": renamed(lambda key: FIRST_NUMBER.sub(r".\1._fsdp_wrapped_module.", key, count=1)),
    "checkpoint-wrapper": renamed(lambda key: FIRST_NUMBER.sub(r".\1._checkpoint_wrapped_module.", key, count=1)),
    "outer-prefix-added": renamed("model.{}".format),
    "outer-prefix-lost": renamed(lambda key: re.sub(r"^(base_model\.model|\w+)\.", "", key)),
    "inner-level-lost": renamed(lambda key: key.replace("base_model.model.model.", "base_model.model.")),
    "inner-level-added": renamed(
        lambda key: key.replace("base_model.model.model.", "base_model.model.model.language_model.")
    ),
    "base-layer-lost": renamed(lambda key: key.replace(".base_layer", "")),
    "peft-level-lost": renamed(lambda key: key.replace("base_model.model.", "")),
    "adapter-renamed": renamed(lambda key: NAMED.sub(r"\1.default_0", key)),
    "adapter-name-lost": renamed(lambda key: NAMED.sub(r"\1", key)),
    "adapter-name-in-keys": renamed(_in_keys),
    "other-convention": renamed(lambda key: key.replace(".lora_A", ".lora_down").replace(".lora_B", ".lora_up")),
    "one-lora-b-missing": lost(r"lora_B", 1),
    "all-lora-b-missing": lost(r"lora_B"),
    "one-lora-a-missing": lost(r"lora_A", 1),
    "one-module-missing": lambda case: lost(r"layers\.2\..*lora_", 3 if _is_dora(case) else 2)(case),
    "one-layer-missing": lost(r"layers\.2\..*lora_"),
    "one-target-missing": lambda case: lost(rf"{_last_target(case)}\.lora_")(case),
    "no-lora": lost(r"lora_"),
    "no-lora-unwrapped": _unwrapped,
    "one-magnitude-missing": lost(r"magnitude", 1),
    "dora-lost": lost(r"magnitude"),
    "modules-to-save-missing": lost(r"lm_head"),
    "trained-copy-missing": lost(r"modules_to_save"),
    "projector-missing": lambda case: lost(_bridge(case))(case),
    "trained-projector-missing": lambda case: lost(_bridge(case))(case),
    "biases-missing": lost(r"\.bias$"),
    "component-missing": lambda case: lost(_largest(case))(case),
    "wrong-stage": lambda case: lost(_with_lora(case))(case),
    "last-shard-missing": _half,
    "fewer-layers": lambda case: lost(_last_layer(case))(case),
    "more-layers": _more_layers,
    "size-0": changed(LORA, empty),
    "trained-copy-size-0": lambda case: changed(_copies(case), empty)(case),
    "base-size-0": changed(ADAPTED, empty),
    "lora-b-zero": changed(LORA_B, zero),
    "one-lora-b-zero": changed(LORA_B, zero, 1),
    "one-lora-a-zero": changed(LORA_A, zero, 1),
    "nan": changed(LORA_B, one_is(torch.isnan), 1),
    "inf": changed(LORA_A, one_is(torch.isinf), 1),
    "integer-codes": changed(LORA, codes),
    "base-integer-codes": changed(ADAPTED, codes),
    "dtype-changed": changed(LORA, _dtype_changed),
    "dtype-mixed": changed(LORA_B, lambda before, after: equal(before.double(), after), 1),
    "adapter-of-another-run": changed(LORA, other_values),
    "scale-folded": changed(LORA_B, _factor),
    "other-base": changed(ADAPTED, other_values),
    "merged-twice": _merged,
    "base-transposed": changed(ADAPTED, turned, 1),
    "vocabulary-resized": changed(re.compile(r"(embed_tokens|lm_head)\..*weight$|lm_head\.weight$"), _rows),
    "layers-exchanged": _exchanged(_layers_exchanged),
    "layers-repeated": _layers_repeated,
    "modules-exchanged": _exchanged(_modules_exchanged),
    "factors-exchanged": _exchanged(_factors_exchanged),
    "factors-transposed": changed(re.compile(r"lora_[AB]"), turned),
    "rank-halved": lambda case: _cut(case, None),
    "one-rank-odd": lambda case: _cut(case, 1),
    "pair-of-two-ranks": changed(LORA_B, _pair_of_two_ranks, 1),
    "tied-weights-differ": _one_name("lm_head"),
    "aliases-disagree": _one_name("resampler", "projector", "projection"),
    "two-generations": _added("module.{}".format),
    "second-adapter": _added(lambda key: key.replace(".default", ".default_old")),
    "base-weight-in-adapter": _base_weight,
    "bit-flip": changed(LORA_B, lambda before, after: torch.equal(before.abs(), after.abs()), 1),
    "bit-flip-in-zip": changed(LORA_B, lambda before, after: torch.equal(before.abs(), after.abs()), 1),
}


def _is_dora(case: Case) -> bool:
    return any(MAGNITUDE.search(key) for key in case.before)


def _last_target(case: Case) -> str:
    return [key for key in case.before if LORA_A.search(key)][-1].split(".lora_A")[0].rpartition(".")[2]


def _bridge(case: Case) -> str:
    """The names of the first part between vision and language, aliases included."""
    keys = [key.removeprefix("model.") for key in case.before]
    first = next(key.partition(".")[0] for key in keys if re.match(r"resampler|projector", key))
    one = r"resampler(_module)?" if first.startswith("resampler") else r"(projector|vision_to_language_projection)"
    return rf"^(model\.)?{one}\."


def _largest(case: Case) -> str:
    seen = any("vision_encoder" in key for key in case.before)
    return r"^(model\.)?vision_encoder\." if seen else r"^base_model\.model\.(lm_head|model\.embed_tokens)\."


def _with_lora(case: Case) -> str:
    whole = any("language_model" in key for key in case.before)
    return r"^(model\.)?language_model\." if whole else r"layers\."


def _last_layer(case: Case) -> str:
    whole = any("language_model" in key for key in case.before)
    return r"language_model\..*layers\.3\." if whole else r"layers\.3\."


def _copies(case: Case) -> re.Pattern[str]:
    marked = any("modules_to_save" in key for key in case.before)
    return re.compile(r"\.modules_to_save\." if marked else r"lm_head\.weight$")
