"""The built-in checks as pytest items, under a directory that is really collected."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt import stacks  # Its names are resolved at first use.
from pytest_lora_ckpt.auditing import project
from pytest_lora_ckpt.auditing.audit import with_headline
from pytest_lora_ckpt.auditing.checks import CHECKS, run_check
from pytest_lora_ckpt.auditing.guard import InternalError, failed_itself, guard
from pytest_lora_ckpt.auditing.judges.judgement import failure_text
from pytest_lora_ckpt.auditing.project import ProjectError
from pytest_lora_ckpt.auditing.roots import with_roots
from pytest_lora_ckpt.checkpoint import CheckpointError
from pytest_lora_ckpt.pytest_plugin import fixtures
from pytest_lora_ckpt.pytest_plugin.transport import keep
from pytest_lora_ckpt.wording import sentence

_OURS = {project.__file__, fixtures.__file__, contextlib.__file__}

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.result import CheckReport
    from pytest_lora_ckpt.pytest_plugin.ranks import Ranks
    from pytest_lora_ckpt.wording import SafeText

    Make: TypeAlias = Callable[[AuditContext, pytest.FixtureRequest], CheckReport]


class LoraChecks(pytest.Module):
    """The module of the checks. It has no file: its functions are made from `checks.CHECKS`.

    Args:
        ranks: This process among those that make the same checks.
        extra: Further items by name, with what makes their reports.
    """

    def __init__(self, *, ranks: Ranks, extra: Mapping[str, Make] | None = None, **kwargs: Any) -> None:
        """Take the further items."""
        super().__init__(**kwargs)
        self._ranks, self._extra = ranks, extra or {}

    def _getobj(self) -> ModuleType:
        """Give pytest the module to collect from, where it would import a file."""
        module = ModuleType("lora_ckpt", "Built-in checks of pytest-lora-ckpt.")
        for name, make in ({name: _check(name) for name in CHECKS} | dict(self._extra)).items():
            setattr(module, name, _item_function(name, module.__name__, make, self._ranks))
        return module

    def funcnamefilter(self, name: str) -> bool:
        """Take our checks, whatever the project's `python_functions` says."""
        return hasattr(self.obj, name)

    def classnamefilter(self, name: str) -> bool:  # noqa: ARG002
        """There are no classes."""
        return False


class LoraChecksLast(pytest.Collector):
    """Stands last in the session, and makes the checks' node when all directories have been collected."""

    def __init__(self, *, make: Callable[[pytest.Session], LoraChecks], **kwargs: Any) -> None:
        """Take the function that makes the node."""
        super().__init__(**kwargs)
        self._make = make

    def collect(self) -> Iterator[pytest.Collector]:
        """Give the one node that holds the checks."""
        yield self._make(self.session)


def _check(name: str) -> Make:
    return lambda context, _: run_check(name, context)


def _item_function(name: str, module: str, make: Make, ranks: Ranks) -> Callable[..., None]:
    @pytest.mark.lora_ckpt
    def item(_connected_lora_run: AuditContext, request: pytest.FixtureRequest) -> None:
        ranks.begin(request.node.nodeid)
        report = make(_connected_lora_run, request)
        with fixtures.failing(_connected_lora_run.path):
            if _is_last(request.node):
                report = with_headline(report, _connected_lora_run)
            report = ranks.gather(request.node.nodeid, report)
            report = _kept(request.node, _connected_lora_run, report)
            text, error = _text(report), _raised(report.error)
        if error is not None:
            __tracebackhide__ = True
            raise error
        if report.outcome == "failed":
            pytest.fail(text, pytrace=False)
        if report.outcome == "skipped":
            pytest.skip(text)

    item.__module__, item.__name__ = module, name
    return item


def _kept(item: pytest.Item, run: AuditContext, report: CheckReport) -> CheckReport:
    """Keep a report for the session; one that cannot be sent is a failure, which can."""
    try:
        with guard(f"sending what the check {report.name} found", run.path):
            keep(item, run.spec, report)
    except InternalError as error:
        report = failed_itself(report.name, run, error)
        keep(item, run.spec, report)
    return report


def _text(report: CheckReport) -> SafeText:
    """Write why a check failed, or was skipped."""
    if report.outcome != "failed":
        return sentence(report.summary)
    same = [f"  For the same reason as the check {report.same_as}."] if report.same_as else []
    findings = [] if same else [each for each in with_roots(report.findings) if not each.follows]
    return failure_text(report.summary, findings, context=same, with_keys=False)


def _raised(error: BaseException | None) -> BaseException | None:
    """Return the exception to show with its traceback: of what the project's code raised, only its own part.

    None for what has no lines of the project in it, and for what pytest takes for something else than a failure.
    """
    if not isinstance(error, ProjectError) or error.cause == "manifest-unreadable":
        return None
    from unittest import SkipTest  # The whole of unittest comes with it.

    raised = error.__cause__
    if not isinstance(raised, Exception) or isinstance(raised, (CheckpointError, stacks.StackError, SkipTest)):
        return None
    trace = raised.__traceback__
    while trace is not None and _is_machinery(Path(trace.tb_frame.f_code.co_filename)):
        trace = trace.tb_next
    return None if trace is None else raised.with_traceback(trace)


def _is_machinery(path: Path) -> bool:
    return str(path) in _OURS or path.parent.name in {"_pytest", "pluggy"}


def _is_last(node: pytest.Item) -> bool:
    """Whether no other check of this checkpoint comes after it: it reports the comparison, whichever were selected."""

    def checkpoint(item: pytest.Item) -> object:
        return item.callspec.params.get("lora_ckpt") if isinstance(item, pytest.Function) else None

    checks = [each for each in node.session.items if each.parent is node.parent]
    return [each for each in checks if checkpoint(each) == checkpoint(node)][-1] is node
