from __future__ import annotations

import pytest

from pytest_lora_ckpt.keys.matching.fusion import find_fusions
from pytest_lora_ckpt.keys.templates import templates

SPLIT = {"attn.q_proj.weight": (8, 8), "attn.k_proj.weight": (4, 8), "attn.v_proj.weight": (4, 8)}
EXPERTS = {f"experts.{n}.fc.weight": (6, 4) for n in range(3)}


@pytest.mark.parametrize(
    ("mine", "theirs", "kind"),
    [
        (SPLIT, {"attn.qkv_proj.weight": (16, 8)}, "fused-qkv"),
        ({"attn.qkv_proj.weight": (16, 8)}, SPLIT, "fused-qkv"),
        ({"mlp.gate_proj.weight": (8, 4), "mlp.up_proj.weight": (8, 4)}, {"mlp.gu.weight": (16, 4)}, "fused-gate-up"),
        ({"w.left.weight": (8, 4), "w.right.weight": (8, 4)}, {"w.both.weight": (16, 4)}, "fused"),
        (EXPERTS, {"experts.fc": (3, 6, 4)}, "fused-experts"),
        ({"experts.fc": (3, 6, 4)}, EXPERTS, "fused-experts"),
    ],
)
def test_parts_that_add_up_to_a_whole(
    mine: dict[str, tuple[int, ...]], theirs: dict[str, tuple[int, ...]], kind: str
) -> None:
    found = list(find_fusions(templates(mine), templates(theirs), lambda path: [path]))
    assert {each[0] for each in found} == {kind}
    assert {key for _, keys, _ in found for key in keys} == set(mine)
    assert {key for _, _, keys in found for key in keys} == set(theirs)


def test_sizes_that_do_not_add_up_are_no_fusion() -> None:
    assert not list(find_fusions(templates(SPLIT), templates({"attn.qkv.weight": (15, 8)}), lambda path: [path]))
