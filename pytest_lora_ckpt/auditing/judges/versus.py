"""The judge of two checkpoints against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.judges.judgement import failed, passed, skipped
from pytest_lora_ckpt.findings import finding

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.proof.versus import Versus

_REMEDY = "Nothing to mend if these are two states of a run: this is what changed. One adapter in two layouts has the "
_REMEDY += "same values in both: save it again from the same model."


def same_values(compared: Versus) -> Judgement:
    """Every tensor that both checkpoints have is the same in both, bit for bit or up to a cast."""
    if not compared.tensors:
        too_much = f"{compared.left} base weights are too much to read"
        return skipped(f"no values were compared: {too_much if compared.left else 'no tensor is in both'}")
    if not compared.differing:
        return passed(compared.why)
    found = finding("values-differ", compared.why, [each.key for each in compared.differing], remedy=_REMEDY)
    return failed(compared.why, [found])
