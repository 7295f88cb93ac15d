"""The command line and ini options, as pytest registers them. Every pytest run imports this."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


OVERRIDABLE = ("lora_model", "lora_loader", "lora_inputs", "lora_base_model")
"""Fixtures that a project overrides in its `conftest.py`."""


def add_options(parser: pytest.Parser) -> None:
    """Register the options and their ini names."""
    group = parser.getgroup("lora-ckpt", "LoRA checkpoints: did it really load, and does the adapter do anything?")
    group.addoption(
        "--lora-ckpt",
        action="append",
        metavar="PATH",
        help="Audit this checkpoint (repeatable): a .ckpt/.pt/.bin/.safetensors file, a PEFT adapter directory, or "
        "replica:STAGE (vision, resampler, finetune), a tiny PanoramaVLM checkpoint made on the spot.",
    )
    group.addoption(
        "--lora-model",
        metavar="MODULE:FACTORY",
        help="Callable that returns the nn.Module to receive the weights, or a lora_manifest.json that stands in for "
        "it; or override the fixture lora_model.",
    )
    group.addoption(
        "--lora-loader",
        metavar="MODULE:FUNCTION",
        help="Your own loading code: callable path -> loaded model; or override the fixture lora_loader.",
    )
    group.addoption(
        "--lora-stage",
        metavar="STAGE",
        help="What the checkpoint must hold: vision, resampler or finetune, or a stage of the ini option lora_stages.",
    )
    group.addoption(
        "--lora-min-ratio",
        metavar="R",
        help="Least share (0.0 to 1.0) of the keys that the model needs from the checkpoint, loaded after remapping "
        "(default: 1.0).",
    )
    group.addoption(
        "--lora-report",
        action="append",
        metavar="FILE",
        help="Write the result to this .json file (repeatable).",
    )
    group.addoption(
        "--lora-manifest",
        metavar="FILE",
        help="What was written when the checkpoint was trained (write_manifest, LoraManifestCallback); a "
        "lora_manifest.json beside the checkpoint is found by itself.",
    )
    group.addoption(
        "--lora-faults",
        nargs="?",
        const="",
        metavar="NAME,…",
        help="Score your loader: damage the checkpoint in these ways (write `=NAME`; without a name in every way that "
        "applies), and tell which your loader notices, and which the checks do.",
    )
    group.addoption(
        "--lora-fault-timeout",
        type=float,
        metavar="SECONDS",
        help="Give each damaged checkpoint to the loader in a process of its own, for so long at most; the loader must "
        "be a function of a module.",
    )
    group.addoption(
        "--lora-strict",
        action="store_true",
        help="A check that could not be made counts as failed, not as skipped.",
    )
    parser.addini("lora_ckpt", "Checkpoints to audit, one a line (--lora-ckpt).", type="linelist")
    parser.addini("lora_model", "module:factory of the model that receives the weights (--lora-model).")
    parser.addini("lora_loader", "module:function of your own loading code (--lora-loader).")
    parser.addini("lora_stage", "The stage that the checkpoint must hold (--lora-stage).")
    parser.addini("lora_min_ratio", "Least share of the needed model keys loaded (--lora-min-ratio).")
    parser.addini(
        "lora_accepted_faults",
        "Faults that the project accepts of its loader, one a line: `slug: reason` (--lora-faults).",
        type="linelist",
    )
    parser.addini(
        "lora_stages",
        "The training stages, one a line, in order: `name: component … [lora] [(component …)]`.",
        type="linelist",
    )


def is_asked_for(config: pytest.Config) -> bool:
    """Tell whether the command line or the ini file names a checkpoint."""
    return bool(config.getoption("lora_ckpt") or config.getini("lora_ckpt"))
