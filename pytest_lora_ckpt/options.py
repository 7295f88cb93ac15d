"""The options, one row each, for pytest and for a command line. Every pytest run imports this: nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_lora_ckpt import option_values as read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_lora_ckpt.checkpoint.limits import Limits
    from pytest_lora_ckpt.comparison.stages import Demands, Stage
    from pytest_lora_ckpt.option_values import Library, OtherCheckpoint, Reference

OVERRIDABLE = ("lora_model", "lora_loader", "lora_inputs", "lora_generate_inputs", "lora_base_model", "lora_companions")
"""Fixtures that a project overrides in its `conftest.py`."""


class OptionError(ValueError):
    """An option's value is not valid; the message says which are, and where the bad one came from."""


@dataclass(frozen=True, slots=True)
class Given:
    """The values of one option as they were written.

    Attributes:
        texts: The values; of an ini option of several lines, its lines.
        source: `"command line"`, or the name of the ini file.
        base: The directory that relative paths start from.
    """

    texts: tuple[str, ...]
    source: str
    base: Path


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        name: Its ini name; on the command line, `lora_min_ratio` is `--lora-min-ratio`.
        help: What it does, in a sentence or two.
        metavar: What stands for its value in the help.
        parse: Makes a value of a text and the directory that relative paths start from; a `ValueError` says what would
            be valid.
        default: The value where none is given.
        kind: `"one"` value, `"many"` (repeatable), `"several"` (the same, and one text may stand for several values:
            `parse` gives a tuple), a `"flag"`, an `"optional"` value, or the `"lines"` of an ini file,
            which pytest's command line does not have.
        called: How it is written on a command line that is not pytest's.
    """

    name: str
    help: str
    metavar: str = ""
    parse: Callable[[str, Path], Any] = lambda text, _: text
    default: Any = None
    kind: Literal["one", "many", "several", "flag", "optional", "lines"] = "one"
    called: str = ""

    @property
    def flag(self) -> str:
        """Its name on the command line; empty for one that only an ini file has."""
        return self.called or ("" if self.kind == "lines" else f"--{self.name.replace('_', '-')}")

    @property
    def usage(self) -> str:
        """How it is written on the command line."""
        value = {"flag": "", "lines": "", "optional": f"[={self.metavar}]"}
        return self.flag + value.get(self.kind, f"={self.metavar}")

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `argparse.ArgumentParser.add_argument`."""
        kinds: dict[str, dict[str, Any]] = {
            "flag": {"action": "store_true"},
            "many": {"metavar": self.metavar, "action": "append"},
            "several": {"metavar": self.metavar, "action": "append"},
            "optional": {"metavar": self.metavar, "nargs": "?", "const": ""},
        }
        return {"help": self.help, **kinds.get(self.kind, {"metavar": self.metavar})}


