"""`--lora-loader`, `--lora-model` and the fixtures behind them, where what they give is not what is expected."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.helpers.audit_runs import LOADER_CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.audit_runs import AuditRun

    Audit = Callable[..., AuditRun]
    Project = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("toy_project")

INPUTS = "import pytest, toy\n@pytest.fixture\ndef lora_inputs(): return {}\n"


@pytest.fixture
def loading(audit: Audit, project: Project, toy_checkpoint: Path) -> Callable[..., AuditRun]:
    """Audit with a loader of this source text, and inputs."""

    def run(source: str, inputs: str = "toy.INPUTS", *args: str) -> AuditRun:
        project(conftest=INPUTS.format(inputs), my_loading=f"import torch\nimport toy\n{source}\n")
        return audit(f"--lora-ckpt={toy_checkpoint}", "--lora-loader=my_loading:load", *args)

    return run


def test_a_good_loader(loading: Callable[..., AuditRun]) -> None:
    run = loading("from toy import good as load")
    assert run.ret == pytest.ExitCode.OK
    assert run.named("passed") >= set(LOADER_CHECKS)
    assert run.run["verdict"] == "loads"


def test_a_bad_loader(loading: Callable[..., AuditRun]) -> None:
    run = loading("from toy import bad as load")
    assert run.named("failed") == {"keys", "loaded", "adapter-active"}
    # The base weights load and the adapter does not: something has no home.
    assert run.run["verdict"] == "partial"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def load(path): raise RuntimeError('size mismatch')", "The loader raised RuntimeError: size mismatch"),
        ("def load(path): pass", "The loader returned None, and should return the loaded nn.Module."),
        ("def load(path): return toy.good(path), {}", "The loader returned a tuple of 2"),
        ("def load(path): return torch.load(path)", "The loader returned"),
        ("def load(): pass", "The loader raised TypeError: load() takes 0 positional arguments but 1 was given"),
        ("def load(path): return toy.Toy", "and should return the loaded nn.Module."),
    ],
    ids=["raises", "None", "tuple", "dict", "no argument", "class"],
)
def test_a_loader_that_gives_no_model(loading: Callable[..., AuditRun], source: str, sentence: str) -> None:
    run = loading(source)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert run.named("failed") == {"keys"}
    assert run.named("skipped") >= {*LOADER_CHECKS, "base-untouched"} - {"keys"}
    assert sentence in run.summary("keys")
    assert run.summary("loaded") == "the loader failed: see keys"
    assert "verdict: not-compared (the loader failed)" in run.text
    assert "loader-failed" in run.causes
    # In the check's message and in the section; on a CI server pytest repeats whole messages in its summary.
    assert run.text.partition("short test summary info")[0].count("loader-failed") <= 2
    assert "site-packages" not in run.text


@pytest.mark.parametrize("style", ["auto", "short", "native"])
def test_a_loader_that_raises_is_shown_once_with_its_own_lines(loading: Callable[..., AuditRun], style: str) -> None:
    lines = "\\n'.join(map(str, range(30)))"
    run = loading(
        f"def load(path): return deeper()\ndef deeper(): raise RuntimeError('{lines})", "toy.INPUTS", f"--tb={style}"
    )
    assert run.text.count("return deeper()") == 1
    assert "evidence.py" not in run.text
    if style != "native":
        assert "… and 22 more lines" in run.text
        assert "E 25" not in run.text


def test_a_loader_is_called_once(loading: Callable[..., AuditRun], toy_project: Path) -> None:
    count = "def load(path): open('calls', 'a').write('x'); {}"
    loading(count.format("return toy.good(path)"))
    assert (toy_project / "calls").read_text() == "x"
    loading(count.format("raise ValueError"))
    assert (toy_project / "calls").read_text() == "xx"


@pytest.mark.parametrize(
    ("inputs", "sentences"),
    [
        ("{'no_such': 1}", ("unexpected keyword argument 'no_such'",) * 2),
        ("{}", ("required positional argument: 'input_ids'",) * 2),
        ("{'input_ids': None}", ("The forward pass raised TypeError", "generate raised TypeError")),
        ("{'input_ids': toy.torch.tensor([[99]])}", ("The forward pass raised IndexError", "generate raised Index")),
    ],
    ids=["unknown", "none", "None", "out of range"],
)
def test_inputs_that_do_not_fit(loading: Callable[..., AuditRun], inputs: str, sentences: tuple[str, str]) -> None:
    run = loading("from toy import good as load", inputs)
    assert run.named("failed") == {"adapter-active", "generate"}
    for name, sentence in zip(("adapter-active", "generate"), sentences, strict=True):
        assert sentence in run.summary(name)
    assert {"keys", "ratio"} <= run.named("passed")


@pytest.mark.parametrize("inputs", ["toy.INPUTS['input_ids']", "[1]", "'text'"])
def test_inputs_that_are_no_mapping(loading: Callable[..., AuditRun], inputs: str) -> None:
    run = loading("from toy import good as load", inputs)
    assert run.named("failed") == {"adapter-active"}
    assert "lora_inputs" in run.summary("adapter-active")
    assert run.summary("generate") == "the inputs failed: see adapter-active"


def test_no_inputs(loading: Callable[..., AuditRun]) -> None:
    run = loading("from toy import good as load", "None")
    assert run.ret == pytest.ExitCode.OK
    for name in ("adapter-active", "generate"):
        assert run.checks[name] == "skipped"
        assert "override the fixture lora_inputs" in run.summary(name)


@pytest.mark.parametrize(
    ("generate", "sentence"),
    [
        ("None", "Served has no generate method"),
        ("lambda self, **_: None", "generate returned None without running any module"),
        ("lambda self, input_ids, **_: input_ids", "without running any module"),
        ("lambda self, input_ids, **_: (self(input_ids), input_ids)[1]", "no new token after the 3-token prompt"),
        ("lambda self, input_ids, **_: (self(input_ids), 'text')[1]", "no token ids (an integer tensor)"),
        ("lambda self, input_ids: input_ids", "unexpected keyword argument 'max_new_tokens'"),
    ],
    ids=["none", "nothing", "echo", "no new token", "text", "no max_new_tokens"],
)
def test_a_generate_that_does_not(loading: Callable[..., AuditRun], generate: str, sentence: str) -> None:
    run = loading(
        f"""
