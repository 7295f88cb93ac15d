"""An adapter and what was trained with it in files of their own: all of it loaded, or not, or not part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_lora_ckpt import audit, write_manifest
from tests.helpers import projector_world as world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_lora_ckpt import AuditResult

WAYS: list[dict[str, Any]] = [{}, {"base_model": world.base}, {"manifest": True}]
IDS = ["alone", "with a base", "with a manifest"]


@pytest.fixture(scope="module")
def trained() -> Any:
    return world.trained()


@pytest.fixture
def saved(trained: Any, tmp_path: Path) -> Path:
    return world.save(trained, tmp_path / "adapter")


def ask(path: Path, loader: Callable[[Path], Any] = world.load, **more: Any) -> AuditResult:
    return audit(path, loader=loader, inputs=world.X, **more)


def errors(result: AuditResult) -> dict[str, str]:
    return {each.cause: each.message for each in result.findings if each.severity == "error"}


@pytest.mark.parametrize("more", WAYS, ids=IDS)
@pytest.mark.parametrize("loader", [world.load, world.load_merged])
def test_all_of_it_loaded(loader: Any, more: dict[str, Any], trained: Any, saved: Path) -> None:
    if loader is world.load_merged and not more.get("base_model"):
        more = more | {"base_model": world.base}
    if more.get("manifest"):
        write_manifest(trained, saved)
        more = {name: value for name, value in more.items() if name != "manifest"}
    result = ask(saved, loader, **more)
    assert result.passed, errors(result)
    assert "from non_lora_trainables.bin" in result.check("loaded").summary
    assert [(each.kind, each.keys) for each in result.checkpoint.companions] == [("weights", 2)]
    causes = {each.cause for each in result.findings}
    assert not causes & {"companion-not-loaded", "companion-not-judged"}


@pytest.mark.parametrize("more", WAYS[:2], ids=IDS[:2])
@pytest.mark.parametrize("loader", [world.forget, lambda path: world.forget(path).merge_and_unload()])
def test_what_is_not_loaded_is_named_with_its_file(loader: Any, more: dict[str, Any], saved: Path) -> None:
    result = ask(saved, loader, **more)
    assert "loaded" in result.named("failed")
    assert "2 of 2 tensors of non_lora_trainables.bin are not in the loaded" in errors(result)["companion-not-loaded"]


def test_the_renaming_that_would_have_worked_is_told(saved: Path) -> None:
    world.change(saved / world.REST, rename=lambda key: f"module.{key}")
    result = ask(saved, base_model=world.base)
    assert "Its keys load after a renaming (strip module.)" in errors(result)["companion-not-loaded"]


def test_keys_that_have_no_place_are_seen_by_their_names(saved: Path) -> None:
    world.change(saved / world.REST, rename=lambda key: key.replace("projector.", "projector.deeper.still."))
    world.change(saved / world.REST, edit=lambda value: value[..., :3].clone())
    result = audit(saved, model=world.trained)
    assert result.verdict == "partial"
    assert "2 of 2 tensors of non_lora_trainables.bin have no place" in errors(result)["companion-not-loaded"]
    assert "keys" in result.named("failed")


def test_values_that_are_not_finite_are_named(saved: Path) -> None:
    world.change(saved / world.REST, edit=lambda value: value * float("nan"))
    result = ask(saved)
    assert "2 of 2 tensors of non_lora_trainables.bin hold NaN" in errors(result)["nan-or-inf"]


@pytest.mark.parametrize(
    ("damage", "cause"),
    [(lambda data: data[:-200], "companion-unreadable"), (lambda _: b"", "companion-empty")],
)
def test_what_cannot_be_read_is_named_and_the_adapter_is_judged(damage: Any, cause: str, saved: Path) -> None:
    file = saved / world.REST
    file.write_bytes(damage(file.read_bytes()))
    result = ask(saved, world.forget)
    assert "non_lora_trainables.bin" in errors(result)[cause]
    assert result.named("failed") == ("readable",)
    assert {"loaded", "adapter-active", "values"} <= {*result.named("passed")}


def test_of_another_run_the_manifest_tells(trained: Any, saved: Path) -> None:
    write_manifest(trained, saved)
    world.change(saved / world.REST, edit=torch.randn_like)
    assert "values-differ" in errors(ask(saved, base_model=world.base))


@pytest.mark.parametrize("lost", [False, True], ids=["loaded", "dropped"])
def test_components_in_directories_and_the_base_that_was_saved_with_them(lost: bool, trained: Any, saved: Path) -> None:  # noqa: FBT001
    """As TinyLLaVA Factory saves: merged in float16 and widened, it is proved with no base model given."""
    inner = trained.get_base_model()
    parts = {"projector": inner.projector, "layers": inner.layers}
    for name, part in parts.items():
        (saved / name).mkdir()
        weights = {key: value for key, value in part.state_dict().items() if "lora_" not in key}
        torch.save(weights, saved / name / "pytorch_model.bin")
    (saved / world.REST).unlink()

    def load(path: Path) -> Any:
        import peft

        torch.manual_seed(5)
        model = world.Model()
        if not lost:
            model.projector.load_state_dict(torch.load(path / "projector" / "pytorch_model.bin"))
        rest = torch.load(path / "layers" / "pytorch_model.bin")
        model.layers.load_state_dict({key.replace(".base_layer", ""): value for key, value in rest.items()})
        return peft.PeftModel.from_pretrained(model.half(), str(path)).merge_and_unload().float().eval()

    result = ask(saved, load)
    assert {each.kind for each in result.checkpoint.companions} == {"weights", "base"}
    if lost:
        assert "2 of 2 tensors of projector are not in the loaded" in errors(result)["companion-not-loaded"]
        assert (result.verdict, result.meaning) == (
            "loads",
            "the checkpoint itself; what was trained and lies with it does not",
        )
    else:
        assert result.passed, errors(result)
        assert {"loaded", "base-untouched", "adapter-active"} <= {*result.named("passed")}


# --- What is not part of what was trained.


def whole_model(folder: Path) -> None:
    torch.save(world.base().state_dict(), folder / "pytorch_model.bin")


def older_adapter(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({key: value * 0.5 for key, value in weights.items()}, folder / "older.safetensors")


def earlier_stage(folder: Path) -> None:
    save_file({key: value * 0.5 for key, value in torch.load(folder / world.REST).items()}, folder / "a.safetensors")


def of_the_base(folder: Path) -> None:
    save_file(world.base().projector.state_dict(), folder / "projector.safetensors")


def of_another_model(folder: Path) -> None:
    torch.save({"features.0.weight": torch.ones(7, 7), "features.1.weight": torch.ones(7, 7)}, folder / "teacher.pt")


def intermediate(folder: Path) -> None:
    world.save(world.trained(), folder / "checkpoint-10")


NEIGHBOURS = [whole_model, older_adapter, earlier_stage, of_the_base, of_another_model, intermediate]


@pytest.mark.parametrize("more", WAYS, ids=IDS)
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_a_neighbour_is_not_held_against_a_healthy_load(
    neighbour: Any, more: dict[str, Any], trained: Any, saved: Path
) -> None:
    neighbour(saved)
    if more.get("manifest"):
        write_manifest(trained, saved)
        more = {}
    result = ask(saved, **more)
    assert result.passed, errors(result)


def test_what_was_not_judged_is_said(saved: Path) -> None:
    of_another_model(saved)
    found = {each.cause: each.message for each in ask(saved, base_model=world.base).findings}
    assert "teacher.pt was not judged: 2 of 2 keys have no place" in found["companion-not-judged"]


# --- Further adapters.


def load_both(path: Path) -> Any:
    model = world.load(path)
    model.load_adapter(str(path / "second"), "second")
    model.base_model.set_adapter(["default", "second"])
    return model.eval()


def second_as_initialised(path: Path) -> Any:
    import peft

    model = world.load(path)
    model.add_adapter("second", peft.PeftConfig.from_pretrained(str(path / "second")))
    model.base_model.set_adapter(["default", "second"])
    return model.eval()


def test_a_second_adapter_is_judged_where_the_model_has_it(tmp_path: Path) -> None:
    path = world.save(world.trained(second=True), tmp_path / "adapter")
    assert ask(path, load_both, base_model=world.base).passed
    broken = ask(path, second_as_initialised, base_model=world.base)
    assert any("in second" in message for message in errors(broken).values()), errors(broken)
    alone = ask(path, base_model=world.base)
    assert alone.passed
    assert (
        "The adapter in second/ was not judged"
        in {each.cause: each.message for each in alone.findings}["companion-not-judged"]
    )
    # Where the project says that it is part of the checkpoint, a model without it has lost it.
    for loader in (world.load, world.load_merged):
        asked = ask(path, loader, base_model=world.base, companions=[path / "second"])
        assert "which has no adapter of this name" in errors(asked)["companion-not-loaded"]


def test_two_adapters_merged_into_the_same_modules_are_left_open(tmp_path: Path) -> None:
    path = world.save(world.trained(second=True), tmp_path / "adapter")
    result = ask(path, lambda path: load_both(path).merge_and_unload(), base_model=world.base)
    assert result.passed, errors(result)
    assert "a further adapter may be merged into it as well" in result.check("loaded").summary


# --- Files that the project names.


def test_a_named_file_counts_wherever_it_lies(saved: Path, tmp_path: Path) -> None:
    elsewhere = (saved / world.REST).rename(tmp_path / "projector.bin")
    load = lambda path: world.load(path, "../projector.bin")  # noqa: E731
    assert "companion-not-loaded" not in errors(ask(saved, world.forget))
    assert "companion-not-loaded" in errors(ask(saved, world.forget, companions=[elsewhere]))
    result = ask(saved, load, base_model=world.base, companions=[elsewhere])
    assert result.passed, errors(result)
