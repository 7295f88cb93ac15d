"""One module for several, under other names: known by the libraries' rows."""

from __future__ import annotations

from pytest_lora_ckpt.keys import infer_remapping, templates
from pytest_lora_ckpt.keys.matching.fused_roles import FusedRoles

Shapes = dict[str, tuple[int, ...]]


def factors(path: str, out: int = 8, *, name: str = "") -> Shapes:
    keys: Shapes = {}
    for n in range(3):
        module = path.replace("#", str(n))
        keys |= {f"{module}.lora_A{name}.weight": (4, 8), f"{module}.lora_B{name}.weight": (out, 4)}
    return keys


INTERN = {**factors("model.layers.#.attention.wqkv", 16), **factors("model.layers.#.attention.wo")}
SPLIT = {
    **factors("model.layers.#.self_attn.q_proj", name=".default"),
    **factors("model.layers.#.self_attn.k_proj", 4, name=".default"),
    **factors("model.layers.#.self_attn.v_proj", 4, name=".default"),
    **factors("model.layers.#.self_attn.o_proj", name=".default"),
}


def test_a_fused_projection_has_no_place_and_says_nothing() -> None:
    fused = FusedRoles(templates(INTERN), templates(SPLIT))
    assert len(fused.sources) == 2
    assert len(fused.targets) == 6
    assert FusedRoles(templates(SPLIT), templates(SPLIT)).sources == frozenset()


def test_it_is_named_where_the_widths_add_up() -> None:
    for checkpoint, model in ((INTERN, SPLIT), (SPLIT, INTERN)):
        [problem] = [each for each in infer_remapping(checkpoint, model).problems if each.kind == "fused-qkv"]
        assert {key for key in problem.keys if "wo" in key or "o_proj" in key} == set()
        assert len(problem.keys) + len(problem.model_keys) == 24
    narrow = {key: (12, 4) if "wqkv.lora_B" in key else shape for key, shape in INTERN.items()}
    assert "fused-qkv" not in {each.kind for each in infer_remapping(narrow, SPLIT).problems}


def test_towers_are_kept_apart() -> None:
    sight = {key.replace("model.", "model.visual."): shape for key, shape in INTERN.items()}
    assert "fused-qkv" not in {each.kind for each in infer_remapping(sight, SPLIT).problems}


def test_the_rest_of_a_network_is_renamed_beside_it() -> None:
    """Of Black Forest Labs' single blocks one layer is four in diffusers."""
    file = {
        **factors("single_transformer_blocks.#.proj_out"),
        **factors("single_transformer_blocks.#.norm.linear"),
        **{
            k: s
            for x in ("attn.to_q", "attn.to_k", "attn.to_v")
            for k, s in factors(f"single_transformer_blocks.#.{x}").items()
        },
        **factors("single_transformer_blocks.#.proj_mlp", 16),
    }
    model = {
        **factors("single_blocks.#.linear2", name=".default"),
        **factors("single_blocks.#.modulation.lin", name=".default"),
        **factors("single_blocks.#.linear1", 40, name=".default"),
    }
    found = infer_remapping(file, model)
    assert len(found.mapping) == 12
    [problem] = found.problems
    assert (problem.kind, len(problem.keys), len(problem.model_keys)) == ("fused", 24, 6)
