from __future__ import annotations

import pytest

from pytest_lora_ckpt.keys.matching.candidates import ModelIndex, Rewrites, images, index_map, measure
from pytest_lora_ckpt.keys.matching.shapes import compare_shapes
from pytest_lora_ckpt.keys.templates import Template, templates


def path(text: str) -> tuple[str, ...]:
    """`layers.#.fc` with `#` for a number."""
    return tuple("." if part == "#" else part for part in text.split(".")) if text else ()


def one(*keys: str, shape: tuple[int, ...] = (2, 2)) -> Template:
    [template] = templates(dict.fromkeys(keys, shape))
    return template


@pytest.mark.parametrize(
    ("old", "new", "rank"),
    [
        ("a.fc", "a.fc", 0),
        ("model.a.fc", "a.fc", 1),
        ("module.a.fc", "a.fc", 2),
        ("mm_projector.fc", "multi_modal_projector.fc", 3),
        ("layers.#.attn.fc", "layers.#.mixer.fc", 3),
        ("trunk.fc", "stem.fc", 4),
        ("a.fc", "vision_tower.a.fc", 4),
        ("vision_model.fc", "vision_tower.vision_model.fc", 2),
        ("trunk.fc", "visual.fc", 5),
    ],
)
def test_rank_says_how_much_a_rewrite_asks_one_to_believe(old: str, new: str, rank: int) -> None:
    rewrite = Rewrites().between(path(old), path(new))
    assert rewrite is not None
    assert rewrite.rank == rank


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vision_tower.fc", "audio_tower.fc"),
        ("encoder.fc", "decoder.fc"),
        ("attn1.fc", "attn2.fc"),
        ("policy.fc", "ref.fc"),
    ],
)
def test_nothing_becomes_its_opposite(old: str, new: str) -> None:
    assert Rewrites().between(path(old), path(new)) is None


def test_what_both_paths_share_at_their_end_is_no_part_of_the_rewrite() -> None:
    rewrite = Rewrites().between(path("model.layers.#.fc"), path("language_model.layers.#.fc"))
    assert rewrite is not None
    assert (rewrite.old, rewrite.new) == (("model",), ("language_model",))
    assert images(path("model.norm"), [rewrite]) == [("language_model", "norm")]
    assert images(path("lm_head"), [rewrite]) == []


@pytest.mark.parametrize(
    ("source", "target", "before", "after"),
    [
        ("model.layers.{}.fc.weight", "layers.{}.fc.weight", ("3",), ("3",)),
        ("blocks.0.layers.{}.fc.weight", "layers.{}.fc.weight", ("0", "3"), ("3",)),
        ("layers.{}.fc.weight", "blocks.0.layers.{}.fc.weight", ("3",), ("0", "3")),
    ],
)
def test_numbers_carry_over(source: str, target: str, before: tuple[str, ...], after: tuple[str, ...]) -> None:
    mine, theirs = one(*map(source.format, range(4))), one(*map(target.format, range(4)))
    mapped = index_map(mine.forms[0].path, theirs.forms[0].path, mine, theirs)
    assert mapped is not None
    assert mapped(before) == after


def test_a_number_that_varies_is_never_dropped() -> None:
    mine, theirs = one("a.0.fc.weight", "a.1.fc.weight"), one("a.fc.weight")
    assert index_map(mine.forms[0].path, theirs.forms[0].path, mine, theirs) is None


def test_measure_counts_members_by_their_shapes() -> None:
    mine = one("h.0.fc.weight", "h.1.fc.weight", "h.2.fc.weight")
    theirs = one("h.0.fc.weight", "h.1.fc.weight")
    fit = measure(mine, mine.forms[0].path, [theirs], theirs.forms[0].path, "weight")
    assert (fit.same, fit.met, fit.total) == (2, 2, 3)
    other = one("h.0.fc.weight", shape=(9,))
    assert measure(mine, mine.forms[0].path, [other], other.forms[0].path, "weight").share == 0.0


def test_a_trained_head_goes_to_the_copy_that_peft_trains() -> None:
    model = templates(dict.fromkeys(("score.original_module.weight", "score.modules_to_save.default.weight"), (2, 2)))
    source = one("score.weight")
    for trained_first, variant in ((True, "copy"), (False, "original")):
        index = ModelIndex(model, trained_first=trained_first)
        [place] = index.places(source.forms[0], ("score",), source, ["default"])
        assert place.forms[0].variant == variant


@pytest.mark.parametrize(
    ("shape", "other", "family", "closeness"),
    [
        ((4, 8), (4, 8), "weight", "same"),
        ((0,), (4, 8), "weight", "near"),
        ((2, 8), (4, 8), "A", "near"),
        ((8, 2), (8, 4), "B", "near"),
        ((8, 4), (4, 8), "A", "near"),
        ((8, 4), (4, 8), "weight", "other"),
        ((4, 9), (4, 8), "A", "other"),
    ],
)
def test_closeness_of_shapes(shape: tuple[int, ...], other: tuple[int, ...], family: str, closeness: str) -> None:
    assert compare_shapes(shape, other, family) == closeness