class Served(toy.Toy):
    generate = {generate}
def load(path):
    model = Served()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model
"""
    )
    assert run.checks["generate"] == ("skipped" if generate == "None" else "failed")
    assert sentence in run.summary("generate")
    assert run.checks["adapter-active"] == "passed"


def test_torch_is_as_before(loading: Callable[..., AuditRun]) -> None:
    import torch

    before, python = torch.get_rng_state(), random.getstate()
    run = loading(
        """
import random
def load(path):
    torch.manual_seed(3); random.seed(3)
    model = toy.good(path)
    torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); torch.rand(3)
    return model.train()
"""
    )
    assert run.ret == pytest.ExitCode.OK
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


class TestReferences:
    """`module:name` on the command line and in the ini file."""

    def test_a_model(self, audit: Audit, toy_checkpoint: Path) -> None:
        run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-model=toy:make")
        assert run.run["verdict"] == "loads"
        assert run.named("passed") >= {"keys", "ratio"}
        for name in ("adapter-active", "generate"):
            assert "there is no loader" in run.summary(name)

    def test_a_plain_model_has_no_place_for_the_adapter(self, audit: Audit, toy_checkpoint: Path) -> None:
        run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-model=toy:make_plain")
        assert run.checks["keys"] == "failed"
        assert "adapter-not-loaded" in run.causes

    def test_in_the_ini_file(self, audit: Audit, project: Project, toy_checkpoint: Path) -> None:
        project(
            {"pytest.ini": f"[pytest]\nlora_ckpt = {toy_checkpoint}\nlora_model = toy:make\nlora_loader = toy:good\n"}
        )
        run = audit()
        assert run.ret == pytest.ExitCode.OK
        assert run.named("passed") >= {"keys", "ratio"}
        # The command line goes before the ini file.
        assert audit("--lora-model=toy:make_plain").checks["keys"] == "failed"

    def test_the_pytest_command_finds_the_projects_modules(
        self, pytester: pytest.Pytester, project: Project, toy_checkpoint: Path
    ) -> None:
        # `pytest` does not put the working directory on sys.path, as `python -m pytest` does.
        project(
            {"pyproject.toml": ""}, late="from toy import make\ndef build():\n    import toy\n    return toy.make()\n"
        )
        command = "import sys; sys.path = [p for p in sys.path if p]; from pytest import console_main; console_main()"
        result = pytester.runpython_c(
            f"import sys; sys.argv = ['pytest', '--lora-ckpt={toy_checkpoint}', '--lora-model=late:build', "
            f"'-p', 'no:benchmark', '-p', 'no:cacheprovider']; {command}"
        )
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["verdict: loads *"])

    @pytest.mark.parametrize("option", ["model", "loader"])
    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            ("toy", "Give `module:name`"),
            ("toy.make", "Give `module:name`"),
            (":make", "Give `module:name`"),
            ("toy:", "Give `module:name`"),
            ("toy:no_such", "the module toy has no no_such"),
            ("no_such_module:make", "cannot import no_such_module"),
            ("toy:INPUTS", "is dict, and should be callable"),
            ("broken:make", "cannot import broken"),
            ("unparsable:make", "cannot import unparsable"),
            ("raising:make", "cannot import raising"),
        ],
    )
    def test_a_wrong_one_is_a_usage_error(  # noqa: PLR0913, PLR0917 - Fixtures and parameters.
        self, audit: Audit, project: Project, toy_checkpoint: Path, option: str, value: str, sentence: str
    ) -> None:
        project(broken="import no_such_module", unparsable="def (", raising="raise ValueError('no GPU')")
        run = audit(f"--lora-ckpt={toy_checkpoint}", f"--lora-{option}={value}", report=False)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert sentence in run.text
        assert "from: command line" in run.text
        assert "Traceback" not in run.text

    def test_a_wrong_one_of_the_ini_file_says_so(self, audit: Audit, project: Project, toy_checkpoint: Path) -> None:
        for value in ("toy", "no_such_module:make"):
            project({"pytest.ini": f"[pytest]\nlora_loader = {value}\n"})
            run = audit(f"--lora-ckpt={toy_checkpoint}", report=False)
            assert run.ret == pytest.ExitCode.USAGE_ERROR
            assert "from: pytest.ini" in run.text

    @pytest.mark.parametrize(
        ("factory", "sentence"),
        [("return None", "None"), ("return {'a': 1}", "a dict of 1"), ("raise ValueError('no GPU')", "no GPU")],
    )
    def test_a_factory_that_gives_no_model(
        self, audit: Audit, project: Project, toy_checkpoint: Path, factory: str, sentence: str
    ) -> None:
        project(my_model=f"def make():\n    {factory}\n")
        run = audit(f"--lora-ckpt={toy_checkpoint}", "--lora-model=my_model:make")
        assert run.ret == pytest.ExitCode.TESTS_FAILED
        assert run.checks["keys"] == "failed"
        assert sentence in run.text
        # A check that could not be made is in the report as well, and told as failed.
        assert {check["name"]: check["outcome"] for check in run.run["checks"]} == run.checks
