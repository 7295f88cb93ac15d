"""`audit`: every check on one checkpoint, without a test framework."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_lora_ckpt import stacks  # Its names are resolved at first use.
from pytest_lora_ckpt.auditing.checks import CHECKS, make
from pytest_lora_ckpt.auditing.evidence import AuditContext
from pytest_lora_ckpt.auditing.gather import gather
from pytest_lora_ckpt.auditing.guard import InternalError, failed_itself, guard
from pytest_lora_ckpt.auditing.project import Project
from pytest_lora_ckpt.checkpoint.address import AddressText, is_address
from pytest_lora_ckpt.checkpoint.limits import Limits
from pytest_lora_ckpt.comparison.stages import STAGES, Demands, Stage
from pytest_lora_ckpt.findings.accepted import check_ignored
from pytest_lora_ckpt.models import is_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch

    from pytest_lora_ckpt.auditing.result import AuditResult, CheckReport


def audit(  # noqa: PLR0913  # One argument for each thing that a project may have to say; all but the first by keyword.
    path: str | os.PathLike[str],
    *,
    model: torch.nn.Module | Mapping[str, Any] | Callable[[], Any] | Literal["auto"] | None = None,
    loader: Callable[[Any], torch.nn.Module] | str | None = None,
    inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    generate_inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    base_model: torch.nn.Module | str | os.PathLike[str] | Callable[[], Any] | None = None,
    base: str | os.PathLike[str] | None = None,
    stage: Stage | str | None = None,
    stages: Mapping[str, Stage] = STAGES,
    min_ratio: float = 1.0,
    manifest: str | os.PathLike[str] | None = None,
    companions: Iterable[str | os.PathLike[str]] = (),
    trust: Iterable[str] = (),
    ignore: Mapping[str, str] | None = None,
    strict: bool = False,
    checks: Iterable[str] | None = None,
    limits: Limits | None = None,
) -> AuditResult:
    """Audit a checkpoint: did it really load, and does the adapter do anything?

    The checkpoint alone is enough for the checks of the file. With `model` names and shapes are compared, with `loader`
    every value. What a check cannot judge is skipped, with the reason. The verdict does not depend on `checks`.

    Args:
        path: The checkpoint: a file, a directory, or an address.
        model: The model that receives the weights, its keys and shapes, or a function that builds it; by default, and
            for `"auto"`, that of a PEFT adapter by the config of its base model.
        loader: The project's loading code, path -> loaded model, which is called once; or a library that loads as it
            documents: `"peft"`, `"transformers"`, `"diffusers"`, `"sentence-transformers"`, `"lightning:module.Class"`.
        inputs: Keyword arguments for a forward pass and for `generate`, or a function that makes them; made from the
            config of a Hugging Face model by default.
        generate_inputs: Those for `generate`, where it takes others.
        base_model: The base model before any adapter, the path of its weights, or a function that builds it.
        base: The base model that such a library loads, a path or an id on the Hub, where the checkpoint's own config
            does not say, or where it lies elsewhere.
        stage: What the checkpoint must hold: a stage, or the name of one of `stages`.
        stages: The training stages of the project by name.
        min_ratio: Minimum fraction of the required keys that must load after remapping.
        manifest: What was written at training time; a `lora_manifest.json` next to the checkpoint by default.
        companions: Trained weights in files or adapter directories that lie elsewhere: part of the checkpoint, as are
            those that are found in an adapter's directory.
        trust: Names that its pickles may ask for, `module.name`, beyond those that are known to describe data.
        ignore: Causes that the project accepts, slug -> why, or `slug[pattern]` for some checkpoints or keys: their
            findings are notes, and fail no check. What the check `safe` finds is not accepted here.
        strict: Count a check that could not be made as failed, not as skipped.
        checks: Names of the checks to make; all by default.
        limits: What the checkpoint's files may ask for.

    Returns:
        The result, as data. A model or loader that raises is a failed check; the exception is in `.errors`, with the
        project's own as its `__cause__`.

    Raises:
        ValueError: There is no stage, no check, no cause or no library of such a name, or `min_ratio` is not from 0.0
            to 1.0.

    Example:
        >>> import tempfile, torch
        >>> from pytest_lora_ckpt import audit
        >>> model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"model.head.weight": torch.ones(2, 2)}, f"{folder}/last.pt")
        ...     result = audit(f"{folder}/last.pt", model=model)
        >>> result.verdict, result.named("failed"), result.remapped.missing["non_lora"]
        ('partial', ('keys', 'ratio'), 1)
    """
    if not 0.0 <= min_ratio <= 1.0:
        raise ValueError(f"min_ratio={min_ratio!r} is not a fraction from 0.0 to 1.0.")
    if isinstance(stage, str):
        if stage not in stages:
            raise ValueError(f"stage={stage!r} is none of the stages {', '.join(stages)}.")
        stage = stages[stage]
    if isinstance(loader, str):
        loader = stacks.named_loader(loader, base=None if base is None else os.fspath(base), original=path)
    if isinstance(model, str):
        if model != "auto":
            raise ValueError(f"model={model!r} is neither a model nor 'auto'.")
        model = None
    # As a `Path`, an address would lose a slash.
    location = AddressText(text) if is_address(text := os.fspath(path)) else Path(text)
    context = AuditContext(
        location,
        Demands(
            stage=stage,
            stages=stages,
            min_ratio=min_ratio,
            strict=strict,
            manifest=None if manifest is None else Path(manifest),
            companions=tuple(map(Path, companions)),
            trust=tuple(trust),
            ignored=check_ignored(ignore or {}),
            base=None if base is None else os.fspath(base),
            limits=limits or Limits(),
        ),
        Project(location, called="The argument {}="),
    )
    given = {"model": model, "inputs": inputs, "generate_inputs": generate_inputs, "base_model": base_model}
    context.project.connect(loader=lambda: loader, **{name: _source(each) for name, each in given.items()})
    return gather(context.spec, run_checks(context, checks), context.demands.ignored)


def run_checks(context: AuditContext, names: Iterable[str] | None = None) -> list[CheckReport]:
    """Make the checks on one checkpoint, in their order, and the comparison in any case.

    Args:
        context: The checkpoint under test.
        names: Names of the checks; all by default.

    Raises:
        ValueError: There is no check of such a name.
    """
    wanted = set(CHECKS if names is None else names)
    if unknown := wanted.difference(CHECKS):
        raise ValueError(f"There is no check {', '.join(sorted(unknown))}: the checks are {', '.join(CHECKS)}.")
    reports = [make(check, context) for name, check in CHECKS.items() if name in wanted]
    return [*reports[:-1], with_headline(reports[-1], context)] if reports else []


def with_headline(report: CheckReport, context: AuditContext) -> CheckReport:
    """Add the comparison to the report of the last check, so that the verdict does not depend on which were made."""
    try:
        with guard("the comparison", context.path, context.project.outcomes.leave):
            return dataclasses.replace(report, facts=report.facts | context.headline_facts())
    except InternalError as error:
        failure = failed_itself(report.name, context, error)
        if failure.outcome != "failed":
            return report
        return dataclasses.replace(failure, findings=(*report.findings, *failure.findings), facts=report.facts)


def _source(given: Any) -> Callable[[], Any]:
    """Give what was given, or what the function makes that was given."""
    return given if callable(given) and not is_module(given) else lambda: given
