"""Results for the HTML report: real audits of replicas with more layers than usual, and a very large one made up."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from pytest_lora_ckpt import AuditResult, audit
from pytest_lora_ckpt.auditing.picture import draw
from pytest_lora_ckpt.auditing.result import CheckpointFacts, CheckResult, UpdateFacts
from pytest_lora_ckpt.lora.adapters import AdapterInfo
from pytest_lora_ckpt.replicas import PanoramaVLM, make_panorama_vlm, replica_inputs, save_replica
from pytest_lora_ckpt.results import Finding
from tests.helpers.guide_loader import load_like_the_guide

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = 12


def trained(layers: int = LAYERS) -> PanoramaVLM:
    """A replica whose updates are as big as those of real adapters: small, larger in later layers."""
    model = make_panorama_vlm(layers=layers)
    with torch.no_grad():
        for number, (name, tensor) in enumerate(model.named_parameters()):
            if "lora_B" in name:
                layer = int(name.partition("layers.")[2].partition(".")[0])
                tensor.mul_(0.03 * math.exp(1.4 * layer / layers + 0.5 * math.sin(number)))
    return model


def healthy(folder: Path, layers: int = LAYERS) -> AuditResult:
    """A checkpoint that its own loader loads."""
    return audited(save_replica(folder / "healthy", model=trained(layers), layout="lightning"), layers)


def audited(path: Path, layers: int = LAYERS, *, guide: bool = False) -> AuditResult:
    """Audit a replica with all that there is, through its own loader or the guide's."""
    return audit(
        path,
        loader=load_like_the_guide if guide else PanoramaVLM.from_checkpoint,
        inputs=replica_inputs,
        base_model=lambda: make_panorama_vlm(lora=False, layers=layers),
    )


def through_the_guides_loader(folder: Path) -> AuditResult:
    """The same checkpoint, of which the guide's loader drops the adapter."""
    return audited(save_replica(folder / "guide", model=trained(), layout="lightning"), guide=True)


def damaged(folder: Path, layers: int = LAYERS) -> AuditResult:
    """A checkpoint of which a layer was not trained, one holds NaN, and the last one was not saved."""
    path = save_replica(folder / "damaged", model=trained(layers), layout="lightning")
    checkpoint = torch.load(path, weights_only=False)
    state = checkpoint["state_dict"]
    for key in list(state):
        if "layers.4." in key and "lora_B" in key:
            state[key].zero_()
        if "layers.7.mlp.up_proj.lora_A" in key:
            state[key][0, 0] = float("nan")
        if f".layers.{layers - 1}." in key and "lora_" in key:
            del state[key]
    torch.save(checkpoint, path)
    return audit(path, model=make_panorama_vlm(layers=layers))


def many_modules(layers: int = 100, modules: int = 100) -> AuditResult:
    """A result with a cell for each of ten thousand modules, and an update of each."""
    names = [f"model.layers.{layer}.block{at % 10}.proj{at}" for layer in range(layers) for at in range(modules)]
    keys = [f"{name}.lora_{half}.default.weight" for name in names for half in "AB"]
    lost = {key for at, key in enumerate(keys) if at % 1777 == 0}
    sizes = [0.002 * math.exp(math.sin(at / 700) + 0.3 * math.sin(at)) for at in range(len(names))]
    return AuditResult(
        spec="many",
        checkpoint=CheckpointFacts(
            "runs/many.safetensors", "peft adapter", "safetensors", len(keys), len(keys) * 4096,
            adapters={"default": AdapterInfo(16, 32.0, len(names))},
        ),
        verdict="partial",
        meaning="even after renaming, some tensors have no counterpart",
        picture=draw({"loaded": [key for key in keys if key not in lost], "missing": sorted(lost)}),
        updates=tuple(UpdateFacts(name, "default", size, 1.0) for name, size in zip(names, sizes, strict=True)),
        checks=(CheckResult("keys", "failed", f"{len(lost)} keys are missing"),),
    )  # fmt: skip


def renamed(result: AuditResult, path: str) -> AuditResult:
    """The same result, of a checkpoint at another path: those of a test's own folder differ from run to run."""
    return dataclasses.replace(result, spec=path, checkpoint=dataclasses.replace(result.checkpoint, path=path))


def scored(result: AuditResult) -> AuditResult:
    """The same result with the score of a loader."""
    rows = [
        {"fault": "nan", "story": "A value of an adapter is NaN.", "seen": "file", "loader": "silent", "told": [],
         "wrote": [], "noticed": False, "unharmed": False, "output": "changed", "gate": "caught", "checks": ["values"],
         "causes": ["nan-or-inf"], "lines": "complete", "accepted": None},
        {"fault": "fsdp-wrapper", "story": "FSDP's wrapper is in the keys.", "seen": "model", "loader": "silent",
         "told": [], "wrote": [], "noticed": False, "unharmed": True, "output": "same", "gate": "missed", "checks": [],
         "causes": [], "lines": "", "accepted": None},
        {"fault": "truncated", "story": "The file ends too early.", "seen": "file", "loader": "raised", "told": [],
         "wrote": [], "noticed": True, "unharmed": False, "output": "unknown", "gate": "caught", "checks": ["readable"],
         "causes": [], "lines": "", "accepted": "the storage checks this"},
    ]  # fmt: skip
    score = {"schema": 1, "loader": "my_project.loading:load", "checkpoint": "a.ckpt", "has_manifest": False,
             "seconds": 1.0, "faults": 3, "counted": 1, "noticed": 0, "score": 0.0, "gated": 1, "caught": 1,
             "gate_score": 1.0, "slipped": [], "notes": ["It writes a file."], "rows": rows}  # fmt: skip
    return dataclasses.replace(result, faults=score)


def named(text: str) -> AuditResult:
    """A result of a file that has this text for a name of everything."""
    return AuditResult(
        spec=text,
        checkpoint=CheckpointFacts(text, text, text, 2, 16, adapters={text: AdapterInfo(2, 4.0, 1)}, notes=(text,)),
        picture=draw({"held": [f"layers.{layer}.{text}.lora_A.weight" for layer in range(3)]}),
        checks=(CheckResult("values", "failed", text),),
        findings=(Finding("nan-or-inf", "error", text, text, (text,)),),
    )
