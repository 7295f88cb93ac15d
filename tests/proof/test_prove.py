from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_lora_ckpt import assert_load_proved, assert_lora_loaded, open_checkpoint, prove_load
from pytest_lora_ckpt.proof import BaseWeights, Reference
from pytest_lora_ckpt.replicas import PanoramaVLM, make_panorama_vlm, save_adapter, save_stage_checkpoint
from tests.helpers.guide_loader import load_like_the_guide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Q = "language_model.base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.default.weight"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stage_checkpoint(tmp_path_factory.mktemp("full"))


@pytest.fixture
def model(path: Path) -> Any:
    return PanoramaVLM.from_checkpoint(path)


def causes(proof: Any) -> dict[str, int]:
    return {found.cause: len(found.keys) for found in proof.findings}


def test_the_right_loader(model: Any, path: Path) -> None:
    proof = prove_load(model, path)
    assert proof.proved
    assert not proof.refuted
    assert proof.counts == {"equal": 173, "cast": 0, "merged": 0, "differs": 0, "not provable": 0}
    assert proof.sources == {"state dict": 173}
    assert proof.why == "173 tensors compared with the loaded model: 173 equal bit for bit"
    assert_load_proved(proof)
    assert_lora_loaded(proof)


def test_names_that_fit_and_values_that_were_never_loaded(path: Path) -> None:
    # Without stripping `model.`, load_state_dict(strict=False) loads nothing; the keys could be renamed, and were not.
    fresh = make_panorama_vlm(random_lora_b=False, seed=7)
    state = torch.load(path, weights_only=True)["state_dict"]
    fresh.load_state_dict(state, strict=False)
    proof = prove_load(fresh, path)
    assert proof.report.verdict == "loads-after-remap"
    assert proof.refuted
    assert proof.counts["differs"] > 100
    assert causes(proof)["still-initial"] >= 28
    with pytest.raises(AssertionError, match=r"(?s)28 of 28 adapter tensors are not proved .*\[still-initial\]"):
        assert_lora_loaded(proof)


def damage(name: str) -> Callable[[Any], None]:
    def hit(model: Any) -> None:
        state = model.state_dict()
        one, other = state[Q.format(0, "B")], state[Q.format(1, "B")]
        match name:
            case "exchanged":
                kept = one.clone()
                one.copy_(other)
                other.copy_(kept)
            case "zero":
                one.zero_()
            case "reinitialised":
                torch.nn.init.kaiming_uniform_(state["vision_encoder.encoder.layers.0.mlp.fc1.weight"], a=5**0.5)
            case "scaled":
                one.mul_(2.0)
            case "trained on":
                one.add_(torch.randn_like(one), alpha=0.1 * float(one.std()))
            case "NaN":
                one[0, 0] = torch.nan
            case "random":
                one.copy_(torch.randn_like(one).pow(3))
            case "one bit":
                one.view(-1).view(torch.int32)[3] ^= 1

    return hit


@pytest.mark.parametrize(
    ("name", "cause", "count", "told"),
    [
        ("exchanged", "exchanged-tensors", 2, "what the checkpoint has as model.language_model"),
        ("zero", "still-initial", 1, "0 everywhere, as initialised"),
        ("reinitialised", "still-initial", 1, "as initialised"),
        ("scaled", "scaled-values", 1, "2 times the checkpoint's tensor"),
        ("trained on", "earlier-value", 1, "an earlier or later value"),
        ("NaN", "nan-or-inf", 1, "Inf or NaN, and the checkpoint's tensor is finite"),
        ("random", "values-differ", 1, "off by"),
        ("one bit", "values-differ", 1, "the checkpoint's tensor but for 1 of"),
    ],
)
def test_what_the_model_holds_instead(  # noqa: PLR0913, PLR0917  # One argument for each column of the table.
    model: Any, path: Path, name: str, cause: str, count: int, told: str
) -> None:
    damage(name)(model)
    proof = prove_load(model, path)
    assert causes(proof) == {cause: count}
    assert proof.counts["differs"] == count
    assert told in proof.of("differs")[0].how
    with pytest.raises(AssertionError, match=rf"\[{cause}\]"):
        assert_load_proved(proof)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast(model: Any, path: Path, dtype: torch.dtype) -> None:
    proof = prove_load(model.to(dtype), path)
    assert proof.proved
    assert proof.counts["cast"] == 173
    assert {each.how for each in proof.of("cast")} == {f"float32 to {str(dtype).removeprefix('torch.')}"}
    assert "173 cast from float32 to" in proof.why


