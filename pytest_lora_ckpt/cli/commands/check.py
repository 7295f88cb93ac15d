"""`lora-ckpt check`: the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pytest_lora_ckpt.cli import arguments, output
from pytest_lora_ckpt.cli.exits import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_lora_ckpt.auditing.result import AuditResult
    from pytest_lora_ckpt.cli.examining import Examiner


@click.command(
    "check",
    short_help="Did it load, and does the adapter do anything? The audit.",
    epilog=arguments.example(
        "lora-ckpt check adapter/ --loader peft",
        "lora-ckpt check runs/best.ckpt --loader my_project.loading:load --report audit.html",
        "lora-ckpt check replica:finetune",
    ),
)
@arguments.paths
@arguments.offered(*arguments.OF_AN_AUDIT)
@click.option("-v", "--verbose", is_flag=True, help="Print everything: components, rules, notes, each check.")
@arguments.as_json
def COMMAND(  # noqa: N802  # A constant of its module.
    paths: tuple[str, ...], *, verbose: bool, as_json: bool, **given: Any
) -> int:
    """Did it really load, and does the adapter do anything? Every check of `pytest --lora-ckpt`.

    The file alone is enough for the checks of the file. With --model names and shapes are compared, with --loader every
    value. The exit code is 1 where a check failed, and 2 where a checkpoint cannot be read.
    """
    from pytest_lora_ckpt.auditing.audit import run_checks
    from pytest_lora_ckpt.auditing.gather import gather
    from pytest_lora_ckpt.cli.examining import Examiner, project_code
    from pytest_lora_ckpt.cli.located import located

    results: list[AuditResult] = []
    with project_code():
        examiner = Examiner(given, *paths)
    with located(examiner.settings.ckpt) as places:
        for wanted, path in places:
            with project_code():
                context = examiner.context(wanted, path)
                results.append(gather(wanted.spec, run_checks(context), context.demands.ignored))
                context.let_go()
    written = _write(examiner, results)
    if as_json:
        output.tell({"runs": [each.to_dict() for each in results]})
    else:
        _print(results, written, verbose=verbose)
        _tell_others(examiner, results)
    if any(each.checkpoint.layout is None for each in results):
        return ExitCode.UNUSABLE
    return ExitCode.FINE if all(each.passed for each in results) else ExitCode.FAILED


def _write(examiner: Examiner, results: list[AuditResult]) -> list[str]:
    from pytest_lora_ckpt.auditing.render import write_report
    from pytest_lora_ckpt.cli.failures import UnusableError

    try:
        for path in examiner.settings.report:
            write_report(path, results)
    except OSError as error:
        raise UnusableError(f"The report cannot be written: {error}") from error
    return list(map(str, examiner.settings.report))


def _print(results: list[AuditResult], written: list[str], *, verbose: bool) -> None:
    """Print what pytest prints of them: a section for each that has more to say than a line, and a table of many."""
    from pytest_lora_ckpt.auditing.render.lines import View
    from pytest_lora_ckpt.auditing.render.terminal import section
    from pytest_lora_ckpt.auditing.render.terminal_overview import FEW, heading, needs_section, overview
    from pytest_lora_ckpt.cli.rows import HEAD
    from pytest_lora_ckpt.cli.words import in_words_of_here
    from pytest_lora_ckpt.sources import short_names
    from pytest_lora_ckpt.wording import printable

    view = View(output.columns(), verbose=verbose)
    names: Mapping[str, str] = short_names(each.spec for each in results)
    named = [(names[each.spec], in_words_of_here(each)) for each in results]
    for name, each in named:
        if len(named) <= FEW or verbose or needs_section(each):
            if len(named) > 1:
                output.say((printable(name), HEAD))
            for line in section(each, view):
                output.say_line(line)
            if len(named) > 1:
                output.say()
    if len(named) > FEW:
        output.say((heading(results), HEAD))
        for line in overview(named, view):
            output.say_line(line)
    for path in written:
        output.say(printable(f"written to {path}"))


def _tell_others(examiner: Examiner, results: list[AuditResult]) -> None:
    """Say which causes are accepted in vain; tell GitHub Actions, where this runs there."""
    from pytest_lora_ckpt.auditing.render import github
    from pytest_lora_ckpt.wording import line, listed

    ignored = examiner.settings.demands.ignored
    if unused := [each for each in ignored if all(each in one.unused_ignores for one in results)]:
        output.say(line(f"note: --ignore accepts {listed(unused)}, which no check found: leave it out."))
    if github.is_asked_for(examiner.settings.github):
        for told in github.told(results):
            output.say(told)
