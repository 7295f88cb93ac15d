"""`lora-ckpt remap`: how do the keys of this checkpoint become the model's?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from pytest_lora_ckpt.cli import arguments, output
from pytest_lora_ckpt.cli.exits import ExitCode

if TYPE_CHECKING:
    from pytest_lora_ckpt.keys import Remapping
    from pytest_lora_ckpt.results import LoadReport


@click.command(
    "remap",
    short_help="Which keys must be renamed? Rules, and code to paste.",
    epilog=arguments.example(
        "lora-ckpt remap runs/best.ckpt --model my_project.model:build",
        "lora-ckpt remap runs/best.ckpt --model other.safetensors --code > rename.py",
        "lora-ckpt remap adapter/ --base Qwen/Qwen3-0.6B",
    ),
)
@arguments.path
@arguments.offered("lora_model", "lora_base", "lora_limits")
@click.option("--code", is_flag=True, help="Print the function alone, to paste into a loader.")
@arguments.as_json
def COMMAND(path: str, *, code: bool, as_json: bool, **given: Any) -> int:  # noqa: N802  # A constant of its module.
    """How do the keys of this checkpoint become the model's? The rules, each with its number of keys, and the code.

    Names are inferred by names, structure and shapes; what cannot be paired safely is left out and said. For an adapter
    of PEFT no model is needed where its base model's config is at hand. The exit code is 1 where tensors stay without a
    counterpart.
    """
    from pytest_lora_ckpt.cli.examining import Examiner, project_code
    from pytest_lora_ckpt.cli.failures import UnusableError
    from pytest_lora_ckpt.cli.located import located, only

    with project_code():
        examiner = Examiner(given, path)
    with located([only(examiner.settings.ckpt)]) as places:
        ((wanted, place),) = places
        with project_code():
            context = examiner.context(wanted, place)
            report, why = context.report, context.by_config.why
    if report.remapping is None:
        raise UnusableError(f"There is nothing to compare with: {why or 'give --model=MODULE:FACTORY.'}")
    if as_json:
        output.tell({"verdict": report.verdict, **report.remapping.to_dict(), **_exports(report.remapping)})
    elif code:
        click.echo(report.remapping.as_python(), nl=False)
    else:
        _print(report, report.remapping)
    return ExitCode.FINE if report.verdict in {"loads", "loads-after-remap"} else ExitCode.FAILED


def _exports(remapping: Remapping) -> dict[str, Any]:
    key_mapping = None
    with contextlib.suppress(ValueError):  # Not all rules can be written so.
        key_mapping = remapping.as_key_mapping()
    return {"python": remapping.as_python(), "key_mapping": key_mapping}


def _print(report: LoadReport, remapping: Remapping) -> None:
    from pytest_lora_ckpt.wording import SafeText, line

    good = report.verdict in {"loads", "loads-after-remap"}
    output.say((line(f"verdict: {report.verdict}"), {"bold": True, "fg": "green" if good else "red"}))
    for each in remapping.explain().split("\n"):
        output.say(SafeText(each))
    lost = report.remapped
    if lost is not None and (lost.missing.lost or lost.unexpected.lost):
        output.say(line(f"left over: {lost.unexpected.lost} of the checkpoint, {lost.missing.lost} of the model"))
    if any(rule.by != "torch" for rule in remapping.rules):
        output.say()
        click.echo(remapping.as_python(), nl=False)
