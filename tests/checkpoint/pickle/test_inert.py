from __future__ import annotations

import pytest

from pytest_lora_ckpt.checkpoint import Opaque
from pytest_lora_ckpt.checkpoint.pickle.inert import describe, kind_and_size
from pytest_lora_ckpt.tensors import TensorInfo


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Opaque("os.system"), "os.system"),
        (Opaque("a.B", ()), "a.B()"),
        (Opaque("a.B", (1, "x")), "a.B(1, 'x')"),
        (Opaque("a.B", (), {"k": 1}), "a.B(k=1)"),
        (Opaque("a.B", (), state={"x": [1]}), "a.B(x=[1])"),
        (Opaque("a.B", (), state=(None, {"x": 1})), "a.B(state=(None, {'x': 1}))"),
        (Opaque("a.B", (), elements=[1]), "a.B([1])"),
        (Opaque("a.B", (), entries={"x": 1}), "a.B({'x': 1})"),
        ((1,), "(1,)"),
        ((), "()"),
        (set(), "set()"),
        (frozenset({1}), "{1}"),
        ([1, 2, 3, 4, 5, 6, 7], "[1, 2, 3, 4, 5, 6, …]"),
        ([[[[[1]]]]], "[[[[…]]]]"),
        (2**300, "<int of 301 bits>"),
        (bytes(1000), "<1000 bytes>"),
        (TensorInfo((2, 3)), "tensor(2, 3)"),
        (None, "None"),
        (True, "True"),
    ],
)
def test_one_line_for_any_value(value: object, shown: str) -> None:
    assert describe(value) == shown


def test_a_line_is_short_whatever_it_shows() -> None:
    wide: object = "x" * 100_000
    for _ in range(50):
        wide = Opaque("y" * 50, (wide, wide), state={"k" * 1000: wide})
    assert len(repr(wide)) <= 120
    assert describe("a\nb") == "'a\\nb'"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": 1}, "dict of 1"),
        ([], "list of 0"),
        (TensorInfo((2,), "bfloat16"), "tensor (2,) bfloat16"),
        (Opaque("a.B", (1,)), "a.B(1)"),
        (1.5, "float"),
    ],
)
def test_kind_and_size(value: object, shown: str) -> None:
    assert kind_and_size(value) == shown
