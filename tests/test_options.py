"""The table of options: what its page says of it, and how values are read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_lora_ckpt.option_values import Reference
from pytest_lora_ckpt.options import OPTIONS, Given, Option, OptionError, Reading, read_settings, read_stages

PAGE = Path(__file__).parent.parent / "docs" / "options.md"
HERE = Path(__file__).parent


def reading(**texts: str | tuple[str, ...]) -> Reading:
    def find(option: Option) -> Given | None:
        value = texts.get(option.name)
        return None if value is None else Given((value,) if isinstance(value, str) else value, "tox.ini", HERE)

    return Reading(find)


def test_the_page_has_a_row_for_each_option() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if "| `lora_" in line]
    code = "`{}`".format
    expected = [
        f"| {code(option.usage) if option.usage else ''} | {code(option.name)} | {option.help} |"
        for option in OPTIONS.values()
    ]
    assert [row for row in rows if row.startswith(("| `--lora-", "|  |"))] == expected


def test_each_option_is_written_in_one_way() -> None:
    usages = {option.usage for option in OPTIONS.values() if option.flag}
    assert usages >= {"--lora-ckpt=PATH_OR_URL", "--lora-strict", "--lora-faults[=NAME,…]", "--lora-min-ratio=R"}
    assert [name for name, option in OPTIONS.items() if not option.flag] == [
        "lora_stages",
        "lora_limits",
        "lora_ignore",
        "lora_accepted_faults",
    ]


def test_defaults() -> None:
    settings = read_settings(reading())
    assert (settings.ckpt, settings.model, settings.loader, settings.report) == ((), None, None, ())
    assert (settings.demands.stage, settings.demands.min_ratio, settings.demands.strict) == (None, 1.0, False)
    assert (settings.faults, settings.accepted_faults, settings.fault_timeout) == (None, None, None)
    assert list(read_stages(reading())) == ["vision", "resampler", "finetune"]


def test_values() -> None:
    settings = read_settings(
        reading(
            lora_ckpt=("a.pt", "s3://bucket/b.pt", "replica:vision", "a.pt"),
            lora_model="my.models:make",
            lora_loader="my.loading:Loader.load",
            lora_stages=("warmup: embed", "sft: embed lora"),
            lora_stage="sft",
            lora_limits=("keys = 20M", "seconds = 60"),
            lora_min_ratio="0.5",
            lora_report=("out.json",),
            lora_manifest=Path(__file__).name,
            lora_faults="nan, inf",
            lora_accepted_faults=("nan: we clip",),
            lora_fault_timeout="1.5",
            lora_strict="True",
        )
    )
    assert settings.ckpt == (str(HERE / "a.pt"), "s3://bucket/b.pt", "replica:vision")
    assert settings.model == Reference("my.models", "make")
    assert settings.loader == Reference("my.loading", "Loader.load")
    assert settings.demands.stage == settings.demands.stages["sft"]
    assert (settings.demands.min_ratio, settings.demands.strict) == (0.5, True)
    assert settings.demands.manifest == Path(__file__)
    assert (settings.demands.limits.keys, settings.demands.limits.seconds) == (20_000_000, 60)
    assert settings.report == (HERE / "out.json",)
    assert (settings.faults, settings.accepted_faults) == (["nan", "inf"], {"nan": "we clip"})
    assert settings.fault_timeout == 1.5


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("lora_ckpt", " ", "it is empty"),
        ("lora_ckpt", "replica:sft", "the replicas are replica:vision"),
        ("lora_model", "my.models", "should name a callable that returns the model"),
        ("lora_model", "my.models:", "should name a callable"),
        ("lora_model", "none.json", "there is no such manifest"),
        ("lora_loader", "my loading:load", "should name a callable path -> loaded model"),
        ("lora_loader", "my.loading.load", "Is my.loading:load meant?"),
        ("lora_stage", "sft", "the stages are vision, resampler, finetune"),
        ("lora_min_ratio", "75%", "give a number from 0.0 to 1.0"),
        ("lora_fault_timeout", "0", "give a number of seconds above 0"),
        ("lora_fault_timeout", "nan", "give a number of seconds above 0"),
        ("lora_manifest", "none.json", "there is no such file"),
        ("lora_report", "a.pdf", "the file's ending is one of .json"),
        ("lora_report", "no/a.json", "does not exist"),
    ],
)
def test_what_is_not_valid(name: str, text: str, problem: str) -> None:
    with pytest.raises(OptionError) as error:
        read_settings(reading(**{name: (text,)}))
    assert str(error.value).startswith(f"{OPTIONS[name].flag}={text} (from: tox.ini): ")
    assert problem in str(error.value)


def test_an_option_without_a_flag_is_named_by_its_ini_name() -> None:
    with pytest.raises(OptionError, match=r"^lora_stages \(from: tox.ini\): a stage is written"):
        read_settings(reading(lora_stages=("a: b", "c")))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("keys", "written `name = number`, such as `keys = 20M`, not 'keys'"),
        ("keys = many", "written `name = number`"),
        ("keys = -1", "written `name = number`"),
        ("keys = 1T", "written `name = number`"),
        ("key = 1", "there is no limit 'key'; there are pickle_bytes, opcodes"),
        ("keys = 1\nkeys = 2", "comes twice"),
    ],
)
def test_what_is_no_limit(line: str, problem: str) -> None:
    with pytest.raises(OptionError, match=r"^lora_limits \(from: tox.ini\): ") as error:
        read_settings(reading(lora_limits=(line,)))
    assert problem in str(error.value)


def test_importing_the_table_imports_nothing_else() -> None:
    code = (
        "import sys; import pytest_lora_ckpt.options;"
        "print({name.partition('.')[0] for name in sys.modules} & {'pytest', '_pytest', 'torch', 'numpy'},"
        "*sorted(name for name in sys.modules if name.startswith('pytest_lora_ckpt.')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE.parent)
    assert result.stdout.split() == [
        *("set()", "pytest_lora_ckpt._lazy", "pytest_lora_ckpt.option_values", "pytest_lora_ckpt.options")
    ]
