from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_lora_ckpt.findings.from_alpha import diffusers_without_alpha
from pytest_lora_ckpt.findings.from_names import lora_pair_findings
from pytest_lora_ckpt.lora.pairs import lora_pairs
from pytest_lora_ckpt.models import as_key_set

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PARENT = dict.fromkeys(SEVEN[:4], "self_attn") | dict.fromkeys(SEVEN[4:], "mlp")


def adapter(
    layers: int = 4, rank: int = 4, *, leave: frozenset[str] = frozenset(), base: bool = False
) -> dict[str, tuple[int, ...]]:
    keys: dict[str, tuple[int, ...]] = {}
    for n in range(layers):
        for leaf in SEVEN:
            module = f"model.layers.{n}.{PARENT[leaf]}.{leaf}"
            if base:
                keys[f"{module}.base_layer.weight"] = (8, 8)
            if not any(mark in f"{module}." for mark in leave):
                keys[f"{module}.lora_A.default.weight"] = (rank, 8)
                keys[f"{module}.lora_B.default.weight"] = (8, rank)
    return keys


def causes(keys: dict[str, tuple[int, ...]], config: dict[str, Any] | None = None) -> list[str]:
    return [finding.cause for finding in lora_pair_findings(as_key_set(keys), config)]


@pytest.mark.parametrize("layers", [1, 2, 4, 28])
@pytest.mark.parametrize("base", [False, True])
def test_a_whole_adapter(layers: int, base: bool) -> None:  # noqa: FBT001
    keys = adapter(layers, base=base)
    assert causes(keys) == []
    assert len(lora_pairs(as_key_set(keys))) == 7 * layers


@pytest.mark.parametrize("layers", [1, 2, 28])
@pytest.mark.parametrize("factor", ["A", "B"])
def test_one_factor_missing(layers: int, factor: str) -> None:
    keys = adapter(layers)
    gone = f"model.layers.0.mlp.up_proj.lora_{factor}.default.weight"
    del keys[gone]
    (found,) = lora_pair_findings(as_key_set(keys))
    assert found.cause == "lora-pair-incomplete"
    assert f"1 module has no lora_{factor}" in found.message
    assert "model.layers.0.mlp.up_proj" in found.message


def test_all_of_one_factor_missing() -> None:
    keys = {key: shape for key, shape in adapter().items() if "lora_B" not in key}
    (found,) = lora_pair_findings(as_key_set(keys))
    assert "28 modules have no lora_B" in found.message
    assert len(found.keys) == 28


@pytest.mark.parametrize(
    "leave",
    [
        frozenset({"layers.2.self_attn.q_proj."}),
        frozenset({"layers.0.mlp.down_proj."}),
        frozenset({"layers.3.self_attn.q_proj.", "layers.3.self_attn.k_proj."}),
    ],
)
def test_a_module_that_the_like_layers_have(leave: frozenset[str]) -> None:
    (found,) = lora_pair_findings(as_key_set(adapter(leave=leave)))
    assert found.cause == "lora-uneven-layers"
    assert found.message.startswith(f"{len(leave)} module")


def test_two_layers_of_which_one_lacks_a_module() -> None:
    assert causes(adapter(2, leave=frozenset({"layers.1.self_attn.v_proj."}))) == ["lora-uneven-layers"]


@pytest.mark.parametrize("left_out", [0, 7])
def test_the_first_or_the_last_layer_left_out_is_meant(left_out: int) -> None:
    assert causes(adapter(8, leave=frozenset({f"layers.{left_out}."}), base=True)) == []


def test_a_layer_without_any_adapter_is_seen_where_the_base_weights_are_there() -> None:
    leave = frozenset({"layers.2."})
    assert causes(adapter(8, leave=leave, base=True)) == ["lora-uneven-layers"]


@pytest.mark.parametrize(
    "config",
    [
        {"layers_to_transform": [0, 1, 3]},
        {"exclude_modules": ["x"]},
        {"target_modules": r".*layers\.[013].*q_proj"},
    ],
)
def test_layers_left_out_on_purpose(config: dict[str, Any]) -> None:
    assert causes(adapter(leave=frozenset({"layers.2.self_attn.q_proj."})), config) == []


def test_adapters_on_the_last_layers_only_are_meant() -> None:
    assert causes(adapter(28, leave=frozenset(f"layers.{n}." for n in range(20)), base=True)) == []


def test_hybrid_layers_are_meant() -> None:
    """Every fourth layer attends, the others are of another kind: names differ, nothing is missing."""
    keys = {}
    for n in range(8):
        leaf = "self_attn.q_proj" if n % 4 == 3 else "linear_attn.in_proj"
        keys |= {f"layers.{n}.{leaf}.lora_A.weight": (4, 8), f"layers.{n}.{leaf}.lora_B.weight": (8, 4)}
    assert causes(keys) == []


def test_layers_that_share_keys_and_values_are_meant() -> None:
    """The upper layers have no k_proj and v_proj of their own (Gemma 3n)."""
    leave = frozenset(f"layers.{n}.self_attn.{leaf}." for n in range(6, 10) for leaf in ("k_proj", "v_proj"))
    assert causes(adapter(10, leave=leave)) == []


