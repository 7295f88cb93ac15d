"""For each cause a checkpoint and a way to load it that have it: what `docs/causes.md` shows is printed of them.

They lie in the project that the pages speak of (`tests/docs/project`): each runs in a copy of its own, from its root.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from pytest_lora_ckpt import audit
from pytest_lora_ckpt.faults import find_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lora_ckpt import AuditResult

    Edit = Callable[[Any], object]

ADAPTER, WEIGHTS, CONFIG = Path("adapter"), "adapter_model.safetensors", "adapter_config.json"
CHECKPOINT, BASE = Path("runs/best.ckpt"), "models/base"
LAYER = "base_model.model.model.layers.{}.self_attn.q_proj"
MANIFEST = "golden/lora_manifest.json"

SAMPLES: dict[str, Callable[[], AuditResult]] = {}
"""By cause: how to get a result with a finding of it."""

UNMADE = {
    "rank-silent": "it takes a rank that has ended",
    "internal-error": "it takes a defect of this package",
}
"""Causes that no sample has, and why."""


def sample(cause: str) -> Callable[[Callable[[], AuditResult]], Callable[[], AuditResult]]:
    def keep(make: Callable[[], AuditResult]) -> Callable[[], AuditResult]:
        SAMPLES[cause] = make
        return make

    return keep


# Faults, injected: into the adapter, which is compared with its base model by the config, or into the checkpoint.


def of_adapter(fault: str, **how: Any) -> Callable[[], AuditResult]:
    return lambda: audit(find_fault(fault).inject(ADAPTER, Path("damaged")), **how)


def _of_checkpoint(fault: str) -> Callable[[], AuditResult]:
    def make() -> AuditResult:
        from my_project.model import build

        return audit(find_fault(fault).inject(CHECKPOINT, Path("damaged")), model=build)

    return make


SAMPLES |= {
    cause: of_adapter(fault)
    for cause, fault in {
        "lora-pair-incomplete": "one-lora-b-missing",
        "lora-rank-uneven": "pair-of-two-ranks",
        "zero3-empty": "size-0",
        "nan-or-inf": "nan",
        "adapter-all-zero": "lora-b-zero",
        "integer-codes": "integer-codes",
        "duplicate-adapter": "two-generations",
        "layers-identical": "layers-repeated",
        "dtype-mixed": "dtype-mixed",
        "config-rank": "rank-halved",
        "config-dora": "dora-flag-added",
        "config-modules-to-save": "modules-to-save-added",
        "config-type-wrong": "peft-type-changed",
        "twin-files-differ": "stale-twin",
        "extra-layers": "more-layers",
        "wrong-base-class": "inner-level-lost",
        "ddp-prefix": "wrapper-prefix",
        "compile-prefix": "compile-prefix",
        "fsdp-prefix": "fsdp-wrapper",
        "wrapper-prefix": "checkpoint-wrapper",
        "vlm-refactor-prefix": "inner-level-added",
        "key-convention": "other-convention",
        "strict-load-of-adapter": "adapter-name-in-keys",
        "base-weights-in-adapter": "base-weight-in-adapter",
        "trained-weights-missing": "one-target-missing",
        "config-differs": "alpha-changed",
        "dtype-narrower": "dtype-changed",
        "other-step": "adapter-of-another-run",
        "other-base": "other-base-name",
    }.items()
}
SAMPLES |= {
    cause: _of_checkpoint(fault)
    for cause, fault in {
        "adapter-partly-zero": "one-lora-b-zero",
        "checksum-wrong": "bit-flip-in-zip",
        "adapter-without-home": "other-convention",
        "lora-not-saved": "no-lora",
        "lora-slot-empty": "one-target-missing",
        "wrong-stage": "component-missing",
        "lost-weights": "last-shard-missing",
        "unexpected-weights": "more-layers",
        "rank-mismatch": "rank-halved",
        "resized-embedding": "vocabulary-resized",
        "transposed-factors": "base-transposed",
        "shape-mismatch": "factors-exchanged",
        "adapter-name": "adapter-renamed",
    }.items()
}


# The adapter, edited.


def _with_config(**fields: Any) -> AuditResult:
    config = json.loads((ADAPTER / CONFIG).read_text())
    (ADAPTER / CONFIG).write_text(json.dumps(config | fields))
    return _alone()


def _with_weights(more: dict[str, torch.Tensor]) -> AuditResult:
    save_file(load_file(ADAPTER / WEIGHTS) | more, ADAPTER / WEIGHTS)
    return _alone()


def _alone() -> AuditResult:
    """The adapter without its manifest, which would find the same by its own means."""
    (ADAPTER / "lora_manifest.json").unlink()
    return audit(ADAPTER)


def _with_neighbour(name: str, content: bytes) -> AuditResult:
    (ADAPTER / name).write_bytes(content)
    return _alone()


SAMPLES |= {
    "runs-code": lambda: _with_neighbour("training_args.bin", b"cposix\nsystem\n(S'id'\ntR."),
    "unknown-class": lambda: _with_neighbour("training_args.bin", b"\x80\x02cmy_project.config\nConfig\n)\x81}b."),
    "pickle-not-read": lambda: _with_neighbour("extra.pkl", b"\x80\x04]I1\nI2\ns."),
    "config-field-broken": lambda: _with_config(r=True),
    "config-bias": lambda: _with_weights({f"{LAYER.format(0)}.bias": torch.ones(32)}),
    "config-targets": lambda: _with_config(target_modules=["q_proj"]),  # PEFT saves a set: its order is chance.
    "config-pattern": lambda: _with_config(target_modules="(q_proj|v_proj"),
    "base-embedding-in-adapter": lambda: _with_weights(
        {"base_model.model.model.embed_tokens.weight": torch.ones(64, 32)}
    ),
}


@sample("stale-twin-file")
def _twin() -> AuditResult:
    torch.save(load_file(ADAPTER / WEIGHTS), ADAPTER / "adapter_model.bin")
    return _alone()


@sample("companion-empty")
def _companion_empty() -> AuditResult:
    torch.save({}, ADAPTER / "non_lora_trainables.bin")
    return _alone()


@sample("companion-not-loaded")
def _companion_not_loaded() -> AuditResult:
    torch.save({"module.lm_head.weight": torch.ones(64, 32)}, ADAPTER / "non_lora_trainables.bin")
    return audit(ADAPTER, loader="peft")


@sample("companion-not-judged")
def _companion_not_judged() -> AuditResult:
    torch.save({"teacher.encoder.weight": torch.ones(3, 5)}, ADAPTER / "teacher.pt")
    return audit(ADAPTER, loader="peft")


@sample("empty-adapter")
def _empty() -> AuditResult:
    save_file({"base_model.model.score.weight": torch.ones(2, 32)}, ADAPTER / WEIGHTS)
    return _alone()


@sample("modules-to-save")
def _to_save() -> AuditResult:
    state = torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    model = {key.removeprefix("model.base_model.model."): tuple(value.shape) for key, value in state.items()}
    del model["lm_head.weight"]
    model |= {f"lm_head.{copy}.weight": (64, 32) for copy in ("original_module", "modules_to_save.default")}
    save_file(load_file(ADAPTER / WEIGHTS) | {"base_model.model.lm_head.weight": torch.ones(64, 32)}, ADAPTER / WEIGHTS)
    (ADAPTER / "lora_manifest.json").unlink()
    config = json.loads((ADAPTER / CONFIG).read_text())
    (ADAPTER / CONFIG).write_text(json.dumps(config | {"modules_to_save": ["lm_head"]}))
    return audit(ADAPTER, model=model)


@sample("config-type")
def _config_type() -> AuditResult:
    save_file({f"{LAYER.format(0)}.ia3_l": torch.ones(32, 1)}, ADAPTER / WEIGHTS)
    return _with_config(peft_type="IA3")


@sample("companion-unreadable")
def _companion_unreadable() -> AuditResult:
    torch.save({"lm_head.weight": torch.ones(64, 32)}, ADAPTER / "non_lora_trainables.bin")
    whole = (ADAPTER / "non_lora_trainables.bin").read_bytes()
    return _with_neighbour("non_lora_trainables.bin", whole[:-500])


@sample("manifest-unreadable")
def _manifest_unreadable() -> AuditResult:
    (ADAPTER / "lora_manifest.json").write_text('{"manifest": 1, "keys"')
    return audit(ADAPTER)


@sample("benign-report")
def _benign() -> AuditResult:
    return audit(ADAPTER)


@sample("model-by-config")
def _by_config() -> AuditResult:
    return _alone()


# Other files.


def state(**tensors: tuple[int, ...]) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(9)
    return {key: torch.randn(shape, generator=drawn) for key, shape in tensors.items()}


def _pair(module: str, rank: int = 4, adapter: str = ".default") -> dict[str, tuple[int, ...]]:
    return {f"{module}.lora_A{adapter}.weight": (rank, 32), f"{module}.lora_B{adapter}.weight": (32, rank)}


def _layers(number: int, *modules: str) -> dict[str, tuple[int, ...]]:
    return {
        key: shape
        for layer in range(number)
        for module in modules
        for key, shape in _pair(f"model.layers.{layer}.{module}").items()
    }


def _compared(file: dict[str, tuple[int, ...]], model: dict[str, tuple[int, ...]] | None = None) -> AuditResult:
    save_file(state(**file), "a.safetensors")
    return audit("a.safetensors", model=model)


PLAIN: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, 32), "model.norm.weight": (32,)}
LORA = _layers(2, "self_attn.q_proj", "self_attn.v_proj")
WRAPPED = PLAIN | {f"{key[: key.index('.lora_')]}.base_layer.weight": (32, 32) for key in LORA} | LORA
PROJECTIONS = {f"model.layers.0.self_attn.{name}_proj.weight": (32, 32) for name in "qkv"}
BLOCKS = {f"blocks.{n}.{name}.weight": (32, 32) for n in range(2) for name in ("proj", "fc")}
EXPERTS = {f"model.layers.0.mlp.experts.{n}.{w}.weight": (16, 8) for n in range(3) for w in ("w1", "w3")}

SAMPLES |= {
    "lora-uneven-layers": lambda: _compared(
        {key: shape for key, shape in _layers(6, "q_proj", "v_proj").items() if "layers.3.v_proj" not in key}
    ),
    "alpha-not-in-file": lambda: _compared(_pair("unet.down_blocks.0.attn1.to_q", adapter="")),
    "unmerged-peft-full-save": lambda: _compared(
        WRAPPED, {key.replace(".base_layer", ""): s for key, s in WRAPPED.items() if "lora_" not in key}
    ),
    "target-mismatch": lambda: _compared(WRAPPED, {key: s for key, s in WRAPPED.items() if "v_proj.lora_" not in key}),
    "component-partly-held": lambda: _compared(
        LORA | {"projector.weight": (8, 4)}, WRAPPED | {"projector.weight": (8, 4), "projector.bias": (8,)}
    ),
    "too-few-loaded": lambda: _compared({"encoder.weight": (3, 4)}, WRAPPED),
    "quantised-weights": lambda: _compared(
        PLAIN | {f"model.layers.0.fc.{name}": (4, 32) for name in ("qweight", "qzeros", "scales")},
        PLAIN | {"model.layers.0.fc.weight": (32, 32)},
    ),
    "one-rank-only": lambda: _compared(
        {"fc.lora_A.default.weight": (2, 32), "fc.lora_B.default.weight": (16, 4)},
        {"fc.lora_A.default.weight": (4, 32), "fc.lora_B.default.weight": (32, 4)},
    ),
    "merged-linear": lambda: _compared(
        {"h.0.attn.c_attn.lora_A": (8, 32), "h.0.attn.c_attn.lora_B": (64, 4)},
        {
            "base_model.model.h.0.attn.c_attn.lora_A.default.weight": (4, 32),
            "base_model.model.h.0.attn.c_attn.lora_B.default.weight": (96, 4),
        },
    ),
    "fused-weights": lambda: _compared(
        PLAIN | PROJECTIONS, PLAIN | {"model.layers.0.self_attn.qkv_proj.weight": (96, 32)}
    ),
    "missing-layers": lambda: _compared(
        PLAIN | {"model.layers.0.mlp.weight": (32, 32)},
        PLAIN | {f"model.layers.{layer}.mlp.weight": (32, 32) for layer in range(2)},
    ),
    "fused-experts": lambda: _compared(
        PLAIN | EXPERTS, PLAIN | {f"model.layers.0.mlp.experts.{w}": (3, 16, 8) for w in ("w1", "w3")}
    ),
    "renamed-module": lambda: _compared(
        PLAIN | {f"model.layers.{n}.attention.{w}_proj.weight": (32, 32) for n in range(2) for w in "qkv"},
        PLAIN | {f"model.layers.{n}.self_attn.{w}_proj.weight": (32, 32) for n in range(2) for w in "qkv"},
    ),
    "ambiguous-remapping": lambda: _compared(
        BLOCKS, {f"{side}.{key}": shape for side in ("left", "right") for key, shape in BLOCKS.items()}
    ),
    "other-manifest": lambda: audit(write(state(**BLOCKS)), manifest=MANIFEST),
}


def write(tensors: dict[str, torch.Tensor]) -> str:
    save_file(tensors, "a.safetensors")
    return "a.safetensors"


@sample("files-disagree")
def _shards() -> AuditResult:
    folder = Path("model")
    folder.mkdir()
    names = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    for key, name in names.items():
        save_file({key: torch.ones(4, 4)}, folder / name)
    index = {"metadata": {"total_size": 192}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return audit(folder)


def beside(edit: Edit) -> None:
    """Put an adapter next to the checkpoint, as projects save it."""
    shutil.copytree(ADAPTER, "runs/lora_weights")
    path = Path("runs/lora_weights", WEIGHTS)
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def doubled(weights: dict[str, torch.Tensor]) -> None:
    for key, value in [*weights.items()]:
        weights[key] = value * 1.5 + 0.01


@sample("adapters-disagree")
def _adapters_disagree() -> AuditResult:
    beside(doubled)
    return audit(CHECKPOINT)


@sample("lora-beside")
def _lora_beside() -> AuditResult:
    from my_project.model import build

    beside(lambda _: None)
    saved = torch.load(CHECKPOINT, weights_only=True)
    saved["state_dict"] = {key: value for key, value in saved["state_dict"].items() if "lora_" not in key}
    torch.save(saved, CHECKPOINT)
    return audit(CHECKPOINT, model=build)


@sample("adapter-not-loaded")
def _not_loaded() -> AuditResult:
    from transformers import LlamaForCausalLM

    return audit(CHECKPOINT, model=lambda: LlamaForCausalLM.from_pretrained(BASE))


@sample("lightning-prefix")
def _lightning() -> AuditResult:
    from my_project.model import build

    return audit(CHECKPOINT, model=build)
