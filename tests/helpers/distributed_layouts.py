"""The samples of distributed checkpoints for the test of every layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.helpers.distributed_samples import save_alone, written_by_ranks
from tests.helpers.layout_samples import sample

if TYPE_CHECKING:
    from pathlib import Path


@sample("distributed")
def distributed_alone(model: Any, folder: Path) -> Path:
    return save_alone({"model": model.state_dict()}, folder / "step-3")


def _by_ranks(name: str, **facts: Any) -> None:
    def write(_: Any, folder: Path) -> Path:
        return written_by_ranks(folder.parent) / name

    write.__name__ = f"ranks_{name.replace('/', '_').replace('.', '_')}"
    sample(**{"layout": "distributed", **facts})(write)


for each in (
    *("fsdp2", "flat_optimizer", "trained_only", "file_a_tensor", "two_threads", "metadata_a_rank", "fsdp2/.metadata"),
    *("safetensors_format", "huggingface", "huggingface_mapped", "huggingface_consolidated/sharded"),
    *("accelerate_state", "accelerate_state/pytorch_model_fsdp_0"),
):
    _by_ranks(each)
_by_ranks("huggingface_consolidated", layout="transformers")
for each in ("lightning_fsdp", "lightning_model_parallel", "lightning_model_parallel/meta.pt", "trainer_with_peft"):
    _by_ranks(each, verdict="loads-after-remap")