def test_a_detour_through_half_precision(model: Any, path: Path) -> None:
    proof = prove_load(model.bfloat16().float(), path)
    assert proof.proved
    assert {each.how for each in proof.of("cast")} == {"float32 to bfloat16 to float32"}


def test_a_cast_that_overflows(tmp_path: Path) -> None:
    big = torch.nn.Linear(4, 4, bias=False)
    big.weight.data.fill_(1e6)
    torch.save(big.state_dict(), tmp_path / "big.pt")
    proof = prove_load(big.half(), tmp_path / "big.pt")
    assert causes(proof) == {"cast-overflow": 1}


def test_integer_codes_as_values(tmp_path: Path) -> None:
    codes = torch.randint(-127, 127, (8, 8), dtype=torch.int8)
    torch.save({"q.lora_A.weight": codes}, tmp_path / "codes.pt")
    model = torch.nn.ModuleDict({"q": torch.nn.ModuleDict({"lora_A": torch.nn.Linear(8, 8, bias=False)})})
    model.load_state_dict(torch.load(tmp_path / "codes.pt"))
    assert causes(prove_load(model, tmp_path / "codes.pt")) == {"integer-codes": 1}


def test_the_guides_loader_with_and_without_the_directory_beside(path: Path, tmp_path: Path) -> None:
    proof = prove_load(load_like_the_guide(path), path)
    assert proof.refuted
    assert len(proof.lost) == 28
    with pytest.raises(AssertionError, match="28 LoRA keys of the checkpoint have no place in the model"):
        assert_lora_loaded(proof)
    with pytest.raises(AssertionError, match="hold the base weights without the adapter"):
        assert_load_proved(proof)


def test_which_source_each_tensor_came_from(tmp_path: Path) -> None:
    full = make_panorama_vlm()
    path = save_stage_checkpoint(tmp_path, model=full)
    save_adapter(full, tmp_path / "lora_weights")
    loaded = load_like_the_guide(path)
    # The checkpoint has the same adapter as the directory.
    assert prove_load(loaded, path).proved
    bare = {key: value for key, value in full.state_dict().items() if "lora_" not in key}
    torch.save({"state_dict": bare}, tmp_path / "bare.pt")
    proof = prove_load(loaded, tmp_path / "bare.pt")
    assert proof.proved
    assert proof.sources == {"state dict": 145, "lora_weights": 28}
    assert "28 of them from lora_weights" in proof.why


@pytest.mark.slow
def test_a_stale_directory_beside(tmp_path: Path) -> None:
    path = save_stage_checkpoint(tmp_path)
    other = make_panorama_vlm(seed=3)
    save_adapter(other, tmp_path / "lora_weights")
    proof = prove_load(load_like_the_guide(path), path)
    assert causes(proof)["stale-adapter-directory"] == 28


def test_a_merged_adapter_and_one_merged_twice(model: Any, path: Path) -> None:
    twice = PanoramaVLM.from_checkpoint(path)
    model.language_model = model.language_model.merge_and_unload()
    proof = prove_load(model, path, reference=Reference(config={"r": 4, "lora_alpha": 8}))
    assert proof.proved
    assert proof.counts["merged"] == 14 + 28
    assert proof.of("merged")[0].how == "W + 2 x B A"
    # Merged again by hand.
    base = make_panorama_vlm(lora=False)
    twice.language_model = twice.language_model.merge_and_unload()
    for once, before in zip(twice.language_model.parameters(), base.language_model.parameters(), strict=True):
        once.data.add_(once.data - before.data)
    proof = prove_load(twice, path, reference=Reference(config={"r": 4, "lora_alpha": 8}))
    assert causes(proof) == {"merged-twice": 14 + 28}
    assert proof.of("differs")[0].how == "W + 4 x B A: merged 2 times"


