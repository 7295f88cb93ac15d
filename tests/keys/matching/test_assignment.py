"""Which rewrites are believed, with candidates made by hand: no shapes, no keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.keys.conventions import Form, Path
from pytest_lora_ckpt.keys.matching.assignment import Assigner
from pytest_lora_ckpt.keys.matching.candidates import Candidate, Rewrites
from pytest_lora_ckpt.keys.matching.shapes import Fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_lora_ckpt.keys.matching.state import Choice

LEAVES = ("q", "k", "v", "o")
SAME, OTHER = Fit(1, 0, 0, 1), Fit(0, 0, 1, 1)


def path(text: str) -> Path:
    return tuple(text.split("."))


def choose(places: Mapping[str, Sequence[str]], fits: Mapping[str, Fit] | None = None, recall: float = 1.0) -> Choice:
    """Assign each path of the checkpoint one of its possible paths in the model."""
    rewrites = Rewrites()
    forms = [Form(path(mine), "weight", "plain", None) for mine in places]
    candidates = [
        Candidate(at, forms[at], path(place), rewrite, (fits or {}).get(place, SAME))
        for at, own in enumerate(places.values())
        for place in own
        if (rewrite := rewrites.between(forms[at].path, path(place))) is not None
    ]
    return Assigner(
        forms,
        candidates,
        has_module=lambda _: False,
        adapted=True,
        clash=lambda one, other: one.place == other.place,
        recall=lambda _: recall,
    ).choose()


def placed(choice: Choice) -> dict[str, str]:
    return {".".join(own.form.path): ".".join(own.path) for own in choice.placed.values()}


def test_what_moves_together_is_believed() -> None:
    moved = {f"module.{leaf}": f"{leaf}" for leaf in LEAVES}
    assert placed(choose({key: [place] for key, place in moved.items()})) == moved


def test_equal_names_come_first() -> None:
    names = {leaf: [leaf, f"tower.{leaf}"] for leaf in LEAVES}
    assert placed(choose(names)) == {leaf: leaf for leaf in LEAVES}


def test_two_places_that_fit_equally_well_are_doubted() -> None:
    choice = choose({f"old.{leaf}": [f"old.a.{leaf}", f"old.b.{leaf}"] for leaf in LEAVES})
    assert not choice.placed
    [(sources, rewrites)] = choice.doubtful
    assert sources == (0, 1, 2, 3)
    assert {rewrite.new[-1] for rewrite in rewrites} == {"a", "b"}


def test_two_parts_that_want_one_place_are_doubted() -> None:
    choice = choose({f"{side}.net.{leaf}": [f"net.{leaf}"] for side in ("one", "two") for leaf in LEAVES})
    assert not choice.placed
    assert len(choice.doubtful) == 2


def test_a_rewrite_whose_shapes_differ_is_not_believed() -> None:
    places = {f"module.{leaf}": [leaf] for leaf in LEAVES}
    assert not choose(places, fits=dict.fromkeys(LEAVES[1:], OTHER)).placed


def test_an_unrelated_name_needs_most_of_the_models_keys_there() -> None:
    places = {f"trunk.{leaf}": [f"stem.{leaf}"] for leaf in LEAVES}
    assert len(choose(places, recall=0.9).placed) == 4
    assert not choose(places, recall=0.5).placed


def test_a_head_may_move_alone_and_another_module_with_its_neighbours() -> None:
    moved = {f"module.net.{leaf}": f"net.{leaf}" for leaf in LEAVES}
    places = {**{key: [place] for key, place in moved.items()}, "lm_head": ["model.lm_head"]}
    assert placed(choose(places)) == {**moved, "lm_head": "model.lm_head"}
