"""LoRA of other projects, in their own names and in PEFT's."""

from __future__ import annotations

import pytest

from pytest_lora_ckpt.keys import infer_remapping

MODULES = [f"layers.{n}.attn.{name}" for n in range(3) for name in ("qkv", "proj")]
WAYS = {
    "peft": ("base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight"),
    "adapterhub": ("{}.loras.mine.lora_A", "{}.loras.mine.lora_B"),
    "container": ("{}.lora.lora_A.weight", "{}.lora.lora_B.weight"),
    "loralib": ("{}.lora_A", "{}.lora_B"),
}


def keys(way: str) -> dict[str, tuple[int, ...]]:
    down, up = WAYS[way]
    return {text.format(m): shape for m in MODULES for text, shape in ((down, (4, 32)), (up, (32, 4)))}


@pytest.mark.parametrize("way", sorted(set(WAYS) - {"peft"}))
def test_factors_find_their_places_in_peft_and_back(way: str) -> None:
    for checkpoint, model in ((keys(way), keys("peft")), (keys("peft"), keys(way))):
        found = infer_remapping(checkpoint, model)
        assert found.mapping == dict(zip(checkpoint, model, strict=True))
        assert [found.apply(key) for key in checkpoint] == list(model)


def test_an_adapter_of_another_name_in_adapterhub() -> None:
    other = {key.replace("mine", "other"): shape for key, shape in keys("adapterhub").items()}
    found = infer_remapping(keys("adapterhub"), other)
    assert found.mapping == dict(zip(keys("adapterhub"), other, strict=True))
    assert [rule.text for rule in found.rules] == ["rename mine to other"]


@pytest.mark.parametrize("diffusers", [False, True])
def test_attention_processors_of_xlabs(diffusers: bool) -> None:  # noqa: FBT001
    paths = {"proj_lora1": ("img_attn.proj", "attn.to_out.0"), "proj_lora2": ("txt_attn.proj", "attn.to_add_out")}
    ends = (("down", "lora_A", (4, 32)), ("up", "lora_B", (32, 4)))
    blocks = "transformer_blocks" if diffusers else "double_blocks"
    wanted = {
        f"double_blocks.{n}.processor.{name}.{end}.weight": f"{blocks}.{n}.{goals[diffusers]}.{factor}.default.weight"
        for n in range(2)
        for name, goals in paths.items()
        for end, factor, _ in ends
    }
    shapes = {end: shape for end, _, shape in ends}
    checkpoint = {key: shapes[key.split(".")[-2]] for key in wanted}
    found = infer_remapping(checkpoint, {goal: checkpoint[key] for key, goal in wanted.items()})
    assert found.mapping == wanted
