"""The judge of two checkpoints against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.judges.judgement import failed, passed, skipped
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_lora_ckpt.auditing.judges.judgement import Judgement
    from pytest_lora_ckpt.proof import AdapterComparison
    from pytest_lora_ckpt.proof.versus import Versus
    from pytest_lora_ckpt.results import Finding

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


def same_adapter(compared: AdapterComparison) -> Judgement:
    """Two adapters adapt the same modules by the same updates, and whatever else was trained is the same."""
    if not compared.modules and not compared.only_one and not compared.only_two:
        return failed("Neither of the two holds LoRA.", remedy="Give two adapters.")
    if compared.same:
        return passed(f"One adapter: {compared.why}")
    facts = [f"Not the same adapter: {compared.why}"]
    for name, modules in ((compared.one, compared.only_one), (compared.two, compared.only_two)):
        facts += [f"{count(len(modules), 'module')} {_is(modules)} adapted in {name} alone."] if modules else []
    facts += (
        [f"{count(len(compared.lost), 'trained tensor')} {_is(compared.lost)} in one alone."] if compared.lost else []
    )
    alone = (*compared.only_one, *compared.only_two, *compared.lost)
    remedy = "Save both from one model: what one of them lacks is not in its file." if alone else ""
    return failed(" ".join(facts), _differences(compared), keys=alone, remedy=remedy)


def _is(several: Sequence[str]) -> str:
    return "is" if len(several) == 1 else "are"


def _differences(compared: AdapterComparison) -> Iterator[Finding]:
    rescaled = [each for each in compared.differing if each.rescaled]
    others = [each for each in compared.differing if not each.rescaled]
    if rescaled:
        one, two = rescaled[0].scaling
        message = f"{count(len(rescaled), 'module')} have the same A and B, scaled by {one:g} here and by {two:g} there"
        remedy = "Write the same lora_alpha, rank and use_rslora beside both."
        yield finding("scaling-differs", f"{message}.", [each.module for each in rescaled], remedy=remedy)
    if others:
        far = others[0].relative
        by = "their shapes do not fit each other" if far is None else f"by up to {far:.2%} ({others[0].module})"
        message = f"The updates of {count(len(others), 'module')} differ: {by}."
        yield finding("values-differ", message, [each.module for each in others], remedy=_REMEDY)
    if compared.changed:
        message = f"{count(len(compared.changed), 'other trained tensor')} differ."
        yield finding("values-differ", message, [each.key for each in compared.changed], remedy=_REMEDY)
