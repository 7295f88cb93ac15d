"""`lora-ckpt manifest`: what to hold later copies of a checkpoint against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_lora_ckpt.cli import arguments, output
from pytest_lora_ckpt.cli.exits import ExitCode

if TYPE_CHECKING:
    from pytest_lora_ckpt.manifest import Manifest


@click.command(
    "manifest",
    short_help="Write down what a checkpoint holds; or show what a manifest says.",
    epilog=arguments.example(
        "lora-ckpt manifest adapter/ -o adapter/lora_manifest.json",
        "lora-ckpt manifest adapter/lora_manifest.json",
    ),
)
@arguments.path
@arguments.offered("lora_limits")
@click.option("-o", "--output", "target", metavar="FILE", help="Write the manifest to this file.")
@click.option("--force", is_flag=True, help="Replace a manifest that is there: one written when training knows more.")
@arguments.as_json
def COMMAND(path: str, *, target: str | None, force: bool, as_json: bool, **given: Any) -> int:  # noqa: N802
    """Write down what a checkpoint holds: keys, shapes, digests, and what its config says of adapter and base.

    Later copies are held against it, by `lora-ckpt check --manifest FILE` and by pytest. Given a manifest, this shows
    what it says. One that is written when training (LoraManifestCallback) also knows what no checkpoint shows.
    """
    made = _found(path) or _made(path, given)
    if target is not None:
        _write(made, Path(target), force=force)
    if as_json:
        output.tell({"manifest": made.to_dict(), "written": target})
    elif target is None and made.path is None:
        from pytest_lora_ckpt.auditing.render.json import escaped
        from pytest_lora_ckpt.manifest.write import render

        click.echo(escaped(render(made)), nl=False)
    else:
        _print(made, target or path)
    return ExitCode.FINE


def _found(path: str) -> Manifest | None:
    """Read a manifest, where the path is that of one: other files in JSON stand for the checkpoint that they are of."""
    from pytest_lora_ckpt.manifest import read_manifest
    from pytest_lora_ckpt.vocabulary.files import ADAPTER_CONFIG, MODEL_CONFIG, SHARD_INDEX

    is_manifest = path.endswith(".json") and not path.endswith((ADAPTER_CONFIG, MODEL_CONFIG, SHARD_INDEX))
    return read_manifest(path) if is_manifest and Path(path).is_file() else None


def _made(path: str, given: dict[str, Any]) -> Manifest:
    from pytest_lora_ckpt.checkpoint.limits import Budget
    from pytest_lora_ckpt.checkpoint.open import open_within
    from pytest_lora_ckpt.cli.located import located, only
    from pytest_lora_ckpt.manifest.of_checkpoint import manifest_of

    settings = arguments.settings(given, path)
    with located([only(settings.ckpt)]) as places:
        ((_, place),) = places
        return manifest_of(open_within(place, Budget(settings.demands.limits)))


def _write(made: Manifest, target: Path, *, force: bool) -> None:
    from pytest_lora_ckpt.cli.failures import UnusableError
    from pytest_lora_ckpt.manifest.write import save_manifest
    from pytest_lora_ckpt.vocabulary.files import MANIFEST

    file = target / MANIFEST if target.is_dir() else target
    if file.exists() and not force:
        raise UnusableError(f"{file} is there already, and may be what training wrote: give another name, or --force.")
    try:
        save_manifest(made, file)
    except OSError as error:
        raise UnusableError(f"The manifest cannot be written: {error}") from error


def _print(made: Manifest, where: str) -> None:
    from pytest_lora_ckpt.cli.rows import HEAD, row
    from pytest_lora_ckpt.wording import count, line, listed

    digests = sum(each.digest is not None for each in made.tensors.values())
    output.say((line(where), HEAD))
    told = [("tensors", f"{count(len(made.tensors), 'tensor')}, {len(made.trained)} trained, {digests} with a digest")]
    for name, config in made.adapters.items():
        scaling = made.scalings.get(name)
        factor = f", scaling {scaling:.6g}" if isinstance(scaling, float) else ""
        told.append(("adapter", f"{name}: rank {config.get('r')}, alpha {config.get('lora_alpha')}{factor}"))
    told += [("model", made.model)] if made.model else []
    told += [("base", made.base.name)] if made.base.name else []
    told += [("probe", "logits with the adapter on and off")] if made.probe else []
    told += [("written by", listed((f"{name} {value}" for name, value in sorted(made.written_by.items())), 8))]
    for label, text in told:
        for each in row(label, text):
            output.say(*each)
