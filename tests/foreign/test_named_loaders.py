"""Loaders by name of the libraries that the development environment does not have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import audit

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.foreign, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def pipeline(folder: Path) -> Path:
    """A pipeline with all its parts, as it would lie on the Hub."""
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    transformers = pytest.importorskip("transformers")
    from tests.foreign.test_diffusers import unet

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = transformers.CLIPTextConfig(
        vocab_size=8, max_position_embeddings=16, bos_token_id=1, eos_token_id=2, **sizes
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    words = {"l": 0, "<|startoftext|>": 1, "<|endoftext|>": 2, "o": 3, "w</w>": 4, "lo": 5, "low</w>": 6}
    (folder / "vocab.json").write_text(json.dumps(words), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nl o\nlo w</w>\n", "utf-8")
    diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, **blocks),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder),
        unet=unet(),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "base")
    return folder / "base"


def test_diffusers_loads_a_lora_into_the_pipeline_that_is_given(tmp_path: Path) -> None:
    base = pipeline(tmp_path)
    from tests.foreign.test_diffusers import save, trained

    path = save(trained(8), tmp_path / "lora", metadata=True)
    for given in (path, path.parent):
        result = audit(given, loader="diffusers", base=base)
        assert result.named("failed") == (), result.findings
        assert {"loaded", "adapter-active"} <= {*result.named("passed")}
    (failure,) = (each for each in audit(path, loader="diffusers").findings if each.cause == "loader-failed")
    assert "names no base model" in failure.message


def test_diffusers_imports_no_part_of_another_package(tmp_path: Path) -> None:
    base = pipeline(tmp_path)
    from tests.foreign.test_diffusers import save, trained

    path = save(trained(8), tmp_path / "lora")
    index = json.loads((base / "model_index.json").read_text("utf-8"))
    (base / "model_index.json").write_text(json.dumps(index | {"unet": ["antigravity", "Evil"]}), "utf-8")
    result = audit(path, loader="diffusers", base=base)
    assert not result.passed
    assert "not of diffusers" in str(result.findings)


def by_sentence_transformers(folder: Path) -> Path:
    pytest.importorskip("sentence_transformers", exc_type=ImportError)
    from tests.foreign.test_sentence_transformers import save, trained

    return save(trained(), folder / "adapter")


def test_sentence_transformers_is_proved_or_its_own_mistake_is_found(tmp_path: Path) -> None:
    """transformers 5.3 drops what PEFT 0.21 has saved for a model without a head, and reports it in a table."""
    path = by_sentence_transformers(tmp_path)
    from tests.foreign.test_sentence_transformers import base_folder, load

    result = audit(path, loader="sentence-transformers", base=base_folder().name)
    trained = {name: value for name, value in load(path).named_parameters() if "lora_B" in name}
    arrived = any(bool(torch.count_nonzero(value)) for value in trained.values())
    assert ("loaded" in result.named("passed")) == arrived
    assert "adapter-active" in {*result.named("passed"), *result.named("failed")}, "its inputs are made"


def test_peft_loads_what_sentence_transformers_saved(tmp_path: Path) -> None:
    path = by_sentence_transformers(tmp_path)
    from tests.foreign.test_sentence_transformers import base_folder

    result = audit(path, loader="peft", base=base_folder().name)
    assert result.named("failed") == (), result.findings
    assert {"loaded", "base-untouched", "adapter-active"} <= {*result.named("passed")}


@pytest.mark.parametrize("kind", ["antigravity.Evil", 7, None])
def test_sentence_transformers_imports_no_module_of_another_package(tmp_path: Path, kind: Any) -> None:
    path = by_sentence_transformers(tmp_path)
    modules = json.loads((path / "modules.json").read_text("utf-8"))
    (path / "modules.json").write_text(json.dumps([modules[0] | {"type": kind}]), "utf-8")
    result = audit(path, loader="sentence-transformers")
    assert not result.passed
    assert "not of sentence-transformers" in str(result.findings)
