"""Which lines make a loader notice: they are tried on the model that it returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lora_ckpt.assertions import (
    assert_adapter_active,
    assert_load_proved,
    assert_lora_complete,
    assert_lora_loaded,
    assert_no_nonlora_missing,
)
from pytest_lora_ckpt.comparison.compare import compare
from pytest_lora_ckpt.manifest import compare_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_lora_ckpt.auditing.evidence import AuditContext


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines to add after the load, or before it; `path` is the checkpoint, `model` the loaded model.

    `attempt` does the same with what is known about a checkpoint already; it raises AssertionError where it notices.
    """

    what: str
    code: tuple[str, ...]
    attempt: Callable[[AuditContext, Any], None] | None = None


def _complete(run: AuditContext, _: Any) -> None:
    assert_lora_complete(run.checkpoint)


def _names(run: AuditContext, model: Any) -> None:
    report = compare(run.checkpoint, model)
    assert_no_nonlora_missing(report)
    assert_lora_loaded(report)


def _values(run: AuditContext, _: Any) -> None:
    if run.loaded is not None:
        assert_load_proved(run.loaded.proof)


def _active(run: AuditContext, model: Any) -> None:
    if run.loaded is not None and run.loaded.inputs is not None:
        assert_adapter_active(model, run.loaded.inputs)


def _manifest(run: AuditContext, _: Any) -> None:
    written = run.manifest
    if written is not None and (differences := compare_checkpoint(written, run.checkpoint).differences):
        raise AssertionError(differences[0].message)


LINES: dict[str, Lines] = {
    "complete": Lines("the file before it is loaded", ("assert_lora_complete(open_checkpoint(path))",), _complete),
    "names": Lines(
        "every name and shape",
        (
            "report = compare(open_checkpoint(path), model)",
            "assert_no_nonlora_missing(report)",
            "assert_lora_loaded(report)",
            "# or, in the loader: raise where load_state_dict(strict=False) returns missing or unexpected keys",
        ),
        _names,
    ),
    "values": Lines("every value", ("assert_load_proved(prove_load(model, path))",), _values),
    "active": Lines("the adapter at work", ("assert_adapter_active(model, inputs)",), _active),
    "manifest": Lines(
        "the record of the training",
        (
            "# when training: LoraManifestCallback() in the trainer's callbacks, or write_manifest(model, path)",
            "manifest = read_manifest(find_manifest(path))  # from pytest_lora_ckpt.manifest",
            "assert not compare_checkpoint(manifest, open_checkpoint(path)).differences",
        ),
        _manifest,
    ),
    "gate": Lines("all checks", ("pytest --lora-ckpt=PATH --lora-loader=MODULE:FUNCTION",)),
    "exit": Lines("how the load ends", ("raise ValueError(why)  # instead of exiting, so that the caller can go on",)),
    "hang": Lines("how long the load takes", ("# give every wait in the loader a time limit, and raise at its end",)),
    "": Lines("nothing in this package notices these", ("# accept them in the ini option lora_accepted_faults",)),
}
"""The lines by slug, in the order in which they are tried."""


def first_that_notices(run: AuditContext, model: Any, usable: frozenset[str]) -> str:
    """Try the usable lines on the model of a damaged checkpoint; return the slug of the first that fails, or ""."""
    return next((slug for slug in LINES if slug in usable and _fails(slug, run, model)), "")


def usable_lines(run: AuditContext, model: Any) -> frozenset[str]:
    """Return the slugs of the lines that the healthy checkpoint passes."""
    return frozenset(slug for slug, lines in LINES.items() if lines.attempt and not _fails(slug, run, model))


def _fails(slug: str, run: AuditContext, model: Any) -> bool:
    attempt = LINES[slug].attempt
    try:
        if attempt is not None:
            attempt(run, model)
    except Exception:  # noqa: BLE001  # A project would see whatever it raises.
        return True
    return False
