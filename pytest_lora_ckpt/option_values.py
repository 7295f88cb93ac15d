"""How the values of options are read: each function says in a `ValueError` what would be valid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_lora_ckpt.checkpoint.limits import Limits
    from pytest_lora_ckpt.comparison.stages import Stage
    from pytest_lora_ckpt.stacks import StackLoader

REPLICA = "replica:"
AUTO: Literal["auto"] = "auto"
LIGHTNING = "lightning"

_FORM = "Give `module:name`, such as my_project.loading:load_model."


@dataclass(frozen=True, slots=True)
class Reference:
    """A callable of the project: `module:name`."""

    module: str
    name: str

    def resolve(self, directories: Sequence[Path]) -> Callable[..., Any]:
        """Import it, from these directories as well.

        Raises:
            ValueError: There is no such module or name, importing it fails, or it is not callable.
        """
        import importlib  # Only where a reference was given.
        import sys

        before = list(sys.path)
        sys.path += [str(each) for each in directories if str(each) not in before]
        try:
            value: Any = importlib.import_module(self.module)
            for part in self.name.split("."):
                value = getattr(value, part)
        except AttributeError:
            raise ValueError(f"the module {self.module} has no {self.name}. {_FORM}") from None
        except Exception as error:
            kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
            raise ValueError(f"cannot import {self.module}: {kind}{error}. {_FORM}") from error
        finally:
            sys.path[:] = before
        if not callable(value):
            raise ValueError(f"it is {type(value).__name__}, and should be callable. {_FORM}")  # noqa: TRY004
        function: Callable[..., Any] = value
        return function


@dataclass(frozen=True, slots=True)
class Library:
    """A library that loads as its documentation tells people to: `peft`, or `lightning:module.Class`."""

    name: str
    target: Reference | None = None

    def resolve(self, directories: Sequence[Path]) -> StackLoader:
        """Make its loader.

        Raises:
            ValueError: The library is not installed, or the class cannot be imported.
        """
        from importlib.util import find_spec

        from pytest_lora_ckpt.stacks import StackLoader, find_stack

        stack = find_stack(self.name)
        if find_spec(stack.NEEDS.replace("-", "_")) is None:
            raise ValueError(f"it needs {stack.NEEDS}: pip install {stack.NEEDS}")
        return StackLoader(stack, target=self.target.resolve(directories) if self.target else None)


def checkpoints(text: str, base: Path) -> tuple[str, ...]:
    """Read a path, an address, or a replica; a pattern or a directory of runs stands for several."""
    from pytest_lora_ckpt.replicas.names import STAGES

    if not text.strip():
        raise ValueError("it is empty. Give a path, or replica:finetune.")
    if not text.startswith(REPLICA):
        from pytest_lora_ckpt.checkpoint.below import meant_by

        return meant_by(text if _is_address(text, base) else str(base / Path(text).expanduser()))
    if text.removeprefix(REPLICA) not in STAGES:
        raise ValueError(f"the replicas are {', '.join(REPLICA + stage for stage in STAGES)}.")
    return (text,)


def _is_address(text: str, base: Path) -> bool:
    from pytest_lora_ckpt.checkpoint.address import is_address

    return is_address(text) and ("://" in text or not (base / text).parent.exists())


def reference(text: str, what: str) -> Reference:
    """Read `module:name`."""
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        start, _, last = text.rpartition(".")
        with_colon = f" Is {start}:{last} meant?" if start and ":" not in text else ""
        raise ValueError(f"this should name a callable {what}.{with_colon} {_FORM}")
    return Reference(module, name)


def loader(text: str, _: Path) -> Reference | Library:
    """Read `module:name`, or the name of a library."""
    from pytest_lora_ckpt.stacks import NAMES

    name, _colon, rest = text.partition(":")
    if name == LIGHTNING:
        module, _dot, target = rest.replace(":", ".").rpartition(".")
        try:
            return Library(name, reference(f"{module}:{target}", "Lightning module"))
        except ValueError:
            raise ValueError("this should name your Lightning module: lightning:my_project.model.LitModel.") from None
    if text in NAMES:
        return Library(text)
    try:
        return reference(text, "path -> loaded model")
    except ValueError as error:
        raise ValueError(f"{error} Or a library: {', '.join(NAMES)}.") from None


def base_model(text: str, base: Path) -> str:
    """Read the path of a base model, or its id on the Hub."""
    from pytest_lora_ckpt.stacks.base import HUB_ID

    path = base / Path(text).expanduser()
    if path.exists():
        return str(path)
    if not HUB_ID.fullmatch(text):
        raise ValueError("there is no such directory, and it is no id on the Hub.")
    return text


@dataclass(frozen=True, slots=True)
class OtherCheckpoint:
    """A checkpoint to compare with, in place of a model."""

    path: str


def model(text: str, base: Path) -> Reference | Path | OtherCheckpoint | Literal["auto"]:
    """Read `module:name`, the path of a manifest or of another checkpoint, the directory of a base model, or `auto`."""
    from pytest_lora_ckpt.vocabulary.files import MODEL_CONFIG, SHARD_INDEX, WEIGHTS_ENDINGS

    if text == AUTO:
        return AUTO
    path = base / Path(text).expanduser()
    if path.is_dir():
        return path if (path / MODEL_CONFIG).is_file() else OtherCheckpoint(str(path))
    if text.endswith((*WEIGHTS_ENDINGS, SHARD_INDEX)):
        if "://" not in text and not path.is_file():
            raise ValueError("there is no such checkpoint.")
        return OtherCheckpoint(text if "://" in text else str(path))
    if not text.endswith(".json"):
        return reference(text, "that returns the model")
    if not path.is_file():
        raise ValueError("there is no such manifest.")
    return path


def existing(text: str, base: Path) -> Path:
    """Read a path under which something lies."""
    path = base / Path(text).expanduser()
    if not path.exists():
        raise ValueError("there is no such file or directory.")
    return path


def trusted(text: str, _: Path) -> str:
    """Read the full name of a class or function."""
    name = text.strip()
    if "." not in name.strip("."):
        raise ValueError("give the full name, such as my_project.config.TrainConfig.")
    return name


def report(text: str, base: Path) -> Path:
    """Read the path of a report."""
    from pytest_lora_ckpt.auditing.render import check_ending

    path = base / Path(text).expanduser()
    check_ending(path)
    if not path.parent.is_dir():
        raise ValueError(f"the directory {path.parent} does not exist.")
    return path


def github(text: str, _: Path) -> Literal["auto", "off"]:
    """Read whether anything is told to GitHub Actions."""
    if text == "auto":
        return "auto"
    if text == "off":
        return "off"
    raise ValueError("give auto or off.")


def number(text: str, least: float, most: float, what: str) -> float:
    """Read a number between two bounds."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise ValueError(f"give a number {what}.")
    return number


def stages(text: str, _: Path) -> Mapping[str, Stage]:
    """Read training stages."""
    from pytest_lora_ckpt.comparison.stages import parse_stages

    return parse_stages(text.splitlines())


def limits(text: str, _: Path) -> Limits:
    """Read limits."""
    from pytest_lora_ckpt.checkpoint.limits import parse_limits

    return parse_limits(text.splitlines())


def ignored(text: str, _: Path) -> dict[str, str]:
    """Read causes with the reasons why they are accepted."""
    from pytest_lora_ckpt.findings.accepted import parse_ignored

    return parse_ignored(text.splitlines())


def faults(text: str, _: Path) -> list[str]:
    """Read names of faults."""
    from pytest_lora_ckpt.scoring import parse_fault_names

    return parse_fault_names(text)


def accepted(text: str, _: Path) -> dict[str, str]:
    """Read faults with the reasons why they are accepted."""
    from pytest_lora_ckpt.scoring import parse_accepted

    return parse_accepted(text.splitlines())