def test_an_adapter_merged_in_place(model: Any, path: Path) -> None:
    model.language_model.merge_adapter()
    proof = prove_load(model, path)
    assert proof.proved
    assert proof.counts["merged"] == 14


def test_a_merged_adapter_alone_needs_the_base_model(tmp_path: Path) -> None:
    trained = make_panorama_vlm()
    adapter = save_adapter(trained, tmp_path / "adapter")
    base = make_panorama_vlm(lora=False).language_model
    trained.language_model = trained.language_model.merge_and_unload()
    merged = trained.language_model
    blind = prove_load(merged, adapter)
    assert not blind.proved
    assert blind.counts["not provable"] == 28
    assert "cannot be decided without W" in blind.of("not provable")[0].how
    reference = Reference(lambda: [BaseWeights(base, merged)])
    proof = prove_load(merged, adapter, reference=reference)
    assert proof.proved
    assert proof.counts["merged"] == 28
    assert not prove_load(base, adapter, reference=Reference(lambda: [BaseWeights(base, base)])).proved


def test_tensors_without_values(path: Path) -> None:
    with torch.device("meta"):
        empty = torch.nn.Linear(4, 4)
    proof = prove_load(empty, save_linear(path.parent))
    assert causes(proof) == {"not-materialised": 2}


def save_linear(folder: Path) -> Path:
    torch.save(torch.nn.Linear(4, 4).state_dict(), folder / "linear.pt")
    return folder / "linear.pt"


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantized tensor.*:UserWarning")
def test_a_quantised_tensor_is_not_reported_as_fine(tmp_path: Path) -> None:
    path = save_linear(tmp_path)
    model = torch.nn.Linear(4, 4)
    model.load_state_dict(torch.load(path))
    packed = torch.nn.Module()
    packed.register_buffer("weight", torch.quantize_per_tensor(model.weight.data, 0.1, 0, torch.qint8))
    packed.register_buffer("bias", model.bias.data)
    proof = prove_load(packed, path)
    assert not proof.proved
    assert not proof.refuted
    assert proof.counts["equal"] == 1
    assert proof.of("not provable")[0].how == "it is quantised (qint8)"
    with pytest.raises(AssertionError, match="1 cannot be proved here: weight: it is quantised"):
        assert_load_proved(proof)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_an_offloaded_model(tmp_path: Path, where: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    path = save_linear(tmp_path)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    model[0].load_state_dict(torch.load(path))
    torch.save(model.state_dict(), path)
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path / "offload"), execution_device=torch.device("cpu"))
    assert model[0].weight.is_meta
    assert prove_load(model, path).proved


def test_tied_weights_that_disagree_in_the_file(tmp_path: Path) -> None:
    tied = torch.nn.ModuleDict({"embed": torch.nn.Embedding(8, 4), "head": torch.nn.Linear(4, 8, bias=False)})
    tied["head"].weight = tied["embed"].weight
    path = tmp_path / "tied.pt"
    torch.save({"embed.weight": torch.randn(8, 4), "head.weight": torch.randn(8, 4)}, path)
    tied.load_state_dict(torch.load(path))
    proof = prove_load(tied, path)
    assert causes(proof) == {"tied-tensors-disagree": 1}
    torch.save(tied.state_dict(), path)
    assert prove_load(tied, path).proved


def test_a_second_adapter_is_found_by_its_values(tmp_path: Path) -> None:
    trained = make_panorama_vlm(seed=5)
    adapter = save_adapter(trained, tmp_path / "adapter")
    serving = make_panorama_vlm().language_model
    serving.load_adapter(str(adapter), adapter_name="second")
    proof = prove_load(serving, adapter)
    assert proof.proved
    assert all(".second." in each.model_key for each in proof.tensors)


def test_things_that_are_no_model(path: Path) -> None:
    with pytest.raises(TypeError, match=r"prove_load\(\) takes a torch.nn.Module, and was given a dict of 0"):
        prove_load({}, path)


def test_nothing_in_the_model_is_changed(model: Any, path: Path) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    prove_load(model, open_checkpoint(path))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
