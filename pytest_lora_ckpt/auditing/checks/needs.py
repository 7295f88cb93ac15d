"""What checks need, each with the reason why a check is skipped without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_lora_ckpt.auditing.judges.judgement import failed, skipped
from pytest_lora_ckpt.findings import finding
from pytest_lora_ckpt.wording import printable

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.judges.judgement import Judgement

_MODEL = "--lora-model=module:factory"
_INPUTS = "the fixture lora_inputs"


def lora(context: AuditContext) -> Judgement | None:
    """The checkpoint, or the adapter directory next to it, is to hold an adapter."""
    return None if context.file.adapter_parts else skipped("the checkpoint has no LoRA keys", applies=False)


def method_in_model(context: AuditContext) -> Judgement | None:
    """An adapter of another kind than LoRA is to be in the loaded model, where PEFT says what it would save of it."""
    config = context.file.lora_config
    if config is None or config.is_lora:
        return None
    kind = f"adapter_config.json has peft_type {printable(config.method, 40)!r}"
    if context.loaded is None:
        return skipped(
            f"{kind}: its names are compared with those that PEFT would save, which needs a loader",
            gives=[context.loader_option],
        )
    if context.loaded.method is not None:
        return None
    if context.loaded.holds_base_alone:
        message = f"{kind}, and the loaded model has no adapter of it, nor is it in a weight."
        return failed(message, [finding("adapter-not-loaded", message)])
    return skipped(f"{kind}, and the loaded model has no adapter of it: a merge is proved for LoRA only")


def comparison(context: AuditContext) -> Judgement | None:
    """There is a model, a manifest or a loader to compare with."""
    if context.report.remapped is not None:
        return None
    gives = (context.loader_option, _MODEL)
    if context.by_config.why:
        return skipped(f"there is no model to compare with: {context.by_config.why}", gives=gives)
    return skipped(
        "there is no model to compare with: give --lora-model=module:factory or --lora-loader=module:function, "
        "or override the fixture lora_model or lora_loader",
        gives=gives,
    )


def loader(context: AuditContext) -> Judgement | None:
    """There is a loader."""
    if context.loaded is not None:
        return None
    library = "--lora-loader=peft or " if context.file.lora_config is not None else ""
    return skipped(
        f"there is no loader: give {library}--lora-loader=module:function, or override the fixture lora_loader",
        gives=[context.loader_option],
    )


def loader_or_other(context: AuditContext) -> Judgement | None:
    """There is a loader, or another checkpoint to compare with."""
    is_other = context.project.model is not None and context.project.other is not None
    return None if is_other else loader(context)


def lora_keys(context: AuditContext) -> Judgement | None:
    """The checkpoint holds adapter parameters, or an adapter directory lies with it."""
    if context.file.has_lora or context.file.has_adapters_beside or not context.file.is_lora:
        return None
    return skipped("the checkpoint has no LoRA keys", applies=False)


def generates(context: AuditContext) -> Judgement | None:
    """The loaded model has a method `generate`; after `loader`."""
    from pytest_lora_ckpt.proof import can_generate  # torch, only with a loader.

    model = context.project.loaded
    if can_generate(model):
        return None
    return skipped(f"{type(model).__name__} has no generate method", applies=False)


def inputs(context: AuditContext) -> Judgement | None:
    """There are inputs for a forward pass; after `loader`."""
    if context.loaded is not None and context.loaded.inputs is not None:
        return None
    return skipped("there are no inputs for a forward pass: override the fixture lora_inputs", gives=[_INPUTS])


def generate_inputs(context: AuditContext) -> Judgement | None:
    """There are inputs for `generate`; after `loader`."""
    if context.loaded is not None and context.loaded.generate_inputs is not None:
        return None
    return skipped("there are no inputs: override the fixture lora_inputs, or lora_generate_inputs", gives=[_INPUTS])


def invocation(context: AuditContext) -> Judgement | None:
    """The inputs hold the tokens after which an activated LoRA begins to act; after `inputs`."""
    config = context.file.lora_config
    tokens = () if config is None else config.invocation
    given = (context.loaded.inputs or {}).get("input_ids") if context.loaded is not None else None
    if not tokens or given is None or any(_holds(row, tokens) for row in given.reshape(-1, given.shape[-1]).tolist()):
        return None
    written = ", ".join(map(str, tokens))
    return skipped(
        f"the adapter acts only after its invocation tokens ({written}), which the inputs do not hold: let the fixture "
        "lora_inputs give input_ids with them",
        gives=["input_ids with the invocation tokens, in the fixture lora_inputs"],
    )


def _holds(row: list[int], tokens: tuple[int, ...]) -> bool:
    return any(tuple(row[at : at + len(tokens)]) == tokens for at in range(len(row)))
