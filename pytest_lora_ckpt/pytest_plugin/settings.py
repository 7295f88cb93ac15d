"""What the options ask for: what each may hold, and where a bad value came from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.comparison.stages import DEFAULT_STAGE_LINES, Demands, Stage, parse_stages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPLICA = "replica:"
REPLICA_STAGES = ("vision", "resampler", "finetune")
REPORT_ENDINGS = (".json",)

_FORM = "Give `module:name`, such as my_project.loading:load_model."
_REFERENCE = re.compile(r"[\w.]+:[\w.]+")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for, checked.

    Attributes:
        checkpoints: Paths (made absolute) or `replica:STAGE`, in the order given.
        model: `module:factory`, the path of a manifest that stands in for the model, or None.
        loader: `module:function`, or None.
        demands: What is asked of each checkpoint.
        reports: Files to write.
        fault_timeout: Seconds that a load of a damaged checkpoint may take in a process of its own; None loads in this
            one.
    """

    checkpoints: tuple[str, ...]
    model: str | None
    loader: str | None
    demands: Demands
    reports: tuple[Path, ...]
    fault_timeout: float | None = None


def read_options(config: pytest.Config) -> Options:
    """Gather and check the options of a run in which a checkpoint is asked for.

    Raises:
        pytest.UsageError: A value is not valid; the message says which are, and where the bad one came from.
    """
    given: Sequence[str] = config.getoption("lora_ckpt") or ()
    base = config.invocation_params.dir
    where = "command line"
    if not given:
        given, base, where = config.getini("lora_ckpt"), config.rootpath, ini_name(config)
    stages = read_stages(config)
    return Options(
        checkpoints=tuple(dict.fromkeys(_checkpoint(spec, base, where) for spec in given)),
        model=_reference(config, "lora_model", "callable that returns the model"),
        loader=_reference(config, "lora_loader", "callable path -> loaded model"),
        demands=Demands(
            _stage(config, stages), stages, _ratio(config), bool(config.getoption("lora_strict")), _manifest(config)
        ),
        reports=tuple(_report(name, config) for name in config.getoption("lora_report") or ()),
        fault_timeout=_timeout(config),
    )


def is_replica(spec: str) -> bool:
    """Tell `replica:STAGE` from a path."""
    return spec.startswith(REPLICA)


def _checkpoint(spec: str, base: Path, where: str) -> str:
    if not spec.strip():
        raise pytest.UsageError(f"--lora-ckpt is empty (from: {where}). Give a path, or replica:finetune.")
    if is_replica(spec):
        if spec.removeprefix(REPLICA) not in REPLICA_STAGES:
            valid = ", ".join(REPLICA + stage for stage in REPLICA_STAGES)
            raise pytest.UsageError(f"--lora-ckpt={spec} (from: {where}): the replicas are {valid}.")
        return spec
    return spec if "://" in spec else str(base / Path(spec).expanduser())


def _value(config: pytest.Config, name: str) -> tuple[str | None, str]:
    """Return an option's value and where it came from; the command line goes before the ini file."""
    given = config.getoption(name)
    if given is not None:
        return str(given), "command line"
    return (str(config.getini(name)).strip() or None), ini_name(config)


def ini_name(config: pytest.Config) -> str:
    """Name the file that the ini options come from, for a message."""
    return str(config.inipath.name) if config.inipath else "ini"


def _manifest(config: pytest.Config) -> Path | None:
    given = config.getoption("lora_manifest")
    if given is None:
        return None
    path = config.invocation_params.dir / Path(given).expanduser()
    if not path.exists():
        raise pytest.UsageError(f"--lora-manifest={given} (from: command line): there is no such file.")
    return path


def _timeout(config: pytest.Config) -> float | None:
    value: float | None = config.getoption("lora_fault_timeout")
    if value is not None and not value > 0:
        raise pytest.UsageError(f"--lora-fault-timeout={value}: give a number of seconds above 0.")
    return value


def is_manifest(reference: str) -> bool:
    """Tell a manifest file from `module:name`."""
    return reference.endswith(".json")


def _reference(config: pytest.Config, name: str, meaning: str) -> str | None:
    value, where = _value(config, name)
    if value is not None and name == "lora_model" and is_manifest(value):
        base = config.invocation_params.dir if config.getoption(name) is not None else config.rootpath
        path = base / Path(value).expanduser()
        if not path.is_file():
            raise pytest.UsageError(f"--lora-model={value} (from: {where}): there is no such manifest.")
        return str(path)
    if value is not None and not _REFERENCE.fullmatch(value):
        raise pytest.UsageError(
            f"--{name.replace('_', '-')}={value} (from: {where}): this should name a {meaning}. {_FORM}"
        )
    return value


def read_stages(config: pytest.Config) -> Mapping[str, Stage]:
    """Return the project's stages, the guide's three where it has none of its own.

    Raises:
        pytest.UsageError: A line is no stage.
    """
    lines = config.getini("lora_stages") or DEFAULT_STAGE_LINES
    try:
        return parse_stages(lines)
    except ValueError as error:
        raise pytest.UsageError(f"lora_stages (from: {ini_name(config)}): {error}.") from None


def _stage(config: pytest.Config, stages: Mapping[str, Stage]) -> Stage | None:
    value, where = _value(config, "lora_stage")
    if value is None:
        return None
    if value not in stages:
        raise pytest.UsageError(f"--lora-stage={value} (from: {where}): the stages are {', '.join(stages)}.")
    return stages[value]


def _ratio(config: pytest.Config) -> float:
    value, where = _value(config, "lora_min_ratio")
    if value is None:
        return 1.0
    try:
        ratio = float(value)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise pytest.UsageError(f"--lora-min-ratio={value} (from: {where}): give a number from 0.0 to 1.0.")
    return ratio


def _report(name: str, config: pytest.Config) -> Path:
    path = config.invocation_params.dir / Path(name).expanduser()
    if path.suffix not in REPORT_ENDINGS:
        raise pytest.UsageError(f"--lora-report={name}: the file's ending is one of {', '.join(REPORT_ENDINGS)}.")
    if not path.parent.is_dir():
        raise pytest.UsageError(f"--lora-report={name}: the directory {path.parent} does not exist.")
    return path


def resolve(name: str, config: pytest.Config) -> Any:
    """Import what the option `name` refers to as `module:name`, from the project's own directory as well.

    Raises:
        pytest.UsageError: There is no such module or name, importing it fails, or it is not callable.
    """
    import importlib  # Only where a reference was given.
    import sys

    reference, where = _value(config, name)
    told = f"--{name.replace('_', '-')}={reference} (from: {where})"
    module_name, _, path = str(reference).partition(":")
    places = [str(config.invocation_params.dir), str(config.rootpath)]
    before = list(sys.path)
    sys.path[:] = [*before, *(place for place in places if place not in before)]
    try:
        value: Any = importlib.import_module(module_name)
        for part in path.split("."):
            value = getattr(value, part)
    except AttributeError:
        raise pytest.UsageError(f"{told}: the module {module_name} has no {path}. {_FORM}") from None
    except Exception as error:
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise pytest.UsageError(f"{told}: cannot import {module_name}: {kind}{error}. {_FORM}") from error
    finally:
        sys.path[:] = before
    if not callable(value):
        raise pytest.UsageError(f"{told} is {type(value).__name__}, and should be callable. {_FORM}")
    return value
