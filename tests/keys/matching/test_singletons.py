"""Single tensors that are left over: a head that moved finds its place, any other norm does not."""

from __future__ import annotations

from pytest_lora_ckpt.keys.conventions import NUMBER, Form
from pytest_lora_ckpt.keys.matching.candidates import Candidate, Rewrite, Rewrites
from pytest_lora_ckpt.keys.matching.shapes import Fit
from pytest_lora_ckpt.keys.matching.singletons import followers, lone
from pytest_lora_ckpt.keys.matching.state import Choice

SAME = Fit(1, 0, 0, 1)


def candidate(source: int, old: str, new: str) -> Candidate:
    path, other = tuple(old.split(".")), tuple(new.split("."))
    rewrite = Rewrites().between(path, other)
    assert isinstance(rewrite, Rewrite)
    return Candidate(source, Form(path, "weight", "plain", None), other, rewrite, SAME)


def clash(one: Candidate, other: Candidate) -> bool:
    return one.place == other.place


def test_a_template_follows_a_rewrite_that_is_believed() -> None:
    choice = Choice(clash)
    choice.place([candidate(0, "model.a.fc", "a.fc")])
    mine, other = candidate(1, "model.b.fc", "b.fc"), candidate(1, "model.b.fc", "c.fc")
    assert followers({1: [mine, other]}, choice) == [mine]


def test_none_follows_where_two_believed_rewrites_fit() -> None:
    choice = Choice(clash)
    choice.place([candidate(0, "model.a.fc", "a.fc"), candidate(2, "model.c.fc", "x.c.fc")])
    assert not followers({1: [candidate(1, "model.b.fc", "b.fc"), candidate(1, "model.b.fc", "x.b.fc")]}, choice)


def test_a_head_may_move_alone() -> None:
    head = candidate(0, "language_model.lm_head", "lm_head")
    assert lone({0: [head]}, Choice(clash), [head.form], clash) == [head]


def test_nothing_moves_alone_that_has_two_places_or_a_rival() -> None:
    head, other = candidate(0, "a.lm_head", "lm_head"), candidate(1, "b.lm_head", "lm_head")
    forms = [head.form, other.form]
    assert not lone({0: [head], 1: [other]}, Choice(clash), forms, clash)
    assert not lone({0: [head, candidate(0, "a.lm_head", "c.a.lm_head")]}, Choice(clash), forms, clash)


def test_a_norm_does_not_leave_neighbours_that_have_no_place() -> None:
    norm = candidate(0, "vision.norm", "norm")
    neighbours = [Form(("vision", name), "weight", "plain", None) for name in ("patch", "proj")]
    assert not lone({0: [norm]}, Choice(clash), [norm.form, *neighbours], clash)


def test_a_head_comes_out_of_a_sequence() -> None:
    """Projects cast the logits in an `nn.Sequential` around the head."""
    for leaf, moves in (("lm_head", True), ("norm", False)):
        form = Form((leaf, NUMBER), "weight", "plain", None)
        moved = Candidate(0, form, (leaf,), Rewrite((leaf, NUMBER), (leaf,), 2), SAME)
        assert bool(lone({0: [moved]}, Choice(clash), [form], clash)) == moves