def test_factors_of_two_ranks() -> None:
    keys = adapter()
    keys["model.layers.1.mlp.up_proj.lora_B.default.weight"] = (8, 6)
    (found,) = lora_pair_findings(as_key_set(keys))
    assert found.cause == "lora-rank-uneven"
    assert "[4, 8] and [8, 6]" in found.message


@pytest.mark.parametrize("down", [(), (2,), (2, 8), (2, 8, 3), (0,), (0, 8)], ids=str)
@pytest.mark.parametrize("up", [(), (2,), (8, 2), (8, 2, 1, 1), (0,), (8, 0)], ids=str)
def test_factors_of_any_number_of_dimensions(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    prefix = "base_model.model.layers.{}.q_proj.lora_{}.weight"
    keys = {prefix.format(layer, side): shape for layer in (0, 1) for side, shape in (("A", down), ("B", up))}
    found = causes(keys)
    assert ("lora-rank-uneven" in found) == (math.prod((*down, *up)) > 0 and (len(up) < 2 or len(down) != len(up)))


def test_a_layer_of_another_rank() -> None:
    keys = adapter()
    keys["model.layers.1.mlp.up_proj.lora_A.default.weight"] = (2, 8)
    keys["model.layers.1.mlp.up_proj.lora_B.default.weight"] = (8, 2)
    assert causes(keys) == ["lora-rank-uneven"]
    assert causes(keys, {"rank_pattern": {"layers.1.mlp.up_proj": 2}}) == []


def test_another_rank_for_another_module_is_meant() -> None:
    keys = {**adapter(), **{k: (s[0] * 2, 8) if "lora_A" in k else (8, 8) for k, s in adapter().items() if "mlp" in k}}
    assert causes(keys) == []


def test_convolutions_embeddings_magnitudes_and_other_conventions() -> None:
    keys = {
        "conv.lora_A.default.weight": (4, 3, 5, 5),
        "conv.lora_B.default.weight": (8, 4, 1, 1),
        "embed.lora_embedding_A.default": (4, 100),
        "embed.lora_embedding_B.default": (16, 4),
        "fc.lora_A.default.weight": (4, 8),
        "fc.lora_B.default.weight": (8, 4),
        "fc.lora_magnitude_vector.default.weight": (8,),
        "lora_unet_mid.lora_down.weight": (4, 8),
        "lora_unet_mid.lora_up.weight": (8, 4),
        "lora_unet_mid.alpha": (),
        "tune.lora_a.weight": (4, 8),
        "tune.lora_b.weight": (8, 4),
        "attn.processor.to_q_lora.down.weight": (4, 8),
        "attn.processor.to_q_lora.up.weight": (8, 4),
        "wo.lora_A": (4, 8),
        "wo.lora_B": (8, 4),
        "mini.lora.A.weight": (4, 8),
        "mini.lora.B.weight": (8, 4),
    }
    assert causes(keys) == []
    for name in [name for name in keys if keys[name] and keys[name][0] == 8 and "magnitude" not in name]:
        rest = {key: shape for key, shape in keys.items() if key != name}
        assert causes(rest) == ["lora-pair-incomplete"], name


def test_two_adapters_are_kept_apart() -> None:
    keys = adapter(2)
    both = keys | {key.replace(".default.", ".other."): shape for key, shape in keys.items() if "lora_A" in key}
    (found,) = lora_pair_findings(as_key_set(both))
    assert "14 modules have no lora_B" in found.message


def test_size_0() -> None:
    keys: dict[str, tuple[int, ...]] = dict.fromkeys(adapter(), (0,))
    assert causes(keys)[0] == "zero3-empty"


def test_no_adapter_at_all() -> None:
    assert causes({"fc.weight": (8, 8), "fc.bias": (8,)}) == []


def test_numbers_of_any_length() -> None:
    long = {key.replace("layers.", f"layers.{'9' * 6000}"): shape for key, shape in adapter(3, base=True).items()}
    assert causes(long) == []


def test_factors_stacked_for_a_fused_projection_have_one_rank() -> None:
    """As loralib's MergedLinear and litgpt write them: rank 4 for queries and values; 8 and 3 are of no such layer."""
    shapes = {"lora_A": (8, 48), "lora_B": (72, 4)}
    fused = {f"h.{layer}.attn.qkv.{factor}": shape for layer in range(3) for factor, shape in shapes.items()}
    assert causes(fused) == []
    assert {pair.rank for pair in lora_pairs(as_key_set(fused))} == {4}
    assert set(causes(fused | {"h.1.attn.qkv.lora_B": (72, 3)})) == {"lora-rank-uneven"}
    assert causes({key.replace("qkv", "proj"): shape for key, shape in fused.items()}) == ["lora-rank-uneven"]


@pytest.mark.parametrize(
    ("module", "more", "said"),
    [
        ("unet.mid.to_q", {}, True),
        ("transformer.blocks.0.to_q", {}, True),
        ("unet.mid.to_q", {"unet.mid.to_q.alpha": ()}, False),
        ("base_model.model.model.layers.0.q_proj", {}, False),
        ("lora_unet_mid_to_q", {}, False),
    ],
)
def test_a_file_of_diffusers_without_alpha(module: str, more: dict[str, tuple[int, ...]], said: bool) -> None:  # noqa: FBT001
    keys = {f"{module}.lora_A.weight": (4, 8), f"{module}.lora_B.weight": (8, 4), **more}
    found = [each.cause for each in diffusers_without_alpha(as_key_set(keys))]
    assert found == ["alpha-not-in-file"] * said


LOHA = {"hada_w1_a": (8, 4), "hada_w1_b": (4, 8), "hada_w2_a": (8, 4), "hada_w2_b": (4, 8)}
LOKR = {"lokr_w1": (2, 4), "lokr_w2_a": (4, 3), "lokr_w2_b": (3, 2)}
LOKR_IN_FACTORS = {"lokr_w1_a": (2, 3), "lokr_w1_b": (3, 4), "lokr_w2": (4, 2)}


def unet(shortcuts: tuple[int, ...], *, kernel: tuple[int, ...] = (3, 3)) -> dict[str, tuple[int, ...]]:
    """Name the factors of six blocks; some have one layer more than the others."""
    keys: dict[str, tuple[int, ...]] = {}
    for n in range(6):
        for leaf in ("conv1", "conv2", *(["conv_shortcut"] if n in shortcuts else [])):
            keys[f"unet.blocks.{n}.resnets.0.{leaf}.lora_A.weight"] = (4, 8, *kernel)
            keys[f"unet.blocks.{n}.resnets.0.{leaf}.lora_B.weight"] = (8, 4, *(1 for _ in kernel))
    return keys


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (3,), (3, 3, 3)])
@pytest.mark.parametrize("shortcuts", [(), (0,), (0, 1, 2, 3, 4), (1, 2, 3, 4, 5)])
def test_convolutions_that_only_some_blocks_have(shortcuts: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    assert causes(unet(shortcuts, kernel=kernel)) == []


def test_matrices_that_one_block_lacks() -> None:
    keys = {key.replace("conv_shortcut", "to_q"): shape for key, shape in unet((0, 1, 2, 3, 4), kernel=()).items()}
    assert causes({key.replace(".conv", ".fc"): shape for key, shape in keys.items()}) == ["lora-uneven-layers"]


def test_convolutions_that_are_flat_in_the_file() -> None:
    """As LyCORIS' LoHa without a Tucker kernel."""
    assert causes(unet((0, 1, 2, 3, 4), kernel=())) == []
    flat = {key.replace(".lora_A.weight", ".lora_down.weight"): shape for key, shape in unet((0, 1, 2, 3, 4)).items()}
    assert causes({key.replace(".lora_B.weight", ".lora_up.weight"): shape for key, shape in flat.items()}) == []


@pytest.mark.parametrize("parts", [LOHA, LOKR, LOKR_IN_FACTORS], ids=["loha", "lokr", "lokr-in-factors"])
@pytest.mark.parametrize("path", ["lycoris_model_layers_{}_self_attn_q_proj", "model.layers.{}.self_attn.q_proj"])
def test_products_of_lycoris_are_whole_or_lack_a_matrix(parts: dict[str, tuple[int, ...]], path: str) -> None:
    keys = {f"{path.format(n)}.{name}": shape for n in range(4) for name, shape in parts.items()}
    assert causes(keys) == []
    assert {pair.shape for pair in lora_pairs(as_key_set(keys))} == {(8, 8)}
    for gone in parts:
        left = {key: shape for key, shape in keys.items() if key != f"{path.format(2)}.{gone}"}
        assert causes(left) == ["lora-pair-incomplete"], gone


def test_a_flattened_module_that_its_like_in_the_other_layers_have() -> None:
    names = [f"lora_unet_blocks_{n}_attn_{leaf}" for n in range(4) for leaf in ("to_q", "to_k", "to_out_0")]
    keys = {f"{name}.{half}": (4, 4) for name in names for half in ("lora_down.weight", "lora_up.weight")}
    assert causes(keys) == []
    left = {key: shape for key, shape in keys.items() if not key.startswith("lora_unet_blocks_2_attn_to_out_0.")}
    (found,) = lora_pair_findings(as_key_set(left))
    assert found.cause == "lora-uneven-layers"
    assert "lora_unet_blocks_2_attn_to_out_0" in found.message


def test_other_orders_of_the_axes_are_healthy() -> None:
    """MLX has A as in x rank and B as rank x out; several experts have one stack of each."""
    mlx = {
        f"layers.{n}.{name}.lora_{x}": s for n in range(3) for name in "qv" for x, s in (("a", (32, 4)), ("b", (4, 16)))
    }
    stacks = {f"layers.{n}.experts.w1.lora_{x}": s for n in range(3) for x, s in (("A", (8, 4, 32)), ("B", (8, 48, 4)))}
    for keys in (mlx, stacks):
        assert not lora_pair_findings(as_key_set(keys))
