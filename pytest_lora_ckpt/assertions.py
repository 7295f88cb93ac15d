"""assert_*: each a few lines over a `LoadReport`, a `Checkpoint` or a model, for other projects' own suites.

Every failure is one `AssertionError` with the fact, the keys (grouped and counted) and what to do. Those that take a
report also take what `load_state_dict(strict=False)` returns, and then judge what loaded as is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.auditing.file_evidence import FileEvidence
from pytest_lora_ckpt.auditing.judges import file, names
from pytest_lora_ckpt.auditing.judges import model as models
from pytest_lora_ckpt.auditing.judges.judgement import Judgement, failed, failure_text
from pytest_lora_ckpt.checkpoint import Checkpoint
from pytest_lora_ckpt.comparison.compare import compare
from pytest_lora_ckpt.comparison.stages import STAGES, Stage
from pytest_lora_ckpt.findings.from_values import audit_values
from pytest_lora_ckpt.keys import parse_keys
from pytest_lora_ckpt.models import as_key_set, is_tensor, model_keys
from pytest_lora_ckpt.results import LoadReport
from pytest_lora_ckpt.wording import type_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from pytest_lora_ckpt.findings.from_values import ValueAudit
    from pytest_lora_ckpt.proof import Proof
    from pytest_lora_ckpt.tensors import KeySet


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
    report, when = _as_report(report, model)
    _require(names.base_loaded(report, when), report)


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
    if not isinstance(report, LoadReport):
        report, when = _as_report(report, model)
        if model is None:
            raise ValueError("What load_state_dict returns has no totals: give the module as model=.")
    _require(names.ratio(report, min_ratio, of=of, when=when), report)


def assert_lora_complete(checkpoint: Any) -> None:
    """Assert that the adapters of a checkpoint are whole: pairs, ranks, every layer alike, nothing empty, NaN or zero.

    Values are read where there are any to read: a plain mapping key -> shape is checked by names and shapes.

    Args:
        checkpoint: A `Checkpoint`, an `nn.Module`, or a mapping key -> shape or tensor.

    Raises:
        AssertionError: There is no adapter, or it is not whole; lists everything that is wrong.

    Example:
        >>> assert_lora_complete({"q.lora_A.weight": (4, 8), "q.lora_B.weight": (8, 4)})
    """
    __tracebackhide__ = True
    keys = as_key_set(checkpoint)
    parts, audits = _adapters_in(checkpoint, keys)
    complete, values = file.lora_complete(parts), file.values(audits)
    if not complete.applies:
        remedy = "Save the adapter with the checkpoint."
        _require(failed(f"There is no LoRA among the {len(keys)} keys.", remedy=remedy))
    errors = [each for each in (*complete.findings, *values.findings) if each.severity == "error"]
    if errors:
        count = sum(each.is_adapter for _, own, _ in parts for each in own.derived(parse_keys).values())
        _require(failed(f"The adapter is not complete ({count} LoRA keys).", errors))


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
    proof: Proof | None = None
    if hasattr(report_or_proof, "tensors") and hasattr(report_or_proof, "report"):
        proof, report_or_proof = report_or_proof, report_or_proof.report
    report, when = _as_report(report_or_proof)
    # What load_state_dict returns does not say whether the checkpoint has an adapter that loaded.
    _require(names.lora_loaded(report, when, must_hold=when == "remapped"), report)
    if proof is not None:
        _require(models.proved(proof, adapter_only=True))


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
    _require(models.proved(proof), proof.report)


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
    _require(names.stage(stage, names.Holdings.of(report)), report)
    if report.remapped is not None:
        _require(names.stage_loaded(stage, report.remapped), report)


def assert_adapter_active(model: torch.nn.Module, inputs: Mapping[str, Any] | None = None) -> None:
    """Assert that the adapter does something: switching it off changes the output.

    Model, random state and modes are as before afterwards.

    Args:
        model: A module with LoRA, by PEFT or another library.
        inputs: Keyword arguments of its `forward`. None, as the fixture `lora_inputs` is where nobody overrides it:
            they are made from the config of a Hugging Face model, as for the check `adapter-active`.

    Raises:
        AssertionError: There is no LoRA, it is off, zero or merged, or the output is the same or not finite; or no
            inputs are given, and none can be made.
    """
    __tracebackhide__ = True
    from pytest_lora_ckpt.proof import adapter_effect, default_inputs  # torch, only here.

    tried = default_inputs(model) if inputs is None else inputs
    if tried is None:
        raise AssertionError(
            "There are no inputs for the forward pass, and none can be made from the model's config: give keyword "
            "arguments, or override the fixture lora_inputs."
        )
    _require(models.effect(adapter_effect(model, tried)))


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

    _require(models.generate(proof.generate(model, inputs, max_new_tokens=max_new_tokens)))


def assert_same_adapter(
    one: Any, two: Any, *, adapter: str | None = None, rtol: float | None = None, atol: float = 0.0
) -> None:
    """Assert that two adapters are one: the same modules, the same updates scaling x B A, the same trained weights.

    Layout and naming do not matter: an adapter directory, a Lightning checkpoint, a file of kohya or GGUF, a live
    model. Where one of them does not say its scaling, it is taken to be the other's; `compare_adapters` gives it all
    as data.

    Args:
        one: A path or address, a `Checkpoint`, a model with LoRA, or a mapping key -> tensor.
        two: The same.
        adapter: Which one to look at, where there are several.
        rtol: Largest difference of two updates as a share of the larger one; by the dtype where not given.
        atol: The same in absolute numbers.

    Raises:
        AssertionError: They are two; says what differs, grouped and counted, and by how much.
        CheckpointError: One of them cannot be read.
        TypeError: One of them is none of these.

    Example:
        >>> from torch import ones
        >>> factors = {"q.lora_A.weight": ones(1, 4), "q.lora_B.weight": ones(4, 1)}
        >>> assert_same_adapter(factors, {f"base_model.model.{key}": value for key, value in factors.items()})
    """
    __tracebackhide__ = True
    from pytest_lora_ckpt.auditing.judges.versus import same_adapter
    from pytest_lora_ckpt.proof import compare_adapters  # torch, only here.

    _require(same_adapter(compare_adapters(one, two, adapter=adapter, rtol=rtol, atol=atol)))


def _as_report(result: Any, model: Any = None) -> tuple[LoadReport, str]:
    """Take a report as it is, and make one of what `load_state_dict` returns; with the state that it speaks of.

    As far as names can tell, a missing and an unexpected key that name the same tensor are classed as in a comparison.
    """
    if isinstance(result, LoadReport):
        return result, "remapped"
    if not hasattr(result, "missing_keys") or not hasattr(result, "unexpected_keys"):
        expected = "a LoadReport, or what load_state_dict(strict=False) returns"
        raise TypeError(f"This takes {expected}, and was given {type_name(result)}.")
    missing, unexpected = list(result.missing_keys), list(result.unexpected_keys)
    lost = compare(dict.fromkeys(unexpected, ()), dict.fromkeys(missing, ()), scope="full")
    loaded = () if model is None else tuple(sorted(model_keys(model).keys() - set(missing)))
    return dataclasses.replace(
        lost,
        verdict="not-compared",
        findings=(),
        as_is=dataclasses.replace(lost.state("as_is"), loaded=loaded),
        checkpoint_keys=len(loaded) + len(unexpected),
        model_keys=0 if model is None else len(loaded) + len(missing),
    ), "as_is"


def _adapters_in(source: Any, keys: KeySet) -> tuple[list[file.Part], Sequence[ValueAudit]]:
    """Give the parts of a checkpoint, a model or a mapping that hold LoRA, and their values where there are any."""
    if isinstance(source, Checkpoint):
        evidence = FileEvidence(source, STAGES)
        return evidence.parts, evidence.values
    if not any(each.is_lora for each in keys.derived(parse_keys).values()):
        return [], []
    state = source.state_dict() if callable(getattr(source, "state_dict", None)) else source
    has_values = isinstance(state, Mapping) and any(map(is_tensor, state.values()))

    def read(key: str) -> bytes:
        import torch  # Only where the values are torch's own tensors.

        return bytes(state[key].detach().contiguous().cpu().flatten().view(torch.uint8).numpy())

    return [(type_name(source), keys, None)], [audit_values(keys, read)] if has_values else []


def _require(judgement: Judgement, report: LoadReport | None = None) -> None:
    """Raise where the judgement is not that it passed; with the errors of the report that it is about."""
    __tracebackhide__ = True
    if judgement.passed:
        return
    context: list[str] = []
    if report is not None and report.verdict != "not-compared":
        context.append(f"Verdict: {report.verdict}.")
        context += [f"  {each.cause}: {each.message}" for each in report.findings if each.severity == "error"]
    fact, causes = judgement.summary, judgement.findings
    raise AssertionError(failure_text(fact, causes, keys=judgement.keys, remedy=judgement.remedy, context=context))