_ROWS = (
    Option(
        "lora_ckpt",
        "Audit this checkpoint (repeatable; a pattern such as 'runs/*/best.ckpt' and a directory of runs stand for all "
        "that they have, the directory of one run for its best or newest step): a "
        ".ckpt/.pt/.bin/.safetensors file, a PEFT adapter directory, "
        "a Hugging Face model directory (sharded or not), the address of one (https://, s3://, gs://, hf://, any that "
        "fsspec knows) or its id on the Hugging Face Hub, or "
        "replica:STAGE (vision, resampler, finetune), a tiny PanoramaVLM checkpoint made on the spot.",
        "PATH_OR_URL",
        read.checkpoints,
        default=(),
        kind="several",
    ),
    Option(
        "lora_model",
        "Callable that returns the nn.Module to receive the weights, a lora_manifest.json or the directory of a base "
        "model that replaces it, another checkpoint to compare names, shapes and values with, or auto (the default for "
        "a PEFT adapter): the keys and shapes by the config of its base model alone; or override the fixture "
        "lora_model.",
        "MODULE:FACTORY",
        read.model,
    ),
    Option(
        "lora_loader",
        "Your own loading code, a callable path -> loaded model; or what a library documents: peft, transformers, "
        "diffusers, sentence-transformers or lightning:module.Class; or override the fixture lora_loader.",
        "MODULE:FUNCTION",
        read.loader,
    ),
    Option(
        "lora_base",
        "The base model, a path or an id on the Hugging Face Hub, where the checkpoint's own config does not say, or "
        "where it lies elsewhere.",
        "PATH_OR_ID",
        read.base_model,
    ),
    Option(
        "lora_stage",
        "What the checkpoint must hold: vision, resampler or finetune, or a stage of the ini option lora_stages.",
        "STAGE",
    ),
    Option(
        "lora_min_ratio",
        "Minimum fraction (0.0 to 1.0) of the required model keys that must load after remapping (default: 1.0).",
        "R",
        lambda text, _: read.number(text, 0.0, 1.0, "from 0.0 to 1.0"),
        default=1.0,
    ),
    Option(
        "lora_report",
        "Write the result to this file (repeatable), in the form that its ending names: .json, .html, .md, or .sarif "
        "for code scanning.",
        "FILE",
        read.report,
        (),
        "many",
    ),
    Option(
        "lora_github",
        "Under GitHub Actions, annotate what asks for an action, and add to the summary of the job: auto (the default) "
        "or off.",
        "WHEN",
        read.github,
        default="auto",
    ),
    Option(
        "lora_manifest",
        "The manifest that was written when the checkpoint was trained (write_manifest, LoraManifestCallback); by "
        "default the lora_manifest.json next to the checkpoint.",
        "FILE",
        read.existing,
    ),
    Option(
        "lora_companion",
        "Trained weights in a file or adapter directory that lies elsewhere (repeatable): part of the checkpoint, as "
        "are those that are found in an adapter's directory; or override the fixture lora_companions.",
        "PATH",
        read.existing,
        (),
        "many",
    ),
    Option(
        "lora_trust",
        "Accept this class or function in pickles of the checkpoint (repeatable), though it is not known to be data.",
        "MODULE.NAME",
        read.trusted,
        (),
        "many",
    ),
    Option(
        "lora_faults",
        "Score your loader: damage the checkpoint in these ways (by default in every way that applies), and report "
        "which of them your loader notices, and which the checks catch.",
        "NAME,…",
        read.faults,
        kind="optional",
    ),
    Option(
        "lora_fault_timeout",
        "Load each damaged checkpoint in a process of its own, and stop it after this time; the loader must be a "
        "function of a module.",
        "SECONDS",
        lambda text, _: read.number(text, 5e-324, float("inf"), "of seconds above 0"),
    ),
    Option(
        "lora_strict",
        "A check that could not be made counts as failed, not as skipped.",
        parse=lambda _text, _: True,
        default=False,
        kind="flag",
    ),
    Option(
        "lora_stages",
        "The training stages, one a line, in order: `name: component … [lora] [(component …)]`.",
        parse=read.stages,
        kind="lines",
    ),
    Option(
        "lora_limits",
        "What a checkpoint's files may ask for, where that is more than usual, one a line: `name = number`.",
        parse=read.limits,
        kind="lines",
    ),
    Option(
        "lora_ignore",
        "Causes that the project accepts, one a line: `slug: reason`, or `slug[pattern]: reason` for some checkpoints "
        "or keys. Their findings fail no check, and are told as accepted.",
        parse=read.ignored,
        default={},
        kind="lines",
    ),
    Option(
        "lora_accepted_faults",
        "Faults that the project accepts of its loader, one a line: `slug: reason`.",
        parse=read.accepted,
        kind="lines",
    ),
)

OPTIONS = {option.name: option for option in _ROWS}
"""Every option by its name."""


