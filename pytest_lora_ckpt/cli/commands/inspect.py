"""`lora-ckpt inspect`: what is in this file?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pytest_lora_ckpt.cli import arguments, output
from pytest_lora_ckpt.cli.exits import ExitCode

if TYPE_CHECKING:
    from pytest_lora_ckpt.cli.inspection import Inspection


@click.command(
    "inspect",
    short_help="What is in this file?",
    epilog=arguments.example(
        "lora-ckpt inspect runs/best.ckpt",
        "lora-ckpt inspect 'runs/*/best.ckpt'",
        "lora-ckpt inspect --json https://host/adapter/adapter_model.safetensors",
    ),
)
@arguments.paths
@arguments.offered("lora_trust", "lora_stages", "lora_limits")
@arguments.as_json
def COMMAND(paths: tuple[str, ...], *, as_json: bool, **given: Any) -> int:  # noqa: N802  # A constant of its module.
    """What is in this file? Layout, adapters, components and sizes, by its index alone.

    Of several checkpoints, or of a directory of runs, there is a table. The exit code is 2 where one cannot be read.
    """
    settings = arguments.settings(given, *paths)
    from pytest_lora_ckpt.cli.inspection import inspect
    from pytest_lora_ckpt.cli.located import located

    found: list[Inspection] = []
    with located(settings.ckpt) as places:
        found += (inspect(path, settings.demands, spec=wanted.spec) for wanted, path in places)
    if as_json:
        output.tell({"checkpoints": [each.to_dict() for each in found]})
    else:
        from pytest_lora_ckpt.cli.inspection_lines import overview, page

        for line in page(found[0]) if len(found) == 1 else overview(found):
            output.say(*line)
    return ExitCode.UNUSABLE if any(each.error for each in found) else ExitCode.FINE
