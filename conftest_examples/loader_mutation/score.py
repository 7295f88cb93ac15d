"""Print what a loader does with each fault, and what would make it notice: `python score.py MODULE:FUNCTION`."""

import sys

from pytest_lora_ckpt.replicas import make_panorama_vlm, replica_inputs
from pytest_lora_ckpt.scoring import render_score, score_loader

score = score_loader(
    sys.argv[1],
    "runs/panorama-finetune.ckpt",
    inputs=replica_inputs,
    base_model=lambda: make_panorama_vlm(lora=False),
)
print("\n".join(render_score(score)))  # noqa: T201
