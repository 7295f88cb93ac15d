"""The built-in checks as pytest items, under a directory that is really collected."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    from pytest_lora_ckpt.auditing.checks import CheckResult
    from pytest_lora_ckpt.auditing.evidence import Run

    Extra: TypeAlias = Callable[[Run, pytest.FixtureRequest], tuple[CheckResult, dict[str, Any]]]

PAYLOAD = "lora_ckpt"
"""Name under which a test report carries what its check reported, through xdist as well."""

RESULT = pytest.StashKey[dict[str, Any]]()
"""On an item: what its check reported."""


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
            request.node.stash[RESULT] = _payload(_connected_lora_run, result)
            raise
        payload = _payload(_connected_lora_run, result)
        payload["known"] |= known
        request.node.stash[RESULT] = payload
        if result.outcome == "failed":
            pytest.fail(_message(result), pytrace=False)
        if result.outcome == "skipped":
            pytest.skip(result.summary)

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
        told = "" if found.message in result.summary else f" {found.message}"
        lines += [f"  {found.cause}:{told}", f"    -> {found.remedy}"]
    return "\n".join(lines)
