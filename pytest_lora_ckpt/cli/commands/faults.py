"""`lora-ckpt faults`: does a loader notice what goes wrong?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pytest_lora_ckpt.cli import arguments, output
from pytest_lora_ckpt.cli.exits import ExitCode

if TYPE_CHECKING:
    from pytest_lora_ckpt.auditing.result import CheckReport


@click.command(
    "faults",
    short_help="Does your loader notice? Its score on damaged copies.",
    epilog=arguments.example(
        "lora-ckpt faults runs/best.ckpt --loader my_project.loading:load",
        "lora-ckpt faults adapter/ --loader peft --only nan,one-lora-b-missing",
    ),
)
@arguments.path
@arguments.offered("lora_loader", "lora_faults", "lora_base", "lora_manifest", "lora_companion", "lora_trust")
@arguments.offered("lora_strict", "lora_inputs", "lora_generate_inputs", "lora_limits")
@arguments.offered("lora_fault_timeout", "lora_accepted_faults")
@arguments.as_json
def COMMAND(path: str, *, as_json: bool, **given: Any) -> int:  # noqa: N802  # A constant of its module.
    """Does your loader notice? Damages copies of a healthy checkpoint, and sees what the loader and the checks say.

    The exit code is 1 where a fault passes both, the loader silently and every check; with --strict where it passes the
    loader.
    """
    from pytest_lora_ckpt.cli.examining import Examiner, project_code
    from pytest_lora_ckpt.cli.failures import UnusableError
    from pytest_lora_ckpt.cli.located import located, only
    from pytest_lora_ckpt.scoring import audit_faults

    with project_code():
        examiner = Examiner(given, path)
    settings = examiner.settings
    with located([only(settings.ckpt)]) as places:
        ((wanted, place),) = places
        with project_code():
            sources = examiner.sources(wanted, place)
            report, _ = audit_faults(
                examiner.context(wanted, place),
                sources["loader"](),
                names=settings.faults,
                accepted=settings.accepted_faults,
                timeout=settings.fault_timeout,
                inputs=sources["inputs"],
                generate_inputs=sources["generate_inputs"],
                base_model=sources["base_model"],
            )
    if report.facts.faults is None:
        raise UnusableError(report.summary)
    _print(report, as_json=as_json)
    return ExitCode.FAILED if report.outcome == "failed" else ExitCode.FINE


def _print(report: CheckReport, *, as_json: bool) -> None:
    from pytest_lora_ckpt.cli.words import as_here
    from pytest_lora_ckpt.scoring import render_score
    from pytest_lora_ckpt.wording import line

    score = report.facts.faults
    assert score is not None  # noqa: S101  # Its caller has looked.
    if as_json:
        output.tell({"outcome": report.outcome, "summary": report.summary, "faults": score})
        return
    for each in render_score(score):
        output.say(as_here(line(each)))
