"""Faults that the libraries load without a word: each is named, by the right check, for the right cause."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftConfig, PeftModel

from pytest_lora_ckpt import write_manifest
from pytest_lora_ckpt.faults import FAULTS
from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs
from tests.helpers.lightning_world import Vlm, resume, save_lightning
from tests.helpers.loading_world import Audit, adapt, audit, llama, quietly, save

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    Load = Callable[[Any], Any]
    Expected = dict[str, str]

BIASED = {"attention_bias": True, "mlp_bias": True}


def biased(**changed: Any) -> Any:
    return llama(**BIASED, **changed)


# Adapter directories: what the base is, and how the adapter was trained.
ADAPTERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "plain": (llama, {}),
    "dora": (llama, {"use_dora": True}),
    "rslora": (llama, {"use_rslora": True}),
    "head": (llama, {"modules_to_save": ["lm_head"]}),
    "bias": (biased, {"bias": "all"}),
}


@dataclasses.dataclass(frozen=True)
class World:
    """Healthy checkpoints and the manifests of their training, by name."""

    paths: dict[str, Path]
    manifests: dict[str, Path]
    folder: Path

    def damaged(self, name: str, fault: str) -> Path:
        """Inject a fault, once."""
        where = self.folder / f"{name}-{fault}"
        if not where.exists():
            made = FAULTS[fault].inject(self.paths[name], where)
            assert made.name == self.paths[name].name
        return next(iter(where.iterdir())) if self.paths[name].is_dir() else where / self.paths[name].name


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("adapters")
    world = World({}, {}, tmp_path_factory.mktemp("damaged"))
    for name, (base, config) in ADAPTERS.items():
        model = adapt(base(), **config)
        world.paths[name] = save(model, folder / name)
        with quietly():
            world.manifests[name] = write_manifest(model, folder / f"{name}.json")
    return world


def from_pretrained(base: Callable[[], Any]) -> Load:
    return lambda where: PeftModel.from_pretrained(base(), where)


def load_adapter(base: Callable[[], Any]) -> Load:
    def load(where: Path) -> Any:
        model = PeftModel(base(), PeftConfig.from_pretrained(where))
        model.load_adapter(where, "default")
        return model

    return load


def transformers_load_adapter(base: Callable[[], Any]) -> Load:
    def load(where: Path) -> Any:
        model = base()
        model.load_adapter(str(where))
        return model

    return load


LOADERS = {each.__name__: each for each in (from_pretrained, load_adapter, transformers_load_adapter)}

# The names are why, and fail the check `keys`.
ARRIVED_NOWHERE = {"keys": "", "loaded": "still-initial", "adapter-active": "adapter-not-loaded"}
SLOT_EMPTY = {"keys": "lora-slot-empty", "ratio": "", "loaded": "lora-slot-empty"}
DROPPED = {"keys": "target-mismatch", "loaded": "target-mismatch"}
# The first check that needs the loaded model fails, and the others are skipped for that reason.
RAISES = {"keys": "loader-failed"}
UNREADABLE = {"readable": ""}
NOTHING: Expected = {}

DIRECTORY: dict[str, tuple[str, Expected]] = {
    "wrapper-prefix": ("plain", ARRIVED_NOWHERE),
    "outer-prefix-lost": ("plain", ARRIVED_NOWHERE),
    "one-lora-b-missing": (
        "plain",
        {"lora-complete": "lora-pair-incomplete", **SLOT_EMPTY, "adapter-active": "zero-update-in-use"},
    ),
    "all-lora-b-missing": (
        "plain",
        {"lora-complete": "lora-pair-incomplete", **SLOT_EMPTY, "adapter-active": "adapter-not-loaded"},
    ),
    "no-tensors": ("plain", UNREADABLE),
    "lora-b-zero": ("plain", {"values": "adapter-all-zero", "adapter-active": "adapter-all-zero"}),
    "nan": ("plain", {"values": "nan-or-inf", "adapter-active": "nan-in-model", "generate": "generate-not-finite"}),
    "integer-codes": ("plain", {"values": "integer-codes", "loaded": "integer-codes"}),
    "rank-in-config": ("plain", {"config": "config-rank", **RAISES}),
    "targets-narrowed": ("plain", {"config": "config-targets", **DROPPED}),
    "modules-to-save-missing": ("head", {"config": "config-modules-to-save", **RAISES}),
    "modules-to-save-not-in-config": ("head", {"base-untouched": "base-overwritten"}),
    "base-weight-in-adapter": ("plain", {"base-untouched": "base-weights-in-adapter"}),
    "dora-flag-lost": ("dora", {"config": "config-dora", **DROPPED}),
    "one-magnitude-missing": ("dora", {"lora-complete": "lora-pair-incomplete", **SLOT_EMPTY}),
    "biases-missing": ("bias", {"keys": "config-bias", "ratio": "", "loaded": "config-bias"}),
    "truncated": ("plain", UNREADABLE),
}

# Where a loader treats a fault in its own way.
OTHERWISE: dict[tuple[str, str], Expected] = {
    # transformers puts the prefix back.
    ("outer-prefix-lost", "transformers_load_adapter"): NOTHING,
    ("modules-to-save-missing", "transformers_load_adapter"): {"config": "config-modules-to-save", **SLOT_EMPTY},
}


def by_each(rows: Collection[Any], loaders: Collection[str]) -> list[Any]:
    """Every row with every loader: in the usual run with one of them, in turn."""
    return [
        pytest.param(row, loader, marks=[] if (at - number) % len(loaders) == 0 else [pytest.mark.exhaustive])
        for at, row in enumerate(rows)
        for number, loader in enumerate(loaders)
    ]


def usual(loader: str, loaders: Collection[str]) -> list[Any]:
    """Every loader: in the usual run this one."""
    return [pytest.param(each, marks=[] if each == loader else [pytest.mark.exhaustive]) for each in loaders]


def holds(audited: Audit, expected: Expected) -> None:
    """Exactly these checks fail, and each gives its cause."""
    told = str(audited)
    assert audited.failed - {"manifest"} == set(expected), told
    for check, cause in expected.items():
        assert not cause or cause in audited.causes(check), told


@pytest.mark.parametrize(("fault", "loader"), by_each(DIRECTORY, LOADERS))
def test_in_an_adapter_directory(adapters: World, fault: str, loader: str) -> None:
    name, expected = DIRECTORY[fault]
    base = ADAPTERS[name][0]
    audited = audit(adapters.damaged(name, fault), LOADERS[loader](base), base=base)
    holds(audited, OTHERWISE.get((fault, loader), expected))
    # Some tensors are missing, and no layer is.
    assert "missing-layers" not in audited.causes(), str(audited)


@pytest.mark.parametrize(("name", "loader"), by_each(ADAPTERS, LOADERS))
def test_a_healthy_adapter_with_its_manifest(adapters: World, name: str, loader: str) -> None:
    base = ADAPTERS[name][0]
    audited = audit(adapters.paths[name], LOADERS[loader](base), base=base, manifest=adapters.manifests[name])
    if (name, loader) == ("dora", "transformers_load_adapter"):
        # transformers 5.24 with PEFT 0.21 loads no magnitude vector.
        assert "still-initial" in audited.causes("loaded"), str(audited)
        return
    assert not audited.failed, str(audited)
    assert audited.results["manifest"].outcome == "passed", str(audited)


# What only a record of the training shows.
WITH_MANIFEST: dict[str, tuple[str, str]] = {
    "layers-exchanged": ("plain", "exchanged-tensors"),
    "alpha-changed": ("plain", "config-differs"),
    "rslora-changed": ("rslora", "scaling-differs"),
    "adapter-of-another-run": ("plain", "other-step"),
    "scale-folded": ("plain", "values-differ"),
}


@pytest.mark.parametrize(("fault", "loader"), by_each(WITH_MANIFEST, LOADERS))
def test_what_only_a_manifest_shows(adapters: World, fault: str, loader: str) -> None:
    name, cause = WITH_MANIFEST[fault]
    path, base = adapters.damaged(name, fault), ADAPTERS[name][0]
    blind = audit(path, LOADERS[loader](base), base=base)
    holds(blind, NOTHING)
    assert blind.results["manifest"].outcome == "skipped"
    for word in ("lora_alpha", "use_rslora", "layers exchanged", "could not be checked"):
        assert word in blind.why("manifest")
    audited = audit(path, LOADERS[loader](base), base=base, manifest=adapters.manifests[name])
    assert audited.failed == {"manifest"}, str(audited)
    assert cause in audited.causes("manifest"), str(audited)


def another_base() -> Any:
    return llama(seed=7)


@pytest.mark.parametrize("loader", usual("from_pretrained", LOADERS))
def test_another_base_model(adapters: World, loader: str) -> None:
    path, load = adapters.paths["plain"], LOADERS[loader](another_base)
    blind = audit(path, load)
    holds(blind, NOTHING)
    assert blind.results["base-untouched"].outcome == "skipped"
    assert "lora_base_model" in blind.why("base-untouched")
    holds(audit(path, load, base=llama), {"base-untouched": "base-overwritten"})
    audited = audit(path, load, manifest=adapters.manifests["plain"])
    assert audited.failed & {"manifest", "base-untouched"}, str(audited)
    assert {"other-base", "base-overwritten"} & audited.causes("manifest", "base-untouched"), str(audited)


@pytest.mark.parametrize(("layers", "loader"), by_each([2, 4], LOADERS))
def test_a_base_of_another_depth(adapters: World, loader: str, layers: int) -> None:
    def base() -> Any:
        return llama(layers=layers)

    audited = audit(adapters.paths["plain"], LOADERS[loader](base), base=llama)
    assert {"keys", "loaded"} <= audited.failed, str(audited)
    cause = "extra-layers" if layers == 2 else "missing-layers"
    assert cause in audited.causes("keys"), str(audited)
    assert cause in audited.causes("loaded"), str(audited)


def test_mismatched_sizes_ignored(adapters: World) -> None:
    path = adapters.damaged("plain", "rank-in-config")
    audited = audit(path, lambda where: PeftModel.from_pretrained(llama(), where, ignore_mismatched_sizes=True))
    assert {"config", "keys", "loaded"} <= audited.failed, str(audited)
    assert "config-rank" in audited.causes("config")
    assert "rank-mismatch" in audited.causes("keys") & audited.causes("loaded"), str(audited)


def test_another_adapter_name_in_the_keys(adapters: World) -> None:
    path = adapters.damaged("plain", "adapter-name-in-keys")
    audited = audit(path, lambda where: PeftModel.from_pretrained(llama(), where, adapter_name="served"), base=llama)
    holds(audited, ARRIVED_NOWHERE)
    # PEFT 0.21 takes the name out of the keys where it is the same.
    holds(audit(path, from_pretrained(llama), base=llama), NOTHING)
    holds(audit(path, transformers_load_adapter(llama), base=llama), ARRIVED_NOWHERE)


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.trace)!r}, 'w').close()",))


@pytest.mark.parametrize("loader", LOADERS)
def test_a_pickle_that_would_run_code(adapters: World, loader: str, tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    shutil.copytree(adapters.paths["plain"], path)
    (path / "adapter_model.safetensors").unlink()
    torch.save({"base_model.model.x.lora_A.weight": Payload(tmp_path / "it-ran")}, path / "adapter_model.bin")
    audited = audit(path, LOADERS[loader](llama), base=llama)
    assert audited.failed, str(audited)
    assert not (tmp_path / "it-ran").exists()


def test_a_bin_alone_through_transformers(adapters: World, tmp_path: Path) -> None:
    path = save(adapt(llama()), tmp_path / "bin", safe_serialization=False)
    # transformers 5.24 does not look for it.
    holds(audit(path, transformers_load_adapter(llama), base=llama), RAISES)
    holds(audit(path, load_adapter(llama), base=llama), NOTHING)


@pytest.mark.parametrize("loader", usual("load_adapter", LOADERS))
def test_a_stale_twin(adapters: World, loader: str) -> None:
    audited = audit(adapters.damaged("plain", "stale-twin"), LOADERS[loader](llama), base=llama)
    found = {each.cause for each in audited.results["config"].findings}
    assert "twin-files-differ" in found, str(audited)
    assert audited.failed <= {"config"}, str(audited)


def test_a_second_adapter_that_is_never_activated(adapters: World) -> None:
    def load(where: Path) -> Any:
        model = adapt(llama(), "first", seed=9)
        model.load_adapter(where, "second")
        return model

    holds(audit(adapters.paths["plain"], load, base=llama), {"adapter-active": "adapter-inactive"})


def merged_base() -> Any:
    return adapt(llama()).merge_and_unload()


@pytest.mark.parametrize("loader", usual("transformers_load_adapter", LOADERS))
def test_a_base_that_is_merged_already(adapters: World, loader: str) -> None:
    path, load = adapters.paths["plain"], LOADERS[loader](merged_base)
    audited = audit(path, load, base=llama)
    assert "base-untouched" in audited.failed, str(audited)
    assert {"base-overwritten", "merged-twice"} & audited.causes("base-untouched"), str(audited)
    audited = audit(path, load, manifest=adapters.manifests["plain"])
    assert audited.failed, str(audited)
    blind = audit(path, load)
    assert blind.results["base-untouched"].outcome == "skipped"


# Loaders that do wrong with a healthy file


def _renumbered(where: Path) -> Any:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    model = adapt(llama(), seed=5)
    state = load_file(where / "adapter_model.safetensors")
    other = {"layers.1.": "layers.2.", "layers.2.": "layers.1."}
    moved = {}
    for key, value in state.items():
        part = next((part for part in other if part in key), None)
        moved[key.replace(part, other[part]) if part else key] = value
    set_peft_model_state_dict(model, moved)
    return model


def _initialised_again(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    for module in model.modules():
        if hasattr(module, "reset_lora_parameters"):
            module.reset_lora_parameters("default", init_lora_weights=True)
    return model


def _scaled(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            parameter.data.mul_(2.0)
    return model


def _scaling_set(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    for layer in _layers(model):
        layer.scale_layer(2.5)
    return model


def _disabled(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    model.base_model.disable_adapter_layers()
    return model


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "lora_A") and hasattr(module, "scale_layer")]


def _disabled_in_half(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    for layer in _layers(model)[::2]:
        layer.enable_adapters(enabled=False)
    return model


def _not_active_in_half(where: Path) -> Any:
    model = adapt(llama(), "first", seed=9)
    model.load_adapter(where, "second")
    for layer in _layers(model)[::2]:
        layer.set_adapter("second")
    return model


def _beside_a_fresh_one(where: Path) -> Any:
    from peft import LoraConfig

    model = PeftModel.from_pretrained(llama(), where)
    model.add_adapter("fresh", LoraConfig(r=4, target_modules=["q_proj"]))
    model.set_adapter("fresh")
    return model


def _left_out_of_forward(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    for layer in _layers(model):
        layer.forward = layer.base_layer.forward
    return model


def _head_tied(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    inner = model.get_base_model()
    inner.lm_head.weight = inner.model.embed_tokens.weight
    return model


def _unloaded(where: Path) -> Any:
    return PeftModel.from_pretrained(llama(), where).unload()


def _base_alone(where: Path) -> Any:
    return llama()


def _deleted(where: Path) -> Any:
    model = adapt(llama(), seed=9)
    model.load_adapter(where, "second")
    model.delete_adapter("second")
    return model


def _first_layers(where: Path) -> Any:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    model = adapt(llama(), seed=5)
    state = load_file(where / "adapter_model.safetensors")
    set_peft_model_state_dict(model, {key: state[key] for key in state if ".0." in key or ".1." in key})
    return model


def _overflowing(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    first = next(value for key, value in model.named_parameters() if "lora_B" in key)
    # Only in the model: the file's values fit.
    first.data.mul_(1e6)
    return model.half()


def _with_nan(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    first = next(value for key, value in model.named_parameters() if "q_proj.lora_A" in key)
    first.data[0, 0] = float("nan")
    return model


def _on_meta(where: Path) -> Any:
    return PeftModel.from_pretrained(llama(), where).to("meta")


def _rounded(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = (parameter.data * 16).round() / 16
    return model


def _merged_twice(where: Path) -> Any:
    once = PeftModel.from_pretrained(llama(), where).merge_and_unload()
    return PeftModel.from_pretrained(once, where).merge_and_unload()


def _merged_at_another_strength(where: Path) -> Any:
    return _scaling_set(where).merge_and_unload()


def _merged_in_part(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where).merge_and_unload()
    plain = llama()
    model.model.layers[-1].load_state_dict(plain.model.layers[-1].state_dict())
    return model


def _another_run(where: Path) -> Any:
    return adapt(llama(), seed=77)


def _trained_on(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data.add_(torch.randn_like(parameter) * 0.01)
    return model


def _base_changed(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    model.get_base_model().model.norm.weight.data.mul_(1.5)
    return model


def _embeddings_resized(where: Path) -> Any:
    model = PeftModel.from_pretrained(llama(), where)
    model.get_base_model().resize_token_embeddings(80, mean_resizing=False)
    return model


WRONG: dict[str, tuple[Load, Expected]] = {
    "layers renumbered": (_renumbered, {"loaded": "exchanged-tensors"}),
    "initialised after loading": (
        _initialised_again,
        {"loaded": "still-initial", "adapter-active": "adapter-not-loaded"},
    ),
    "scaled": (_scaled, {"loaded": "scaled-values"}),
    "another scaling in force": (_scaling_set, {"adapter-active": "scaling-differs"}),
    "disabled": (_disabled, {"adapter-active": "adapter-inactive"}),
    "disabled in half of the layers": (_disabled_in_half, {"adapter-active": "adapter-inactive"}),
    "not active in half of the layers": (_not_active_in_half, {"adapter-active": "adapter-inactive"}),
    "not active beside a fresh one": (_beside_a_fresh_one, {"adapter-active": "adapter-inactive"}),
    "left out of the forward pass": (_left_out_of_forward, {"adapter-active": "adapter-inactive"}),
    "the head tied": (_head_tied, {"base-untouched": "base-overwritten"}),
    "unloaded": (
        _unloaded,
        {"keys": "adapter-not-loaded", "loaded": "adapter-not-loaded", "adapter-active": "adapter-not-loaded"},
    ),
    "the base alone": (
        _base_alone,
        {"keys": "adapter-not-loaded", "loaded": "adapter-not-loaded", "adapter-active": "adapter-not-loaded"},
    ),
    "deleted, and another one active": (_deleted, {"loaded": "values-differ"}),
    "the first layers alone": (_first_layers, {"loaded": "values-differ"}),
    "overflow in float16": (
        _overflowing,
        {"loaded": "cast-overflow", "adapter-active": "nan-in-model", "generate": "generate-not-finite"},
    ),
    "NaN": (_with_nan, {"loaded": "nan-or-inf", "adapter-active": "nan-in-model", "generate": "generate-not-finite"}),
    "on meta": (_on_meta, {"loaded": "not-materialised", "adapter-active": "", "generate": ""}),
    "rounded": (_rounded, {"loaded": "earlier-value"}),
    "merged twice": (_merged_twice, {"loaded": "merged-twice", "adapter-active": "merged-twice"}),
    "merged at another strength": (
        _merged_at_another_strength,
        {"loaded": "scaling-differs", "adapter-active": "scaling-differs"},
    ),
    "merged in part": (_merged_in_part, {"loaded": "adapter-not-loaded", "adapter-active": "adapter-not-loaded"}),
    "another run": (_another_run, {"loaded": "values-differ"}),
    "trained on": (_trained_on, {"loaded": "earlier-value"}),
    "a base weight changed": (_base_changed, {"base-untouched": "base-overwritten"}),
}

# What a merge that went wrong may also fail, whose weights are neither the base model's nor W + s BA.
MAY = {"merged twice", "merged at another strength", "merged in part", "on meta", "unloaded", "the base alone"}


@pytest.mark.parametrize("name", WRONG)
def test_a_loader_that_does_wrong(adapters: World, name: str) -> None:
    load, expected = WRONG[name]
    audited = audit(adapters.paths["plain"], load, base=llama)
    told = str(audited)
    assert set(expected) <= audited.failed, told
    more = {"keys", "ratio", "base-untouched"} if name in MAY else set()
    assert audited.failed <= set(expected) | more, told
    for check, cause in expected.items():
        assert not cause or cause in audited.causes(check), told
    if name in {"merged twice", "merged at another strength"}:
        # It was loaded, and then too much was done with it.
        assert "adapter-not-loaded" not in audited.causes(), told


def test_a_trained_head_that_is_switched_off(adapters: World) -> None:
    def load(where: Path) -> Any:
        model = PeftModel.from_pretrained(llama(), where)
        model.get_base_model().lm_head.enable_adapters(enabled=False)
        return model

    holds(audit(adapters.paths["head"], load, base=llama), {"adapter-active": "adapter-inactive"})


def test_a_vocabulary_resized_after_loading(adapters: World) -> None:
    audited = audit(adapters.paths["plain"], _embeddings_resized, base=llama)
    # The new rows aside the weights are the base model's: what there is to compare was compared.
    assert audited.results["loaded"].outcome == "passed", str(audited)


# Lightning


LAYERS = 2


def vlm(**make: Any) -> Any:
    return make_panorama_vlm(lora=False, **make)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("lightning")
    world = World({}, {}, tmp_path_factory.mktemp("damaged-lightning"))
    for name, make in (("trained", {}), ("dora", {"use_dora": True, "modules_to_save": ["norm"]})):
        world.paths[name] = save_lightning(folder, f"{name}.ckpt", keep="trained", strict=False, layers=LAYERS, **make)
        with quietly():
            world.manifests[name] = write_manifest(
                Vlm.load_from_checkpoint(world.paths[name], strict=False), folder / f"{name}.json"
            )
    return world


# lora_B is zero until something is loaded.
FRESH = {"random_lora_b": False}


def load_from_checkpoint(folder: Path, **make: Any) -> Load:
    return lambda where: Vlm.load_from_checkpoint(where, strict=False, **FRESH, **make)


def trainer_resumes(folder: Path, **make: Any) -> Load:
    return lambda where: resume(where, folder, keep="trained", strict=False, **{**FRESH, "layers": LAYERS, **make})


def load_state_dict(folder: Path, **make: Any) -> Load:
    def load(where: Path) -> Any:
        module = Vlm(keep="trained", strict=False, **{**FRESH, "layers": LAYERS, **make})
        module.load_state_dict(torch.load(where, weights_only=True)["state_dict"], strict=False)
        return module

    return load


STATE_LOADERS = {each.__name__: each for each in (load_from_checkpoint, trainer_resumes, load_state_dict)}
DORA = {"use_dora": True, "modules_to_save": ["norm"]}

STATE_DICT: dict[str, tuple[str, Expected]] = {
    "wrapper-prefix": ("trained", ARRIVED_NOWHERE),
    "outer-prefix-lost": ("trained", ARRIVED_NOWHERE),
    "one-lora-b-missing": (
        "trained",
        {"lora-complete": "lora-pair-incomplete", **SLOT_EMPTY, "adapter-active": "zero-update-in-use"},
    ),
    "all-lora-b-missing": (
        "trained",
        {"lora-complete": "lora-pair-incomplete", **SLOT_EMPTY, "adapter-active": "adapter-not-loaded"},
    ),
    "no-tensors": ("trained", UNREADABLE),
    "lora-b-zero": ("trained", {"values": "adapter-all-zero", "adapter-active": "adapter-all-zero"}),
    "nan": ("trained", {"values": "nan-or-inf", "adapter-active": "nan-in-model", "generate": "generate-not-finite"}),
    "integer-codes": ("trained", {"values": "integer-codes", "loaded": "integer-codes"}),
    "adapter-renamed": ("trained", ARRIVED_NOWHERE),
    "one-magnitude-missing": ("dora", {"lora-complete": "lora-pair-incomplete", **SLOT_EMPTY}),
    "trained-copy-missing": ("dora", SLOT_EMPTY),
    "truncated": ("trained", UNREADABLE),
    "rank-halved": ("trained", RAISES),
}


@pytest.mark.parametrize(("fault", "loader"), by_each(STATE_DICT, STATE_LOADERS))
def test_in_a_lightning_checkpoint(trained: World, fault: str, loader: str, tmp_path: Path) -> None:
    name, expected = STATE_DICT[fault]
    load = STATE_LOADERS[loader](tmp_path, **(DORA if name == "dora" else {}))
    audited = audit(trained.damaged(name, fault), load, base=lambda: vlm(layers=LAYERS), inputs=replica_inputs)
    holds(audited, expected)


@pytest.mark.parametrize("loader", usual("load_from_checkpoint", STATE_LOADERS))
def test_a_projector_that_was_trained_and_is_not_there(trained: World, loader: str, tmp_path: Path) -> None:
    path, load = trained.damaged("trained", "trained-projector-missing"), STATE_LOADERS[loader](tmp_path)
    blind = audit(path, load, base=lambda: vlm(layers=LAYERS), inputs=replica_inputs)
    holds(blind, NOTHING)
    assert blind.results["manifest"].outcome == "skipped"
    audited = audit(
        path, load, base=lambda: vlm(layers=LAYERS), inputs=replica_inputs, manifest=trained.manifests["trained"]
    )
    assert "manifest" in audited.failed, str(audited)


@pytest.mark.parametrize(("fault", "loader"), by_each(["layers-exchanged", "adapter-of-another-run"], STATE_LOADERS))
def test_what_only_a_manifest_shows_of_a_lightning_checkpoint(
    trained: World, fault: str, loader: str, tmp_path: Path
) -> None:
    path, load = trained.damaged("trained", fault), STATE_LOADERS[loader](tmp_path)
    blind = audit(path, load, base=lambda: vlm(layers=LAYERS), inputs=replica_inputs)
    holds(blind, NOTHING)
    audited = audit(
        path, load, base=lambda: vlm(layers=LAYERS), inputs=replica_inputs, manifest=trained.manifests["trained"]
    )
    assert audited.failed == {"manifest"}, str(audited)


@pytest.mark.parametrize("loader", usual("trainer_resumes", STATE_LOADERS))
def test_another_strength_than_in_training(trained: World, loader: str, tmp_path: Path) -> None:
    load = STATE_LOADERS[loader](tmp_path, alpha=1)
    audited = audit(trained.paths["trained"], load, inputs=replica_inputs, manifest=trained.manifests["trained"])
    assert audited.failed & {"manifest", "adapter-active"}, str(audited)
    blind = audit(trained.paths["trained"], load, inputs=replica_inputs)
    assert blind.results["manifest"].outcome == "skipped"


@pytest.mark.parametrize("loader", usual("load_state_dict", STATE_LOADERS))
def test_another_base_under_a_lightning_checkpoint(trained: World, loader: str, tmp_path: Path) -> None:
    path, load = trained.paths["trained"], STATE_LOADERS[loader](tmp_path, seed=6)
    holds(audit(path, load, inputs=replica_inputs), NOTHING)
    audited = audit(path, load, base=lambda: vlm(layers=LAYERS), inputs=replica_inputs)
    holds(audited, {"base-untouched": "base-overwritten"})
    audited = audit(path, load, inputs=replica_inputs, manifest=trained.manifests["trained"])
    assert audited.failed & {"manifest", "base-untouched"}, str(audited)


@pytest.mark.parametrize("loader", STATE_LOADERS)
@pytest.mark.parametrize(("layers", "cause"), [(1, "extra-layers"), (3, "missing-layers")])
def test_a_lightning_base_of_another_depth(
    trained: World, loader: str, layers: int, cause: str, tmp_path: Path
) -> None:
    load = STATE_LOADERS[loader](tmp_path, layers=layers)
    audited = audit(trained.paths["trained"], load, base=lambda: vlm(layers=LAYERS), inputs=replica_inputs)
    if loader == "trainer_resumes":  # The optimizer's state does not fit either, and the Trainer minds that.
        holds(audited, RAISES)
        return
    assert {"keys", "loaded"} <= audited.failed, str(audited)
    assert cause in audited.causes("keys") & audited.causes("loaded"), str(audited)
