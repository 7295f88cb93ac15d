from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_lora_ckpt import KeySet, TensorInfo, compare
from pytest_lora_ckpt.comparison.pairing import Excuses
from pytest_lora_ckpt.comparison.stages import parse_stages
from pytest_lora_ckpt.results import KEY_CLASSES

LAYERS = range(3)
BASE = {f"model.layers.{n}.{name}.weight": (8, 8) for n in LAYERS for name in ("q_proj", "k_proj")}
PLAIN = {**BASE, "model.embed_tokens.weight": (16, 8), "lm_head.weight": (16, 8)}


def lora(prefix: str = "", adapter: str = ".default") -> dict[str, tuple[int, ...]]:
    factors = (("lora_A", (2, 8)), ("lora_B", (8, 2)))
    return {
        f"{prefix}model.layers.{n}.q_proj.{factor}{adapter}.weight": shape for n in LAYERS for factor, shape in factors
    }


def wrapped() -> dict[str, tuple[int, ...]]:
    """`PLAIN` as PEFT's model calls it, with LoRA on q_proj."""
    base = {f"base_model.model.{key.replace('q_proj.', 'q_proj.base_layer.')}": shape for key, shape in PLAIN.items()}
    return {**base, **lora("base_model.model.")}


def test_as_is_is_torchs_own_count() -> None:
    import torch

    class Net(torch.nn.Module):
        def __init__(self, *names: str) -> None:
            super().__init__()
            for name in names:
                self.add_module(name, torch.nn.Linear(2, 2))

    ours, theirs = Net("a", "b"), Net("b", "c")
    result = ours.load_state_dict(theirs.state_dict(), strict=False)
    report = compare(theirs.state_dict(), ours)
    assert report.as_is is not None
    assert sorted(result.missing_keys) == list(report.as_is.missing)
    assert sorted(result.unexpected_keys) == list(report.as_is.unexpected)


def test_a_full_peft_checkpoint_in_a_plain_model() -> None:
    report = compare(wrapped(), PLAIN)
    assert report.as_is is not None
    assert report.as_is.missing.counts["lora_wrapped"] == len(PLAIN)
    assert report.as_is.unexpected.counts == dict.fromkeys(KEY_CLASSES, 0) | {"lora": 6, "lora_wrapped": len(PLAIN)}
    assert report.verdict == "partial"


def test_an_adapter_alone_needs_no_base_weights() -> None:
    report = compare(lora("base_model.model.", adapter=""), wrapped())
    assert (report.scope, report.verdict) == ("adapter", "loads-after-remap")
    assert report.remapped is not None
    assert report.remapped.missing.counts["excused"] == len(report.remapped.missing) == len(PLAIN)
    assert report.loaded_ratio() == 1.0


def test_an_adapter_with_a_gap_is_partial() -> None:
    keys = lora("base_model.model.")
    gone = keys.popitem()[0]
    report = compare(keys, wrapped())
    assert report.verdict == "partial"
    assert report.remapped is not None
    assert report.remapped.missing.of("lora") == (gone,)


def test_trained_parameters_only_is_healthy() -> None:
    """LoRA and projector, as an `on_save_checkpoint` hook keeps them."""
    model = {**wrapped(), "projector.weight": (8, 4)}
    kept = {f"model.{key}": shape for key, shape in {**lora("base_model.model."), "projector.weight": (8, 4)}.items()}
    report = compare(kept, model)
    assert (report.scope, report.verdict) == ("adapter", "loads-after-remap")


def test_a_projector_that_is_there_in_part_is_told() -> None:
    model = {**wrapped(), "projector.weight": (8, 4), "projector.bias": (8,)}
    kept = {**lora("base_model.model."), "projector.weight": (8, 4)}
    (found,) = [each for each in compare(kept, model).findings if each.cause == "component-partly-held"]
    assert (found.severity, found.keys) == ("warning", ("projector.bias",))
    whole = compare({**kept, "projector.bias": (8,)}, model)
    assert "component-partly-held" not in {each.cause for each in whole.findings}


def test_other_adapters_of_the_model_are_excused() -> None:
    model = {**wrapped(), **lora("base_model.model.", ".second")}
    report = compare(lora("base_model.model.", ""), model, scope="adapter", adapter_name="second")
    assert report.verdict == "loads-after-remap"
    assert all(".second." in key for key in report.mapping.values())


def test_full_scope_can_be_asked_for() -> None:
    report = compare(lora("base_model.model."), wrapped(), scope="full")
    assert report.verdict == "partial"
    assert report.remapped is not None
    assert report.remapped.missing.counts["non_lora"] == len(PLAIN)


def test_aliases_of_the_model_are_one_tensor() -> None:
    model = {"resampler_module.resampler.q": (2, 2), "resampler.q": (2, 2)}
    report = compare({"resampler.q": (2, 2)}, model, aliases=[tuple(model)])
    assert report.verdict == "loads"
    assert report.remapped is not None
    assert report.remapped.missing.of("alias") == ("resampler_module.resampler.q",)
    assert report.loaded_ratio() == 1.0
    assert compare({"resampler.q": (2, 2)}, model).verdict == "partial"


def test_aliases_of_the_checkpoint_are_one_tensor() -> None:
    info = TensorInfo((4, 2), storage="0")
    checkpoint = KeySet({"embed_tokens.weight": info, "lm_head.weight": info})
    report = compare(checkpoint, {"embed_tokens.weight": (4, 2)})
    assert report.verdict == "loads"
    assert report.remapped is not None
    assert report.remapped.unexpected.of("alias") == ("lm_head.weight",)


