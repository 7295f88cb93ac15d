"""The built-in checks as pytest items, under a directory that is really collected."""

from __future__ import annotations

import json
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.wording import block, sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    from pytest_lora_ckpt.auditing.checks import CheckResult
    from pytest_lora_ckpt.auditing.evidence import Run

    Extra: TypeAlias = Callable[[Run, pytest.FixtureRequest], tuple[CheckResult, dict[str, Any]]]

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
        extra: Further items by name. What they run gives a result, and what is known of the checkpoint beside it.
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
    def run(run: Run, request: pytest.FixtureRequest) -> tuple[CheckResult, dict[str, Any]]:  # noqa: ARG001
        from pytest_lora_ckpt.auditing.checks import run_check

        return run_check(name, run), {}

    return run


def _item_function(name: str, module: str, make: Extra) -> Callable[..., None]:
    @pytest.mark.lora_ckpt
    def item(_connected_lora_run: Run, request: pytest.FixtureRequest) -> None:
        from pytest_lora_ckpt.auditing.checks import CheckResult

        try:
            result, known = make(_connected_lora_run, request)
        except Exception as error:
            # The report must not lack a check, whatever its own code does.
            result = CheckResult(name, "failed", f"the check itself raised {type(error).__name__}: {error}")
            request.node.stash[_RESULT] = _payload(_connected_lora_run, result)
            raise
        payload = _payload(_connected_lora_run, result)
        payload["known"] |= known
        request.node.stash[_RESULT] = payload
        if result.outcome == "failed":
            pytest.fail(_message(result), pytrace=False)
        if result.outcome == "skipped":
            pytest.skip(sentence(result.summary))

    item.__module__, item.__name__ = module, name
    return item


def _payload(run: Run, result: CheckResult) -> dict[str, Any]:
    known = run.to_dict()
    findings = [*known.pop("findings"), *(found.to_dict() for found in result.findings)]
    return {"spec": run.spec, "check": result.to_dict(), "findings": findings, "known": known}


def _message(result: CheckResult) -> str:
    lines = [result.summary]
    for found in result.findings:
        # Where there is one cause, the summary says its message already.
        message = "" if found.message in result.summary else f" {found.message}"
        lines += [f"  {found.cause}:{message}", f"    -> {found.remedy}"]
    return block("\n".join(lines))