class Reading:
    """The options of one run, each read at first use.

    Args:
        find: Finds what was given for an option, on the command line or else in an ini file; None where nothing was.
        rows: The options by name, as the front end calls them.
    """

    def __init__(self, find: Callable[[Option], Given | None], rows: Mapping[str, Option] = OPTIONS) -> None:
        """Read nothing yet."""
        self.find, self._rows = find, rows

    def get(self, name: str) -> Any:
        """Return an option's value; of a repeatable one a tuple.

        Raises:
            OptionError: It is not valid.
        """
        option = self._rows[name]
        given = self.find(option)
        if given is None:
            return option.default
        if option.kind == "several":
            return tuple(dict.fromkeys(v for text in given.texts for v in self._parse(option, text, given.base)))
        if option.kind == "many":
            return tuple(dict.fromkeys(self._parse(option, text, given.base) for text in given.texts))
        return self._parse(option, "\n".join(given.texts), given.base)

    def _parse(self, option: Option, text: str, base: Path) -> Any:
        try:
            return option.parse(text, base)
        except ValueError as error:
            raise self.error(option.name, error, text) from None

    def error(self, name: str, problem: object, text: str | None = None) -> OptionError:
        """Say what is wrong with an option's value, and where it came from."""
        option = self._rows[name]
        given = self.find(option)
        text = "\n".join(given.texts) if text is None and given else text
        value = f"{option.flag}={text}" if option.flag else name
        return OptionError(f"{value} (from: {given.source if given else 'default'}): {problem}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for, checked: each value under the option's name.

    Attributes:
        ckpt: Paths (made absolute), addresses, or `replica:STAGE`, in the order given.
        model: The callable that makes the model, the path of a manifest or of a base model that replaces it, or
            `"auto"`.
        loader: The callable that loads, or the library that does.
        base: The path of the base model, or its id on the Hub.
        faults: Names of faults to score the loader with; None where that was not asked for.
    """

    ckpt: tuple[str, ...]
    model: Reference | Path | OtherCheckpoint | Literal["auto"] | None
    loader: Reference | Library | None
    base: str | None
    stage: Stage | None
    min_ratio: float
    report: tuple[Path, ...]
    github: Literal["auto", "off"]
    manifest: Path | None
    companion: tuple[Path, ...]
    trust: tuple[str, ...]
    faults: list[str] | None
    fault_timeout: float | None
    strict: bool
    stages: Mapping[str, Stage]
    limits: Limits | None
    ignore: Mapping[str, str]
    accepted_faults: Mapping[str, str] | None

    @property
    def demands(self) -> Demands:
        """What is asked of each checkpoint."""
        from pytest_lora_ckpt.comparison.stages import Demands

        return Demands(
            stage=self.stage,
            stages=self.stages,
            min_ratio=self.min_ratio,
            strict=self.strict,
            manifest=self.manifest,
            companions=self.companion,
            base=str(self.model) if isinstance(self.model, Path) and self.model.is_dir() else self.base,
            trust=self.trust,
            ignored=self.ignore,
            **({} if self.limits is None else {"limits": self.limits}),
        )


def read_settings(options: Reading) -> Settings:
    """Read all options.

    Raises:
        OptionError: A value is not valid.
    """
    values = {name.removeprefix("lora_"): options.get(name) for name in OPTIONS}
    stages, stage = read_stages(options), values["stage"]
    if stage is not None and stage not in stages:
        raise options.error("lora_stage", f"the stages are {', '.join(stages)}.")
    return Settings(**values | {"stages": stages, "stage": stages.get(stage)})


def read_stages(options: Reading) -> Mapping[str, Stage]:
    """Read the project's training stages; by default the guide's three.

    Raises:
        OptionError: A line is not a stage.
    """
    from pytest_lora_ckpt.comparison.stages import STAGES

    stages: Mapping[str, Stage] | None = options.get("lora_stages")
    return STAGES if stages is None else stages
