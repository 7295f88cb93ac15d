"""The counts of the guide, on the real classes at their real sizes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pytest_lora_ckpt.replicas import make_panorama_vlm
from tests.helpers.guide_loader import GuideLog

if TYPE_CHECKING:
    from pytest_lora_ckpt.replicas import PanoramaVLM


@pytest.fixture(scope="module")
def plain() -> PanoramaVLM:
    return make_panorama_vlm(scale="guide", lora=False)


@pytest.fixture(scope="module")
def with_lora() -> PanoramaVLM:
    return make_panorama_vlm(scale="guide")


def components(model: PanoramaVLM) -> Counter[str]:
    return Counter(key.split(".")[0] for key in model.state_dict())


def test_plain_943_keys(plain: PanoramaVLM) -> None:
    assert len(plain.state_dict()) == 943
    assert components(plain) == {
        "vision_encoder": 448,
        "resampler_module": 90,
        "resampler": 90,
        "projector": 2,
        "vision_to_language_projection": 2,
        "language_model": 311,
    }


def test_with_lora_1335_keys(plain: PanoramaVLM, with_lora: PanoramaVLM) -> None:
    assert len(with_lora.state_dict()) == 1335
    assert components(with_lora)["language_model"] == 703 == 311 + 28 * 7 * 2
    assert len(plain.state_dict().keys() & with_lora.state_dict().keys()) == 632
    assert sum("lora_" in key for key in with_lora.state_dict()) == 392


def test_it_has_no_data(with_lora: PanoramaVLM) -> None:
    assert {tensor.device.type for tensor in with_lora.state_dict().values()} == {"meta"}


def test_the_sizes_are_those_of_qwen3_0_6b(with_lora: PanoramaVLM) -> None:
    state = with_lora.state_dict()
    layer = "language_model.base_model.model.model.layers.27."
    assert state[f"{layer}self_attn.q_proj.base_layer.weight"].shape == (2048, 1024)
    assert state[f"{layer}self_attn.k_proj.base_layer.weight"].shape == (1024, 1024)
    assert state[f"{layer}mlp.gate_proj.base_layer.weight"].shape == (3072, 1024)
    assert state["language_model.base_model.model.lm_head.weight"].shape == (151936, 1024)


def test_tiny_and_guide_share_their_names(with_lora: PanoramaVLM) -> None:
    tiny = set(make_panorama_vlm().state_dict())
    assert tiny < set(with_lora.state_dict())


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_the_guides_healthy_log(plain: PanoramaVLM, with_lora: PanoramaVLM) -> None:
    state = {key: tensor for key, tensor in with_lora.state_dict().items()}  # noqa: C416 - drops torch's metadata
    found = plain.load_state_dict(state, strict=False, assign=True)
    assert GuideLog.of(len(state), found.missing_keys, found.unexpected_keys) == (1024, 1335, 311, 0, 703, 0)
