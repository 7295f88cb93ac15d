"""The built-in checks as pytest items, under a directory that is really collected."""

from __future__ import annotations

import json
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.wording import sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    from pytest_lora_ckpt.auditing.evidence import AuditContext
    from pytest_lora_ckpt.auditing.result import CheckReport

    Extra: TypeAlias = Callable[[AuditContext, pytest.FixtureRequest], CheckReport]

_PROPERTY = "lora_ckpt"
_RESULT = pytest.StashKey[dict[str, Any]]()


def send(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put what the item's check reported into the test report: the only properties that xdist hands on.

    As ASCII, since execnet refuses lone surrogates, which names may hold. Only this report gets it, not the item, from
    which JUnit's properties come.
    """
    if payload := item.stash.get(_RESULT, None):
        report.user_properties.append((_PROPERTY, json.dumps(payload)))


def receive(report: pytest.TestReport) -> dict[str, Any] | None:
    """Take what a check reported out of its test report, so that no other reporter prints it."""
    texts = [value for name, value in report.user_properties if name == _PROPERTY]
    report.user_properties[:] = [each for each in report.user_properties if each[0] != _PROPERTY]
    payload: dict[str, Any] | None = json.loads(str(texts[0])) if texts else None
    return payload


class LoraChecks(pytest.Module):
    """The module of the checks. It has no file: its functions are made from `checks.CHECKS`.

    Args:
        extra: Further items by name. What they run gives a report.
    """

    def __init__(self, *, extra: Mapping[str, Extra] | None = None, **kwargs: Any) -> None:
        """See the class."""
        super().__init__(**kwargs)
        self._extra = dict(extra or {})

    def _getobj(self) -> ModuleType:
        """Give pytest the module to collect from, where it would import a file."""
        from pytest_lora_ckpt.auditing.checks import CHECKS

        module = ModuleType("lora_ckpt", "Built-in checks of pytest-lora-ckpt.")
        for name in CHECKS:
            setattr(module, name, _item_function(name, module.__name__, _check(name)))
        for name, run in self._extra.items():
            setattr(module, name, _item_function(name, module.__name__, run))
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


def _check(name: str) -> Extra:
    def run(context: AuditContext, request: pytest.FixtureRequest) -> CheckReport:  # noqa: ARG001
        from pytest_lora_ckpt.auditing.checks import run_check

        return run_check(name, context)

    return run


def _item_function(name: str, module: str, make: Extra) -> Callable[..., None]:
    @pytest.mark.lora_ckpt
    def item(_connected_lora_run: AuditContext, request: pytest.FixtureRequest) -> None:
        from pytest_lora_ckpt.auditing.audit import with_headline
        from pytest_lora_ckpt.auditing.judges.judgement import failure_text
        from pytest_lora_ckpt.auditing.project import ProjectError

        report = make(_connected_lora_run, request)
        if _is_last(request.node):
            report = with_headline(report, _connected_lora_run)
        request.node.stash[_RESULT] = {"spec": _connected_lora_run.spec, "report": report.to_dict()}
        if report.error is not None and not isinstance(report.error, ProjectError):
            raise report.error
        if report.outcome == "failed":
            pytest.fail(failure_text(report.summary, report.findings, with_keys=False), pytrace=False)
        if report.outcome == "skipped":
            pytest.skip(sentence(report.summary))

    item.__module__, item.__name__ = module, name
    return item


def _is_last(node: pytest.Item) -> bool:
    """Whether no other check of this checkpoint comes after it: it reports the comparison, whichever were selected."""

    def checkpoint(item: pytest.Item) -> object:
        return item.callspec.params.get("lora_ckpt") if isinstance(item, pytest.Function) else None

    checks = [each for each in node.session.items if each.parent is node.parent]
    return [each for each in checks if checkpoint(each) == checkpoint(node)][-1] is node