def test_buffers_that_the_model_works_out_are_excused() -> None:
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    assert compare({**PLAIN, key: (4,)}, PLAIN).verdict == "loads"
    assert compare(PLAIN, {**PLAIN, key: (4,)}).verdict == "loads"


def test_shapes_that_differ() -> None:
    report = compare({**PLAIN, "lm_head.weight": (20, 8)}, PLAIN)
    assert report.verdict == "incompatible"
    assert report.remapped is not None
    assert report.remapped.shape_mismatches == ("lm_head.weight",)
    assert "lm_head.weight" not in report.remapped.missing
    assert "lm_head.weight" not in report.mapping
    assert "resized-embedding" in {finding.cause for finding in report.findings}


def test_a_stage_excuses_its_components_only() -> None:
    stages = parse_stages(["warmup: vision", "sft: vision language lora"])
    model = {"vision.w": (1,), "language.w": (1,), "head.w": (1,)}
    report = compare({"vision.w": (1,)}, model, stage=stages["warmup"])
    assert report.remapped is not None
    assert report.remapped.missing.of("excused") == ("language.w",)
    assert report.remapped.missing.of("non_lora") == ("head.w",)


def test_keys_that_another_file_brings() -> None:
    slots = lora("base_model.model.")
    base = {key: shape for key, shape in wrapped().items() if key not in slots}
    assert compare(base, wrapped()).verdict == "partial"
    excuses = Excuses(provided_elsewhere=frozenset(slots))
    assert compare(base, wrapped(), excuses=excuses).verdict == "loads"


@pytest.mark.parametrize("checkpoint", [{}, {"a": (1,)}])
def test_without_a_model_nothing_is_compared(checkpoint: dict[str, tuple[int, ...]]) -> None:
    report = compare(checkpoint, None)
    assert report.verdict == "not-compared"
    assert report.to_dict()["as_is"] is None
    with pytest.raises(ValueError, match="Nothing was compared"):
        report.loaded_ratio()


def test_nothing_shared_is_a_noop() -> None:
    assert compare({"a.b": (2,)}, {"c.d": (3,)}).verdict == "noop"
    assert compare({}, PLAIN).verdict == "noop"


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="'auto', 'adapter', 'full', and was 'most'"):
        compare({}, {}, scope="most")


@pytest.mark.parametrize("odd", [None, 3, "a.b"])
def test_what_has_no_keys_is_refused(odd: object) -> None:
    with pytest.raises(TypeError, match="Keys are taken from"):
        compare(odd, {"a": (1,)})


SEGMENTS = st.sampled_from(
    [
        "model",
        "module",
        "base_model",
        "layers",
        "0",
        "1",
        "q_proj",
        "base_layer",
        "lora_A",
        "lora_B",
        "default",
        "weight",
    ]
)
KEY_SETS = st.dictionaries(
    st.lists(SEGMENTS, min_size=1, max_size=6).map(".".join), st.sampled_from([(2, 2), (2, 4), (4, 2)]), max_size=12
)


@given(KEY_SETS, KEY_SETS)
def test_every_key_is_accounted_for_exactly_once(
    checkpoint: dict[str, tuple[int, ...]], model: dict[str, tuple[int, ...]]
) -> None:
    report = compare(checkpoint, model)
    for state, sent in ((report.as_is, None), (report.remapped, report.mapping)):
        assert state is not None
        sources = list(sent) if sent is not None else list(state.loaded)
        assert sorted([*sources, *state.unexpected, *state.shape_mismatches]) == sorted(checkpoint)
        places = {*state.loaded}
        assert not places & {*state.missing}
        assert places | {*state.missing} <= {*model}
        assert len(places) + len(state.missing) + len(state.shape_mismatches) >= len(model)
        assert sum(state.missing.counts.values()) == len(state.missing)
    for key, place in report.mapping.items():
        assert checkpoint[key] == model[place]
    assert len(set(report.mapping.values())) == len(report.mapping)


def test_the_order_of_the_keys_changes_nothing() -> None:
    shuffled = list(wrapped().items())
    random.Random(0).shuffle(shuffled)
    assert compare(dict(shuffled), PLAIN).to_dict() == compare(wrapped(), PLAIN).to_dict()


def test_components_add_up() -> None:
    report = compare(wrapped(), PLAIN)
    assert sum(row.in_file for row in report.components) == len(wrapped())
    assert sum(row.in_model or 0 for row in report.components) == len(PLAIN)
    assert {(row.name, row.lora) for row in report.components} == {
        *itertools.product(["layers"], [False, True]),
        ("embed_tokens", False),
        ("lm_head", False),
    }


def test_a_models_own_alpha_is_no_lora() -> None:
    """Snake activations and others have a parameter called `alpha`; kohya's LoRA calls its scale so."""
    model = {"conv.weight": (4, 4), "snake.alpha": (4,)}
    report = compare({f"module.{key}": shape for key, shape in model.items()}, model)
    assert (report.verdict, report.scope, report.lora_keys) == ("loads-after-remap", "full", (0, 0))
    lost = compare({"snake.alpha": (4,)}, model)
    assert lost.verdict == "partial"
    assert lost.remapped is not None
    assert lost.remapped.missing.of("non_lora") == ("conv.weight",)
    assert compare({"conv.weight": (4, 4), "old.alpha": (4,)}, {"conv.weight": (4, 4)}).verdict == "partial"
