"""assert_*: each a few lines over a `LoadReport`, a `Checkpoint` or a model, for other projects' own suites.

Every failure is one `AssertionError` that tells all: the fact, the counts, the keys (grouped, and counted), what to do.
Those that take a report also take what `load_state_dict(strict=False)` returns, and then speak of what loaded as is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.comparison.compare import compare
from pytest_lora_ckpt.comparison.stages import STAGES, Stage
from pytest_lora_ckpt.findings import lora_pair_findings
from pytest_lora_ckpt.findings.from_values import audit_values
from pytest_lora_ckpt.keys import parse_key, parse_keys
from pytest_lora_ckpt.models import as_key_set, describe, model_keys
from pytest_lora_ckpt.results import LoadReport
from pytest_lora_ckpt.wording import WIDTH, block, key_groups

if TYPE_CHECKING:
    import torch

    from pytest_lora_ckpt.proof import Proof, ProvedTensor

_KEY_GROUPS = 8


def assert_no_nonlora_missing(report: Any, *, model: Any = None) -> None:
    """Assert that every base weight of the model has a source: no missing key of the class `non_lora`.

    This alone does not show that the adapter was loaded: see `assert_lora_loaded`.

    Args:
        report: A `LoadReport`, or what `load_state_dict(strict=False)` returns.
        model: Not needed; taken for the sake of one signature.

    Raises:
        AssertionError: Base weights are lost; lists them, grouped and counted.
        TypeError: `report` is neither.

    Example:
        >>> from pytest_lora_ckpt import compare
        >>> assert_no_nonlora_missing(compare({"model.lin.weight": (2, 2)}, {"lin.weight": (2, 2)}))
    """
    __tracebackhide__ = True
    if isinstance(report, LoadReport):
        lost: Iterable[str] = report.state("remapped").missing.of("non_lora")
        total: int | None = report.model_keys
    else:
        missing, unexpected = _incompatible(report)
        lost = _without_counterpart(missing, unexpected)
        total = len(model_keys(model)) if model is not None else None
    lost = tuple(lost)
    if lost:
        of = f" of {total}" if total else ""
        _fail(
            f"{len(lost)}{of} model keys are missing that are no LoRA: these weights keep their initial values.",
            lost,
            "Check the path and the training stage of the checkpoint, or rename its keys.",
            report,
        )


def assert_loaded_ratio(
    report: Any, min_ratio: float = 0.75, *, of: str = "model", when: str = "remapped", model: Any = None
) -> None:
    """Assert that at least this share of the keys is loaded.

    Args:
        report: A `LoadReport`, or what `load_state_dict(strict=False)` returns; then `model` is needed for the total,
            and `when` is `"as_is"` whatever it says.
        min_ratio: From 0.0 to 1.0.
        of: `"model"`, of the keys that the model needs; or `"checkpoint"`, of those that the checkpoint holds.
        when: `"remapped"` or `"as_is"`.
        model: The module that `load_state_dict` was called on.

    Raises:
        AssertionError: Fewer are loaded.
        ValueError: `min_ratio`, `of` or `when` is out of its range, or a total is wanted that cannot be known.

    Example:
        >>> from pytest_lora_ckpt import compare
        >>> assert_loaded_ratio(compare({"a.weight": (2,)}, {"a.weight": (2,), "b.weight": (2,)}), 0.5)
    """
    __tracebackhide__ = True
    if not 0.0 <= min_ratio <= 1.0:
        raise ValueError(f"min_ratio is a share from 0.0 to 1.0, and was {min_ratio!r}.")
    if of not in {"model", "checkpoint"}:
        raise ValueError(f"of= is 'model' or 'checkpoint', and was {of!r}.")
    if isinstance(report, LoadReport):
        ratio, state = report.loaded_ratio(of=of, when=when), report.state(when)
        keys = (*state.missing.of("lora", "lora_wrapped", "prefix", "non_lora"),)
        keys = keys if of == "model" else tuple(state.unexpected)
        word = "after remapping" if when == "remapped" else "as is"
    else:
        missing, unexpected = _incompatible(report)
        if model is None:
            raise ValueError("What load_state_dict returns has no totals: give the module as model=.")
        total, loaded = len(model_keys(model)), len(model_keys(model)) - len(missing)
        total = total if of == "model" else loaded + len(unexpected)
        ratio, word = (loaded / total if total else 0.0), "as is"
        keys = tuple(missing if of == "model" else unexpected)
    if ratio < min_ratio:
        _fail(
            f"{ratio:.1%} of the {of}'s keys are loaded {word}, and at least {min_ratio:.1%} should be.",
            keys,
            "Compare the names: report.remapping tells how the checkpoint's keys become the model's.",
            report,
        )


def assert_lora_complete(checkpoint: Any) -> None:
    """Assert that the adapters of a checkpoint are whole: pairs, ranks, every layer alike, nothing empty, NaN or zero.

    Values are read where there are any to read: a plain mapping key -> shape is checked by names and shapes.

    Args:
        checkpoint: A `Checkpoint`, an `nn.Module`, or a mapping key -> shape or tensor.

    Raises:
        AssertionError: There is no adapter, or it is not whole; tells all that was found.

    Example:
        >>> assert_lora_complete({"q.lora_A.weight": (4, 8), "q.lora_B.weight": (8, 4)})
    """
    __tracebackhide__ = True
    keys = as_key_set(checkpoint)
    lora = [key for key, parsed in parse_keys(keys).items() if parsed.is_lora]
    if not lora:
        _fail(f"There is no LoRA among the {len(keys)} keys.", (), "Save the adapter with the checkpoint.", None)
    found = list(lora_pair_findings(keys, getattr(checkpoint, "adapter_config", None)))
    read = getattr(checkpoint, "read_bytes", None) or _bytes_of(checkpoint)
    if read is not None:
        found += audit_values(keys, read).findings
    errors = [each for each in found if each.severity == "error"]
    if errors:
        told = "\n".join(f"{each.message} [{each.cause}]\n{_grouped(each.keys)}\n  -> {each.remedy}" for each in errors)
        raise AssertionError(block(f"The adapter is not complete ({len(lora)} LoRA keys).\n{told}"))


def assert_lora_loaded(report_or_proof: Any) -> None:
    """Assert that every adapter parameter of the checkpoint has a place in the model, and every slot a source.

    Of a `Proof` more is asked: that the values of the adapter are in the loaded model.

    Args:
        report_or_proof: A `LoadReport`, a `Proof`, or what `load_state_dict(strict=False)` returns.

    Raises:
        AssertionError: The checkpoint has no adapter, or some of it is dropped, or a slot of the model stays as it was,
            or holds other values.
    """
    __tracebackhide__ = True
    report, proof = report_or_proof, None
    if hasattr(report_or_proof, "tensors") and hasattr(report_or_proof, "report"):
        report, proof = report_or_proof.report, report_or_proof
    if isinstance(report, LoadReport):
        state = report.state("remapped")
        dropped, empty = state.unexpected.of("lora"), state.missing.of("lora")
        misfits = tuple(key for key in state.shape_mismatches if parse_key(key).is_adapter)
        none = not report.lora_keys[0]
    else:
        lists = _incompatible(report)
        empty, dropped = (tuple(key for key in keys if parse_key(key).is_adapter) for keys in lists)
        misfits, none = (), False
    if none and not _lies_elsewhere(report):
        _fail("The checkpoint has no LoRA keys.", empty, "Save the adapter, or load lora_weights/ as well.", report)
    for keys, what in (
        (dropped, "LoRA keys of the checkpoint have no place in the model: they are dropped"),
        (misfits, "LoRA keys of the checkpoint have another shape in the model"),
        (empty, "LoRA keys of the model are not in the checkpoint: they keep their initial values"),
    ):
        if keys:
            _fail(f"{len(keys)} {what}.", keys, "Attach the same LoRA as in training before loading.", report)
    if proof is not None:
        _fail_unproved(proof, [each for each in proof.tensors if parse_key(each.key).is_adapter], "adapter ")


def assert_load_proved(proof: Proof) -> None:
    """Assert that the loaded model holds the checkpoint, by value: every tensor bit for bit, or after a named cast.

    Args:
        proof: What `prove_load` or the fixture `lora_proof` gives.

    Raises:
        AssertionError: A tensor holds other values, cannot be proved, or has no place; tells what the model holds
            instead.

    Example:
        >>> import tempfile, torch
        >>> from pytest_lora_ckpt import prove_load
        >>> model = torch.nn.Linear(2, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(model.state_dict(), f"{folder}/fc.pt")
        ...     assert_load_proved(prove_load(model, f"{folder}/fc.pt"))
    """
    __tracebackhide__ = True
    _fail_unproved(proof, proof.tensors, "")
    if not proof.proved:
        what = f"{len(proof.lost)} keys were lost" if proof.tensors else "No tensor of the checkpoint has a place"
        _fail(f"{what}: no value can prove them.", proof.lost, "See `proof.report` for what is lost.", proof.report)


def _fail_unproved(proof: Proof, tensors: Iterable[ProvedTensor], kind: str) -> None:
    """Raise where one of these tensors is not proved."""
    __tracebackhide__ = True
    listed = list(tensors)
    odd = [each for each in listed if each.outcome in {"differs", "not provable"}]
    if not odd:
        return
    told = [f"{len(odd)} of {len(listed)} {kind}tensors are not proved to be in the loaded model ({proof.why})."]
    for found in proof.findings:
        told += [f"{found.message} [{found.cause}]", _grouped(found.keys), f"  -> {found.remedy}"]
    blind = [each for each in odd if each.outcome == "not provable"]
    if blind:
        told += [f"{len(blind)} cannot be proved here: {blind[0].model_key}: {blind[0].how}."]
        told += [_grouped(each.key for each in blind)]
    raise AssertionError(block("\n".join(line for line in told if line)))


def assert_stage(report: LoadReport, stage: str | Stage) -> None:
    """Assert that the checkpoint holds what a training stage must hold.

    Args:
        report: A `LoadReport`.
        stage: `"vision"`, `"resampler"`, `"finetune"`, or a `Stage` of your own.

    Raises:
        AssertionError: A component, or the adapter, is not in the checkpoint, or keys of it are lost.
        ValueError: There is no stage of that name.

    Example:
        >>> from pytest_lora_ckpt import compare
        >>> keys = {"vision_encoder.weight": (2, 2)}
        >>> assert_stage(compare(keys, keys), "vision")
    """
    __tracebackhide__ = True
    if isinstance(stage, str):
        if stage not in STAGES:
            raise ValueError(f"The stages are {', '.join(STAGES)}, and this was {stage!r}.")
        stage = STAGES[stage]
    held = {row.name for row in report.components if row.in_file}
    trained_only = stage.lora and report.scope == "adapter"
    lacking = [] if trained_only else [name for name in stage.holds if name not in held]
    if stage.lora and not report.lora_keys[0]:
        lacking.append("LoRA")
    if lacking:
        _fail(
            f"The checkpoint lacks {', '.join(lacking)}, which a checkpoint of the stage {stage.name} holds.",
            (),
            f"It holds {', '.join(sorted(filter(None, held))) or 'nothing'}: check the path and the training stage.",
            report,
        )
    if report.remapped is not None:
        missing = report.remapped.missing.of("non_lora", "lora")
        lost = [key for key in missing if parse_key(key).component not in stage.excuses]
        if lost:
            _fail(
                f"{len(lost)} model keys are missing that the stage {stage.name} trains.",
                lost,
                "Check the path and the training stage.",
                report,
            )


def assert_adapter_active(model: torch.nn.Module, inputs: Mapping[str, Any]) -> None:
    """Assert that the adapter does something: switching it off changes the output.

    Model, random state and modes are as before afterwards.

    Args:
        model: A module with LoRA, by PEFT or another library.
        inputs: Keyword arguments of its `forward`.

    Raises:
        AssertionError: There is no LoRA, it is off, zero or merged, or the output is the same or not finite.
    """
    __tracebackhide__ = True
    from pytest_lora_ckpt.proof import adapter_effect  # torch, only here.

    effect = adapter_effect(model, inputs)
    if not effect.active:
        remedy = (
            "Load the adapter: its weights are not in the model."
            if effect.zero == effect.modules
            else "Enable the adapter (set_adapter), and check it before it is merged."
        )
        raise AssertionError(block(f"{effect.why}\n  -> {remedy}"))


def assert_generates(model: Any, *, max_new_tokens: int = 10, **inputs: Any) -> None:
    """Assert that the model itself generates new tokens, and not a fallback for a swallowed exception.

    Args:
        model: A module with a `generate` method.
        max_new_tokens: Handed on to it.
        inputs: Its other keyword arguments; `input_ids` (batch x tokens) is the prompt.

    Raises:
        AssertionError: No new token, no token ids, an exception, or one that was swallowed inside.
    """
    __tracebackhide__ = True
    from pytest_lora_ckpt import proof  # torch, only here.

    answer = proof.generate(model, inputs, max_new_tokens=max_new_tokens)
    if not answer.generates:
        raise AssertionError(block(f"{answer.why}\n  -> Call generate by itself with these inputs, and let it raise."))


def _incompatible(result: Any) -> tuple[list[str], list[str]]:
    """Take `_IncompatibleKeys` apart."""
    try:
        return list(result.missing_keys), list(result.unexpected_keys)
    except AttributeError:
        raise TypeError(
            f"This takes a LoadReport, or what load_state_dict(strict=False) returns, and was given {describe(result)}."
        ) from None


def _without_counterpart(missing: list[str], unexpected: list[str]) -> tuple[str, ...]:
    """Leave out of the missing keys those that the other side holds under another name, as far as names can tell."""
    report = compare(dict.fromkeys(unexpected, ()), dict.fromkeys(missing, ()), scope="full")
    return report.state("remapped").missing.of("non_lora")


def _bytes_of(source: Any) -> Any:
    """Give a reader of bytes for live tensors; None where there is no data."""
    state = source.state_dict() if callable(getattr(source, "state_dict", None)) else source
    if not isinstance(state, Mapping) or not any(hasattr(value, "untyped_storage") for value in state.values()):
        return None

    def read(key: str) -> bytes:
        import torch  # The values are torch's own tensors.

        return bytes(state[key].detach().contiguous().cpu().flatten().view(torch.uint8).numpy())

    return read


def _lies_elsewhere(report: Any) -> bool:
    return isinstance(report, LoadReport) and any(each.cause == "lora-beside" for each in report.findings)


def _grouped(keys: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in key_groups(keys, _KEY_GROUPS, WIDTH - 8))


def _fail(fact: str, keys: Iterable[str], remedy: str, report: Any) -> None:
    """Raise with the fact, the keys, where, and what to do."""
    __tracebackhide__ = True
    lines = [fact, _grouped(keys)]
    if isinstance(report, LoadReport):
        lines.append(f"Verdict: {report.verdict}.")
        lines += [f"  {each.cause}: {each.message}" for each in report.findings if each.severity == "error"]
    lines.append(f"  -> {remedy}")
    raise AssertionError(block("\n".join(line for line in lines if line)))
